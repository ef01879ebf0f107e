"""How a command behaves in a terminal: one line for an error, an exit code, progress, and no other lines on stderr."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn

from unfreeze.callbacks import OnAdvance, OnMessage
from unfreeze.cli.quiet_tensorflow import quiet_imports
from unfreeze.errors import UnfreezeError
from unfreeze.formatting import first_line

if TYPE_CHECKING:
    from rich.console import Console

    from unfreeze.verification import Report

INTERRUPTED = 130  # 128 + SIGINT, as shells count
UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h: the fault is ours, not the input's
REPORT_IT = " (this is a fault of unfreeze: please report it with the output of UNFREEZE_TRACEBACK=1)"
STARTING = "starting"


class LogLevel(IntEnum):
    """How much a command prints on stderr. The values are those of `logging`."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = logging.WARNING
    ERROR = logging.ERROR


_log_level: LogLevel | None = None


def set_log_level(name: str | None) -> None:
    """Sets the log level of this process by its name, as in `--log-level`; None is the default of each command."""
    global _log_level
    _log_level = LogLevel[name.upper()] if name else None


def log_level(default: LogLevel = LogLevel.WARNING) -> LogLevel:
    """Returns the log level that the user chose, or the command's default."""
    return default if _log_level is None else _log_level


def quiet_tensorflow() -> Any:
    """Returns a context in which TensorFlow is imported without its own log, unless the log level is debug."""
    return quiet_imports(show_log=log_level() == LogLevel.DEBUG)


# Exit codes and signals.


def run_and_exit(work: Callable[[], int | None], arguments: Sequence[str]) -> NoReturn:
    """Runs `work`, prints an error in one line, and ends the process with the exit code that belongs to it."""
    with signals_as_exits():
        code = run(work, arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # Python flushes once more at its end and would complain there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(work: Callable[[], int | None], arguments: Sequence[str]) -> int:
    """Returns the exit code of `work`.

    0: done. 1: a check failed. 2: bad input. 70: an error in this program. 130: Ctrl-C.
    """
    try:
        return work() or 0
    except BrokenPipeError:  # `unfreeze inspect … | head`: the reader has seen enough
        return 0
    except KeyboardInterrupt:
        print_line("interrupted")
        return INTERRUPTED
    except UnfreezeError as error:
        print_traceback_if_requested(arguments)
        print_line(f"error: {error}")
        return error.exit_code
    except Exception as error:
        printed = print_traceback_if_requested(arguments)
        message = first_line(error) if str(error).strip() else "no message"
        print_line(f"error: unexpected {type(error).__name__}: {message}{'' if printed else REPORT_IT}")
        return UNEXPECTED


# The signals received that end this process. Python raises in the middle of whatever runs, which may be code of a
# library that drops every exception: so each new step of the work checks again.
_signals_received: list[int] = []


def end_if_signaled() -> None:
    """Ends the work if the process has received a signal that ends it.

    Raises: KeyboardInterrupt, or SystemExit with 128 + signal.
    """
    if not _signals_received:
        return
    if _signals_received[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + _signals_received[0])


@contextmanager
def signals_as_exits() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP end the work as Ctrl-C does, which removes unfinished files: 128 + signal.

    A signal that is handled or ignored already, as under `nohup`, is left alone.
    """

    def stop(number: int, frame: object) -> None:
        _signals_received.append(number)
        end_if_signaled()

    names = ("SIGINT", "SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    default = (signal.SIG_DFL, signal.default_int_handler)
    replaced = {number: handler for number in numbers if (handler := signal.getsignal(number)) in default}
    for number in replaced:
        signal.signal(number, stop)
    try:
        yield
    finally:
        _signals_received.clear()
        for number, handler in replaced.items():
            signal.signal(number, handler)


def print_traceback_if_requested(arguments: Sequence[str]) -> bool:
    """Prints the traceback if `--traceback` or UNFREEZE_TRACEBACK requests it, and returns whether it did.

    It reads the unparsed arguments, so that it also works for a command line that cannot be parsed.
    """
    requested = "--traceback" in arguments or os.environ.get("UNFREEZE_TRACEBACK", "") not in ("", "0")
    if requested:
        traceback.print_exc()
    return requested


# Lines, steps and results.


def print_line(line: str) -> None:
    """Prints a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_warning(warning: str) -> None:
    """Prints a warning on stderr, unless the log level is error."""
    if log_level() <= LogLevel.WARNING:
        print_line(f"warning: {warning}")


def print_result(result: Any, text: str, *, as_json: bool = False, quiet: bool = False) -> None:
    """Prints the result of a command on stdout: as JSON, as text, or not at all."""
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False), flush=True)
    elif text and not quiet:
        print(text, flush=True)


def format_report(report: Report) -> str:
    """Returns the table of a verification, as wide as the terminal."""
    return report.table(width=max(80, shutil.get_terminal_size((110, 0)).columns), color=sys.stdout.isatty())


@contextmanager
def progress(quiet: bool) -> Iterator[tuple[OnMessage, OnMessage]]:
    """Yields two functions: one shows the step that begins (on a terminal, or with --log-level info), one warns."""
    if not shows_live_progress(quiet):
        yield step_of(print_line if log_level() <= LogLevel.INFO else lambda step: None), print_warning
        return
    with own_console() as console, console.status(STARTING) as status:
        yield step_of(lambda step: status.update(plain(step))), lambda warning: print_above(console, warning)


@contextmanager
def counting(quiet: bool) -> Iterator[tuple[OnMessage, OnMessage, OnAdvance]]:
    """Yields the functions of `progress`, and one that shows how many images of how many are done, as a bar."""
    if not shows_live_progress(quiet):
        with progress(quiet=True) as (on_progress, on_warning):
            yield on_progress, on_warning, lambda number, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with own_console() as console, Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(STARTING, total=None)
        yield (
            step_of(lambda step: bar.update(task, description=step)),
            lambda warning: print_above(bar.console, warning),
            lambda number, total: bar.update(task, completed=number, total=total, description="images"),
        )


def shows_live_progress(quiet: bool) -> bool:
    """Whether stderr is a terminal on which a line may change; with TensorFlow's log in between it may not."""
    return not quiet and log_level() > LogLevel.DEBUG and sys.stderr.isatty()


@contextmanager
def own_console() -> Iterator[Console]:
    """Yields a console with a file descriptor of its own: stderr itself is redirected while TensorFlow is imported."""
    from rich.console import Console

    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as file:
        yield Console(file=file)


def print_above(console: Console, warning: str) -> None:
    """Prints a warning above the line that shows the progress."""
    if log_level() <= LogLevel.WARNING:
        console.print(plain(f"warning: {warning}"), soft_wrap=True)


def plain(text: str) -> Any:
    """Returns a text for rich in which brackets mean nothing."""
    from rich.text import Text

    return Text(text)


def step_of(show: OnMessage) -> OnMessage:
    """Returns a function that shows a step, and ends the work there if a signal that ends it has been received."""

    def on_progress(step: str) -> None:
        end_if_signaled()
        show(step)

    return on_progress


def log_to_stderr(name: str) -> None:
    """Prints what a logger logs from now on, with the time: for a command that runs for days."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger(name).addHandler(handler)
    logging.getLogger(name).setLevel(log_level(LogLevel.INFO))
