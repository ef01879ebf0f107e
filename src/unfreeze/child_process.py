"""Runs modules of this package in processes of their own, and says in one line why one ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from unfreeze.errors import UnfreezeError
from unfreeze.formatting import first_line


class ModuleError(Exception):
    """A module failed in its process; the text is one line about the cause."""


def run_module(module: str, arguments: Sequence[str]) -> None:
    """Runs `python -m module arguments…`, whose main program is `report_errors`, and waits for its end.

    Raises: ModuleError: it ended with an error or by a signal.
    """
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment(),
        check=False,
    )
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    last = lines[-1][:300] if lines else "it printed nothing"
    if ended.returncode == 1:
        raise ModuleError(last)
    if ended.returncode:
        raise ModuleError(f"its process {exit_description(ended.returncode)} ({last})")


def report_errors(main: Callable[..., None]) -> None:
    """Calls `main` with the arguments of the process; an exception becomes the last line on stderr, and exit code 1."""
    try:
        main(*sys.argv[1:])
    except Exception as error:
        kind = "" if isinstance(error, UnfreezeError) else f"{type(error).__name__}: "
        sys.exit(f"{kind}{first_line(error)}")


def environment() -> Mapping[str, str]:
    """Returns this process's environment with an absolute import path, and with a quieter TensorFlow."""
    source = Path(__file__).resolve().parents[1]
    path = [str(source), *(os.path.abspath(entry) for entry in sys.path if entry)]
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **({} if find_spec("tf_keras") else {"TF_USE_LEGACY_KERAS": "1"}),  # otherwise TensorFlow imports Keras
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
    }


def exit_description(code: int) -> str:
    """Returns how a process ended, for the exit code of `subprocess`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
