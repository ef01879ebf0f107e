"""The commands in the docs: each one parses, and those that need nothing from elsewhere run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import pytest
from docs_pages import PAGES, ROOT, Command, commands

from unfreeze import cli

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
        name, found, arguments = parsed.resolve_command(context, arguments)
        assert found is not None, name
        parsed = found
    parsed.make_context(parsed.name, arguments)  # raises click.UsageError


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_commands_in_docs_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a page from top to bottom in an empty folder that has `examples/`, as its reader would."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    failures = {
        name_of(command): code
        for command in commands(page)
        if command.arguments[0] == "unfreeze" and command.is_runnable
        if (code := cli.dispatch(list(command.arguments[1:])))
    }
    assert failures == {}
