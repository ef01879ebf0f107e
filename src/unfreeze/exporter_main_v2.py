"""`python -m unfreeze.exporter_main_v2`: the Object Detection API's TF2 script, with `unfreeze export` behind it.

A saved command line continues to work: every flag of the script is accepted, in absl's spellings (one dash or two,
`--flag=value` or `--flag value`, `--noflag`). Flags that request a file that is not written are rejected by name.

The complete checkpoint with the highest number in --trained_checkpoint_dir is exported; a prefix such as path/ckpt-8 is
accepted too. The output directory may exist, but nothing in it is replaced. As with the Object Detection API,
saved_model/, pipeline.config and checkpoint/ are written to it.

Source: object_detection/exporter_main_v2.py.
"""

from collections.abc import Sequence
from typing import NoReturn

from unfreeze.cli.od_api_scripts import SIDE_INPUTS, USE_SIDE_INPUTS, Script, run

SCRIPT = Script(
    name="exporter_main_v2",
    description=__doc__,
    strings={
        "input_type": "What serving_default accepts: image_tensor, float_image_tensor, encoded_image_string_tensor, "
        "tf_example or image_and_boxes_tensor.",
        "pipeline_config_path": "The pipeline.config of the training.",
        "trained_checkpoint_dir": "The training folder, or a folder with an exported ckpt-0.",
        "output_directory": "The folder in which the files are written.",
        "config_override": "Text in the format of pipeline.config that is merged over the file.",
        **SIDE_INPUTS,
    },
    booleans=USE_SIDE_INPUTS,
    options=("--write-checkpoint",),
    required=("pipeline_config_path", "trained_checkpoint_dir", "output_directory"),
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line of the script, and ends the process with its exit code."""
    run(SCRIPT, arguments)


if __name__ == "__main__":
    main()
