"""`python -m unfreeze.export_inference_graph`: the Object Detection API's TF1 script, with `unfreeze export` behind it.

A saved command line continues to work: every flag of the script is accepted, in absl's spellings (one dash or two,
`--flag=value` or `--flag value`, `--noflag`). Flags that request a file that is not written are rejected by name.

The files are those of the Object Detection API's script: frozen_inference_graph.pb (not with --use_side_inputs),
model.ckpt with its .meta, checkpoint, saved_model/ and pipeline.config. The output directory may exist, but nothing in
it is replaced. (The script of the Object Detection API also stops if saved_model/ exists, but overwrites other files.)

Source: object_detection/export_inference_graph.py.
"""

from collections.abc import Sequence
from typing import NoReturn

from unfreeze.cli.od_api_scripts import SIDE_INPUTS, USE_SIDE_INPUTS, Script, run

SCRIPT = Script(
    name="export_inference_graph",
    description=__doc__,
    strings={
        "input_type": "What serving_default accepts: image_tensor, encoded_image_string_tensor or tf_example.",
        "input_shape": "Fixed sizes for image_tensor, as in 1,300,300,3; -1 leaves a size open.",
        "pipeline_config_path": "The pipeline.config of the training.",
        "trained_checkpoint_prefix": "The checkpoint, as in path/to/model.ckpt-1000.",
        "output_directory": "The folder in which the files are written.",
        "config_override": "Text in the format of pipeline.config that is merged over the file.",
        **SIDE_INPUTS,
    },
    booleans={
        **USE_SIDE_INPUTS,
        "write_inference_graph": "Also write the graph in text form, inference_graph.pbtxt.",
    },
    options=("--write-checkpoint", "--format=saved_model"),
    options_without_side_inputs=("--format=frozen_graph",),
    required=("pipeline_config_path", "trained_checkpoint_prefix", "output_directory"),
    unsupported_strings=("additional_output_tensor_names",),
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line of the script, and ends the process with its exit code."""
    run(SCRIPT, arguments)


if __name__ == "__main__":
    main()
