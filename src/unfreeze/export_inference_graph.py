"""`python -m unfreeze.export_inference_graph`: the flags of the TF1 script, the work of `unfreeze export`.

A saved command line goes on working: every flag of the original is known, in absl's spellings (one dash or
two, `--flag=value` or `--flag value`, `--noflag`). Flags that ask for what is not written are refused by name.

The output directory may exist, as it might for the original, but nothing in it is replaced: the original
too stopped at a `saved_model` that was there already (its other files it wrote over). A frozen graph and
a copy of the checkpoint are not written: the SavedModel holds the weights itself.

Source: object_detection/export_inference_graph.py.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

from unfreeze import cli
from unfreeze.errors import UnfreezeError, UnsupportedError
from unfreeze.terminal import leave

# Passed on as they are; the flags of `unfreeze export` have the same names.
STRINGS = {
    "input_type": "What the default signature takes: image_tensor, encoded_image_string_tensor or tf_example.",
    "input_shape": "Fixed sizes for image_tensor, as in 1,300,300,3; -1 leaves one open.",
    "pipeline_config_path": "The pipeline.config of the training.",
    "trained_checkpoint_prefix": "The checkpoint, as in path/to/model.ckpt-1000.",
    "output_directory": "Where saved_model/ is written.",
    "config_override": "Text of a pipeline.config, merged over the file.",
    "side_input_shapes": "Shapes of the side inputs with / between them, as in 1,2000,2057/1; -1 leaves a size open.",
    "side_input_types": "Their types, as in float,int.",
    "side_input_names": "Their names, as in context_features,valid_context_size.",
}
BOOLEANS = {"use_side_inputs": "Take what a Context R-CNN needs besides pictures, as the next three flags tell it."}
REQUIRED = ("pipeline_config_path", "trained_checkpoint_prefix", "output_directory")

# Known, so that they can be refused by name: they ask for other files or outputs.
REFUSED_STRINGS = ("additional_output_tensor_names",)
REFUSED_BOOLEANS = ("write_inference_graph",)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Carry out a command line of the original script, and end the process with the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> int | None:
        translated = export_arguments(given)
        try:
            return cli.dispatch(translated) if translated else None
        except UnfreezeError as error:
            raise type(error)(in_its_flags(str(error))) from error

    leave(work, given)


def export_arguments(given: Sequence[str]) -> list[str]:
    """The same command line for `unfreeze export`; empty when only help was asked for, and printed.

    Raises: UnsupportedError for a refused flag, UnfreezeError for a flag that is wrong, missing or unknown.
    """
    known = flags_of_the_original()
    try:
        left_over = known(["export_inference_graph", *given])[1:]
    except flags.Error as error:
        raise UnfreezeError(f"{error} (see python -m unfreeze.export_inference_graph --help)") from None
    if known.help:
        print(__doc__, *(f"  --{name}: {known[name].help}" for name in known), sep="\n")
        return []
    for name in (*REFUSED_BOOLEANS, *REFUSED_STRINGS):
        if known[name].value:
            raise UnsupportedError(f"not supported yet: --{name}; leave it away to export the model without it")
    if (
        known.use_side_inputs
    ):  # the original's documentation writes `--use_side_inputs True`, whose second word is nothing
        left_over = [argument for argument in left_over if argument.lower() != "true"]
    if left_over:
        raise UnfreezeError(f"unexpected argument {left_over[0]!r}: every value belongs to a flag, as in --flag=value")
    for name in REQUIRED:
        if not known[name].value:
            raise UnfreezeError(f"--{name} is missing (see python -m unfreeze.export_inference_graph --help)")
    switches = (f"--{name}" for name in BOOLEANS if known[name].value)
    return ["export", *switches, *(f"--{name}={known[name].value}" for name in STRINGS if known[name].value)]


def in_its_flags(message: str) -> str:
    """An error of `unfreeze export` that advises only what this script takes."""
    for name in (*BOOLEANS, *STRINGS):
        message = message.replace("--" + name.replace("_", "-"), f"--{name}")
    return message.replace("give --overwrite, or another", "remove it, or give another")


def flags_of_the_original() -> flags.FlagValues:
    """The script's flags, in a set of their own: TensorFlow's and pytest's flags live in the global one."""
    known = flags.FlagValues()
    known.set_gnu_getopt(True)  # as TensorFlow's own: flags may follow an argument
    for name, told in STRINGS.items():
        flags.DEFINE_string(name, None, told, flag_values=known)
    for name in REFUSED_STRINGS:
        flags.DEFINE_string(name, None, "Not supported yet.", flag_values=known)
    for name, told in BOOLEANS.items():
        flags.DEFINE_boolean(name, False, told, flag_values=known)
    for name in REFUSED_BOOLEANS:
        flags.DEFINE_boolean(name, False, "Not supported yet.", flag_values=known)
    flags.DEFINE_boolean("help", False, "Show this message and exit.", short_name="h", flag_values=known)
    return known


if __name__ == "__main__":
    main()
