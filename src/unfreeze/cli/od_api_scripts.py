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

    `strings` and `booleans` are passed on unchanged: the options of `unfreeze export` have the same names. `options`
    are added for the files that the script always writes, and others if it has no side inputs. The unsupported flags
    request other outputs; they are known in order to be rejected by name.
    """

    name: str
    description: str
    strings: Mapping[str, str]
    booleans: Mapping[str, str]
    required: Sequence[str]
    options: Sequence[str] = field(default=())
    options_without_side_inputs: Sequence[str] = field(default=())
    unsupported_strings: Sequence[str] = field(default=())
    unsupported_booleans: Sequence[str] = field(default=())


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
    positional = parse_flags(values, script.name, arguments)
    if values.help:
        print_flags(values, script.description)
        return []
    for name in (*script.unsupported_booleans, *script.unsupported_strings):
        if values[name].value:
            raise UnsupportedError(f"not supported yet: --{name}; remove it to export the model without it")
    # The Object Detection API's documentation writes `--use_side_inputs True`, whose second word means nothing.
    require_flags(values, script.name, positional, script.required, allow_true=values.use_side_inputs)
    switches = (f"--{name}" for name in script.booleans if values[name].value)
    options = [*script.options, *([] if values.use_side_inputs else script.options_without_side_inputs)]
    strings = (f"--{name}={values[name].value}" for name in script.strings if values[name].value)
    return ["export", *options, *switches, *strings]


def parse_flags(values: flags.FlagValues, name: str, arguments: Sequence[str]) -> list[str]:
    """Parses the command line of the script `name` into `values`, and returns the arguments that are no flags.

    Raises: UnfreezeError for a flag that is wrong or unknown.
    """
    try:
        positional: list[str] = values([name, *arguments])[1:]
    except flags.Error as error:
        raise UnfreezeError(f"{error} {see_help(name)}") from None
    return positional


def print_flags(values: flags.FlagValues, description: str) -> None:
    """Prints the help of a script."""
    print(description, *(f"  --{name}: {values[name].help}" for name in values), sep="\n")


def require_flags(
    values: flags.FlagValues, name: str, positional: Sequence[str], required: Sequence[str], *, allow_true: bool
) -> None:
    """Raises UnfreezeError if a required flag is missing, or if an argument belongs to no flag.

    `allow_true`: whether the word `true` is accepted, as after a boolean flag.
    """
    unexpected = [argument for argument in positional if not (allow_true and argument.lower() == "true")]
    if unexpected:
        raise UnfreezeError(f"unexpected argument {unexpected[0]!r}: every value belongs to a flag, as in --flag=value")
    for flag in required:
        if not values[flag].value:
            raise UnfreezeError(f"--{flag} is missing {see_help(name)}")


def see_help(name: str) -> str:
    """Returns the hint at the help of the script `name`."""
    return f"(see python -m unfreeze.{name} --help)"


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
