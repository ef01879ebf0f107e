"""Runs a module of this package in a process of its own, whose failure is one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

# `ValueError: …` at the end of a traceback, with or without the module of the exception.
EXCEPTION_LINE = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Fail|Interrupt)\w*): ?(.*)$")


class ChildProcessError(Exception):
    """The process failed; the text is one line about the cause."""


def run_module(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs `python -m module arguments…`, and waits for its end; its output is dropped.

    Raises: ChildProcessError: it ended with an error or by a signal.
    """
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})},
        check=False,
    )
    if ended.returncode:
        raise ChildProcessError(_cause(ended.returncode, ended.stderr))


def _cause(code: int, errors: str) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        return f"its process was ended by {name}" + (f" ({lines[-1][:300]})" if lines else "")
    matches = [match for line in lines if (match := EXCEPTION_LINE.match(line))]
    if matches:
        kind, text = matches[-1].groups()
        return f"{kind}: {text[:300]}" if text else kind
    return lines[-1][:300] if lines else f"its process ended with exit code {code}"
