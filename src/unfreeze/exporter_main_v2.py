"""`python -m unfreeze.exporter_main_v2`: the flags of the TF2 script, the work of `unfreeze export`.

A saved command line goes on working: every flag of the original is known, in absl's spellings (one dash or
two, `--flag=value` or `--flag value`, `--noflag`). What is not written is refused by name.

The newest complete checkpoint in --trained_checkpoint_dir is exported, by the number at its end; a prefix
such as path/ckpt-8 is taken too. The output directory may exist, but nothing in it is replaced. It gets
saved_model/ and pipeline.config as from the original, but no checkpoint/: that is a copy of the checkpoint
without its optimizer, and a training can start from the checkpoint itself.

Source: object_detection/exporter_main_v2.py.
"""

from collections.abc import Sequence
from typing import NoReturn

from unfreeze.cli.od_api_scripts import SIDE_INPUTS, USE_SIDE_INPUTS, Script, run

SCRIPT = Script(
    name="exporter_main_v2",
    told=__doc__,
    strings={
        "input_type": "What the default signature takes: image_tensor, float_image_tensor, "
        "encoded_image_string_tensor, tf_example or image_and_boxes_tensor.",
        "pipeline_config_path": "The pipeline.config of the training.",
        "trained_checkpoint_dir": "The training folder, or a folder with an exported ckpt-0.",
        "output_directory": "Where saved_model/ and pipeline.config are written.",
        "config_override": "Text of a pipeline.config, merged over the file.",
        **SIDE_INPUTS,
    },
    booleans=USE_SIDE_INPUTS,
    required=("pipeline_config_path", "trained_checkpoint_dir", "output_directory"),
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Carry out a command line of the original script, and end the process with the exit code."""
    run(SCRIPT, arguments)


if __name__ == "__main__":
    main()
