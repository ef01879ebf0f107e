"""`python -m unfreeze.export_inference_graph`: the flags of the TF1 script, the work of `unfreeze export`.

A saved command line goes on working: every flag of the original is known, in absl's spellings (one dash or
two, `--flag=value` or `--flag value`, `--noflag`). Flags that ask for what is not written are refused by name.

The output directory may exist, as it might for the original, but nothing in it is replaced: the original
too stopped at a `saved_model` that was there already (its other files it wrote over). A frozen graph and
a copy of the checkpoint are not written: the SavedModel holds the weights itself.

Source: object_detection/export_inference_graph.py.
"""

from collections.abc import Sequence
from typing import NoReturn

from unfreeze.cli.od_api_scripts import SIDE_INPUTS, USE_SIDE_INPUTS, Script, run

SCRIPT = Script(
    name="export_inference_graph",
    told=__doc__,
    strings={
        "input_type": "What the default signature takes: image_tensor, encoded_image_string_tensor or tf_example.",
        "input_shape": "Fixed sizes for image_tensor, as in 1,300,300,3; -1 leaves one open.",
        "pipeline_config_path": "The pipeline.config of the training.",
        "trained_checkpoint_prefix": "The checkpoint, as in path/to/model.ckpt-1000.",
        "output_directory": "Where saved_model/ is written.",
        "config_override": "Text of a pipeline.config, merged over the file.",
        **SIDE_INPUTS,
    },
    booleans=USE_SIDE_INPUTS,
    required=("pipeline_config_path", "trained_checkpoint_prefix", "output_directory"),
    refused_strings=("additional_output_tensor_names",),
    refused_booleans=("write_inference_graph",),
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Carry out a command line of the original script, and end the process with the exit code."""
    run(SCRIPT, arguments)


if __name__ == "__main__":
    main()
