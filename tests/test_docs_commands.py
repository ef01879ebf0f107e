"""The commands in the docs: each one parses, and those that need nothing from elsewhere run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from docs_pages import PAGES, ROOT, Command, commands

from unfreeze import cli

EXPORT_DIGITS = (
    "unfreeze", "export", "examples/digits/run", "--label-map", "examples/digits/label_map.pbtxt", "--output-directory",
    "build/digits",
)  # fmt: skip
EVERY_COMMAND = [command for page in PAGES for command in commands(page)]


def name_of(command: Command) -> str:
    return f"{command.page}:{command.line}"


@pytest.mark.parametrize(
    "command", [command for command in EVERY_COMMAND if command.arguments[0] == "unfreeze"], ids=name_of
)
def test_command_in_docs_parses(command: Command) -> None:
    context = click.Context(cli.unfreeze)
    parsed: click.Command = cli.unfreeze
    arguments = list(command.arguments[1:])
    while isinstance(parsed, click.Group):
        name, command, arguments = parsed.resolve_command(context, arguments)
        assert command is not None, name
        parsed = command
    parsed.make_context(parsed.name, arguments)  # raises click.UsageError


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export that most pages begin with, build/digits."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "examples", folder / "examples")
    assert run(EXPORT_DIGITS, folder) == ""
    return folder / "build" / "digits"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(command.is_runnable for command in commands(page))],
    ids=lambda page: page.stem,
)
def test_commands_in_docs_run(page: Path, digits: Path, tmp_path: Path) -> None:
    """Runs a page from top to bottom in an empty folder that has `examples/` and `build/digits`."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(digits, tmp_path / "build" / "digits")
    runnable = [command for command in commands(page) if command.is_runnable and command.arguments != EXPORT_DIGITS]
    failures = {name_of(command): error for command in runnable if (error := run(command.arguments, tmp_path))}
    assert failures == {}


def run(arguments: Sequence[str], folder: Path) -> str:
    """Runs a command in a process of its own; returns what it prints on stderr if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return f"exit code {done.returncode}: {done.stderr}" if done.returncode else ""
