"""The exporter scripts of the Object Detection API: their flags, with `unfreeze export` behind them.

A saved command line continues to work: every flag of the script is accepted, in absl's spellings (one dash or two,
`--flag=value` or `--flag value`, `--noflag`). Flags that request a file or an output that unfreeze does not write are
rejected by name.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from absl import flags

from unfreeze import cli
from unfreeze.cli.terminal import run_and_exit
from unfreeze.errors import UnfreezeError, UnsupportedError

SIDE_INPUTS = {
    "side_input_shapes": "Shapes of the side inputs with / between them, as in 1,2000,2057/1; -1 leaves a size open.",
    "side_input_types": "Types of the side inputs, as in float,int.",
    "side_input_names": "Names of the side inputs, as in context_features,valid_context_size.",
}
USE_SIDE_INPUTS = {
    "use_side_inputs": "Fix the inputs that a Context R-CNN has besides images, as the side_input flags describe them."
}
NOT_SUPPORTED = "Not supported yet."


@dataclass(frozen=True)
class Script:
    """A script of the Object Detection API: the name of its module here, its help text, and its flags with theirs.

    `strings` and `booleans` are passed on unchanged: the options of `unfreeze export` have the same names. The
    unsupported flags request other files or outputs; they are known in order to be rejected by name.
    """

    name: str
    description: str
    strings: Mapping[str, str]
    booleans: Mapping[str, str]
    required: Sequence[str]
    unsupported_strings: Sequence[str] = field(default=())
    unsupported_booleans: Sequence[str] = field(default=())

    @property
    def see_help(self) -> str:
        return f"(see python -m unfreeze.{self.name} --help)"


def run(script: Script, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line of the script, and ends the process with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> int | None:
        translated = export_arguments(script, arguments)
        try:
            return cli.dispatch(translated) if translated else None
        except UnfreezeError as error:
            raise type(error)(with_script_flags(script, str(error))) from error

    run_and_exit(work, arguments)


def export_arguments(script: Script, arguments: Sequence[str]) -> list[str]:
    """Returns the same command line for `unfreeze export`; an empty one if it requests help, which is then printed.

    Raises: UnsupportedError for an unsupported flag; UnfreezeError for a flag that is wrong, missing or unknown.
    """
    values = script_flags(script)
    try:
        positional = values([script.name, *arguments])[1:]
    except flags.Error as error:
        raise UnfreezeError(f"{error} {script.see_help}") from None
    if values.help:
        print(script.description, *(f"  --{name}: {values[name].help}" for name in values), sep="\n")
        return []
    for name in (*script.unsupported_booleans, *script.unsupported_strings):
        if values[name].value:
            raise UnsupportedError(f"not supported yet: --{name}; remove it to export the model without it")
    if values.use_side_inputs:
        # The Object Detection API's documentation writes `--use_side_inputs True`, whose second word means nothing.
        positional = [argument for argument in positional if argument.lower() != "true"]
    if positional:
        raise UnfreezeError(f"unexpected argument {positional[0]!r}: every value belongs to a flag, as in --flag=value")
    for name in script.required:
        if not values[name].value:
            raise UnfreezeError(f"--{name} is missing {script.see_help}")
    switches = (f"--{name}" for name in script.booleans if values[name].value)
    return ["export", *switches, *(f"--{name}={values[name].value}" for name in script.strings if values[name].value)]


def with_script_flags(script: Script, message: str) -> str:
    """Returns an error message of `unfreeze export` that mentions only flags of this script."""
    for name in (*script.booleans, *script.strings):
        message = message.replace("--" + name.replace("_", "-"), f"--{name}")
    return message.replace("give --overwrite, or another", "remove it, or give another")


def script_flags(script: Script) -> flags.FlagValues:
    """Returns the flags of the script in a set of its own: TensorFlow's and pytest's flags are in the global one."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # as TensorFlow's own: flags may follow an argument
    for name, help_text in script.strings.items():
        flags.DEFINE_string(name, None, help_text, flag_values=values)
    for name in script.unsupported_strings:
        flags.DEFINE_string(name, None, NOT_SUPPORTED, flag_values=values)
    for name, help_text in script.booleans.items():
        flags.DEFINE_boolean(name, False, help_text, flag_values=values)
    for name in script.unsupported_booleans:
        flags.DEFINE_boolean(name, False, NOT_SUPPORTED, flag_values=values)
    flags.DEFINE_boolean("help", False, "Show this message and exit.", short_name="h", flag_values=values)
    return values
