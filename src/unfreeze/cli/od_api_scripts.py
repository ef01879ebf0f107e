"""The original's scripts: their flags, the work of `unfreeze export`.

A saved command line goes on working: every flag of the original is known, in absl's spellings (one dash or two,
`--flag=value` or `--flag value`, `--noflag`). Flags that ask for what is not written are refused by name.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from absl import flags

from unfreeze import cli
from unfreeze.cli.terminal import leave
from unfreeze.errors import UnfreezeError, UnsupportedError

SIDE_INPUTS = {
    "side_input_shapes": "Shapes of the side inputs with / between them, as in 1,2000,2057/1; -1 leaves a size open.",
    "side_input_types": "Their types, as in float,int.",
    "side_input_names": "Their names, as in context_features,valid_context_size.",
}
USE_SIDE_INPUTS = {
    "use_side_inputs": "Take what a Context R-CNN needs besides pictures, as the next three flags tell it."
}


@dataclass(frozen=True)
class Script:
    """A script of the original: its module's name, what it does, and its flags with what they mean.

    `strings` and `booleans` are passed on as they are: the flags of `unfreeze export` have the same names. The refused
    ones are known so that they can be refused by name: they ask for other files or outputs.
    """

    name: str
    told: str
    strings: Mapping[str, str]
    booleans: Mapping[str, str]
    required: Sequence[str]
    refused_strings: Sequence[str] = field(default=())
    refused_booleans: Sequence[str] = field(default=())

    @property
    def see_help(self) -> str:
        return f"(see python -m unfreeze.{self.name} --help)"


def run(script: Script, arguments: Sequence[str] | None = None) -> NoReturn:
    """Carry out a command line of the original script, and end the process with the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> int | None:
        translated = export_arguments(script, given)
        try:
            return cli.dispatch(translated) if translated else None
        except UnfreezeError as error:
            raise type(error)(in_its_flags(script, str(error))) from error

    leave(work, given)


def export_arguments(script: Script, given: Sequence[str]) -> list[str]:
    """The same command line for `unfreeze export`; empty when only help was asked for, and printed.

    Raises: UnsupportedError for a refused flag, UnfreezeError for a flag that is wrong, missing or unknown.
    """
    known = flags_of_the_original(script)
    try:
        left_over = known([script.name, *given])[1:]
    except flags.Error as error:
        raise UnfreezeError(f"{error} {script.see_help}") from None
    if known.help:
        print(script.told, *(f"  --{name}: {known[name].help}" for name in known), sep="\n")
        return []
    for name in (*script.refused_booleans, *script.refused_strings):
        if known[name].value:
            raise UnsupportedError(f"not supported yet: --{name}; leave it away to export the model without it")
    if known.use_side_inputs:
        # The original's documentation writes `--use_side_inputs True`, whose second word is nothing.
        left_over = [argument for argument in left_over if argument.lower() != "true"]
    if left_over:
        raise UnfreezeError(f"unexpected argument {left_over[0]!r}: every value belongs to a flag, as in --flag=value")
    for name in script.required:
        if not known[name].value:
            raise UnfreezeError(f"--{name} is missing {script.see_help}")
    switches = (f"--{name}" for name in script.booleans if known[name].value)
    return ["export", *switches, *(f"--{name}={known[name].value}" for name in script.strings if known[name].value)]


def in_its_flags(script: Script, message: str) -> str:
    """An error of `unfreeze export` that advises only what this script takes."""
    for name in (*script.booleans, *script.strings):
        message = message.replace("--" + name.replace("_", "-"), f"--{name}")
    return message.replace("give --overwrite, or another", "remove it, or give another")


def flags_of_the_original(script: Script) -> flags.FlagValues:
    """The script's flags, in a set of their own: TensorFlow's and pytest's flags live in the global one."""
    known = flags.FlagValues()
    known.set_gnu_getopt(True)  # as TensorFlow's own: flags may follow an argument
    for name, told in script.strings.items():
        flags.DEFINE_string(name, None, told, flag_values=known)
    for name in script.refused_strings:
        flags.DEFINE_string(name, None, "Not supported yet.", flag_values=known)
    for name, told in script.booleans.items():
        flags.DEFINE_boolean(name, False, told, flag_values=known)
    for name in script.refused_booleans:
        flags.DEFINE_boolean(name, False, "Not supported yet.", flag_values=known)
    flags.DEFINE_boolean("help", False, "Show this message and exit.", short_name="h", flag_values=known)
    return known
