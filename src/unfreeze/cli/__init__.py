"""The command `unfreeze`: a module for each command, which is imported when the command line names it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

import click

from unfreeze.cli.options import CONTEXT_SETTINGS
from unfreeze.cli.terminal import run_and_exit
from unfreeze.version import __version__


class CommandSource(NamedTuple):
    """Where a command is: the heading of `--help` that lists it, and its module in this package."""

    section: str
    module: str


COMMANDS = {
    "export": CommandSource("Export", "export"),
    "demo": CommandSource("Export", "demo"),
    "inspect": CommandSource("Check", "inspect"),
    "verify": CommandSource("Check", "verify"),
    "diff": CommandSource("Check", "diff"),
    "evaluate": CommandSource("Check", "evaluate"),
    "benchmark": CommandSource("Check", "benchmark"),
    "predict": CommandSource("Use", "predict"),
    "serve": CommandSource("Use", "serve"),
    "package": CommandSource("Deploy", "package"),
    "publish": CommandSource("Deploy", "publish"),
    "watch": CommandSource("Deploy", "watch"),
    "rollback": CommandSource("Deploy", "publish"),
    "prune": CommandSource("Deploy", "publish"),
    "labels": CommandSource("Deploy", "publish"),
}


class Commands(click.Group):
    """The commands of COMMANDS, imported by name, and listed in sections by `--help`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        source = COMMANDS.get(cmd_name)
        if source is None:
            return None
        found: click.Command = getattr(import_module(f"unfreeze.cli.{source.module}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one list of commands a section, each with the first sentence of its help."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, source in COMMANDS.items():
            command = self.get_command(ctx, name)
            assert command is not None
            sections.setdefault(source.section, []).append((name, command.get_short_help_str(limit=formatter.width)))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.group(cls=Commands, invoke_without_command=True, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="unfreeze")
@click.option("--traceback", is_flag=True, expose_value=False, help="Print the Python traceback of an error.")
@click.pass_context
def unfreeze(context: click.Context) -> None:
    """Export TensorFlow object detection checkpoints as SavedModels that are unfrozen, verified and ready to serve."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line (default: the process's own), and ends the process with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    run_and_exit(lambda: dispatch(arguments), arguments)


def dispatch(arguments: Sequence[str]) -> int | None:
    """Runs a command line and returns its exit code. Click's own `main` would print an empty line at Ctrl-C."""
    try:
        with unfreeze.make_context("unfreeze", list(arguments)) as context:
            code: int | None = unfreeze.invoke(context)
            return code
    except click.exceptions.Exit as finished:
        return finished.exit_code
    except click.ClickException as error:
        context_of_error = getattr(error, "ctx", None)
        see = f" (see {context_of_error.command_path} --help)" if context_of_error else ""
        click.echo(f"error: {error.format_message()}{see}", err=True)
        return error.exit_code
