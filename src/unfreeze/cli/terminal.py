"""What a command owes the terminal it runs in: one line for an error, progress for a person, no noise."""

import gc
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import NoReturn

from unfreeze.errors import UnfreezeError
from unfreeze.memory import one_memory_arena

INTERRUPTED = 130  # 128 + SIGINT, as shells count
UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h: the fault is ours, not the input's

Say = Callable[[str], None]


def leave(work: Callable[[], int | None], arguments: Sequence[str]) -> NoReturn:
    """Do `work`, tell an error in one line, and end the process with the exit code that belongs to it."""
    with signals_as_exits():
        code = run(work, arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # Python flushes once more at its end and would complain there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(work: Callable[[], int | None], arguments: Sequence[str]) -> int:
    """The exit code of `work`: 0 done, 1 a check failed, 2 bad input, 70 a fault of this program, 130 Ctrl-C."""
    try:
        return work() or 0
    except BrokenPipeError:  # `unfreeze inspect … | head`: the reader has seen enough
        return 0
    except KeyboardInterrupt:
        tell("interrupted")
        return INTERRUPTED
    except UnfreezeError as error:
        show_traceback_if_asked(arguments)
        tell(f"error: {error}")
        return error.exit_code
    except Exception as error:
        asked = show_traceback_if_asked(arguments)
        tell(f"error: unexpected {type(error).__name__}: {first_line(error)}{'' if asked else REPORT_IT}")
        return UNEXPECTED


# The signals that have asked this process to end. Python raises in the middle of whatever runs, which may be code of a
# library that drops every exception: so each new step of the work asks again.
_asked_to_end: list[int] = []


def end_if_asked() -> None:
    """End the work if a signal has asked for it.

    Raises: KeyboardInterrupt, or SystemExit with 128 + signal.
    """
    if not _asked_to_end:
        return
    if _asked_to_end[0] == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + _asked_to_end[0])


@contextmanager
def signals_as_exits() -> Iterator[None]:
    """SIGTERM and SIGHUP end the work as Ctrl-C does, so that what is half-written is cleared away: code 128 + signal.

    A signal that is handled or ignored already, as `nohup` does, is left alone.
    """

    def stop(number: int, frame: object) -> None:
        _asked_to_end.append(number)
        end_if_asked()

    names = ("SIGINT", "SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    usual = (signal.SIG_DFL, signal.default_int_handler)
    taken = {number: handler for number in numbers if (handler := signal.getsignal(number)) in usual}
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        _asked_to_end.clear()
        for number, handler in taken.items():
            signal.signal(number, handler)


REPORT_IT = " (this is a fault of unfreeze: please report it with what UNFREEZE_TRACEBACK=1 shows)"


def show_traceback_if_asked(arguments: Sequence[str]) -> bool:
    """Read from the raw arguments, so that it works for a command line that could not be parsed as well."""
    asked = "--traceback" in arguments or os.environ.get("UNFREEZE_TRACEBACK", "") not in ("", "0")
    if asked:
        traceback.print_exc()
    return asked


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def progress(quiet: bool) -> Iterator[tuple[Say, Say]]:
    """Two functions: one that begins a step, shown on a terminal (nothing in a pipe), one that prints a warning."""
    if quiet or not sys.stderr.isatty():
        yield beginning(lambda step: None), (lambda warning: tell(f"warning: {warning}"))
        return
    from rich.console import Console
    from rich.text import Text

    # A descriptor of its own: stderr itself is turned aside while TensorFlow is imported.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as own:
        console = Console(file=own)
        with console.status("starting TensorFlow") as status:
            yield (
                beginning(lambda step: status.update(Text(step))),
                lambda warning: console.print(Text(f"warning: {warning}"), soft_wrap=True),
            )


def beginning(show: Say) -> Say:
    """A step is shown, and not begun if a signal has asked to end."""

    def say(step: str) -> None:
        end_if_asked()
        show(step)

    return say


@contextmanager
def counting(quiet: bool) -> Iterator[tuple[Say, Say, Callable[[int, int], None]]]:
    """As `progress`, and a function that shows how much of how much is done, as a bar."""
    if quiet or not sys.stderr.isatty():
        with progress(quiet=True) as (say, warn):
            yield say, warn, lambda number, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="replace") as own,
        Progress(*columns, console=Console(file=own), transient=True) as bar,
    ):
        task = bar.add_task("starting TensorFlow", total=None)
        yield (
            beginning(lambda step: bar.update(task, description=step)),
            lambda warning: bar.console.print(Text(f"warning: {warning}"), soft_wrap=True),
            lambda number, total: bar.update(task, completed=number, total=total, description="pictures"),
        )


def log_to_stderr(name: str) -> None:
    """Show what a logger says from now on, with the time: for a command that runs for days."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger(name).addHandler(handler)
    logging.getLogger(name).setLevel(logging.INFO)


def import_tensorflow_quietly() -> None:
    """Import TensorFlow without the lines its libraries write about themselves.

    `TF_CPP_MIN_LOG_LEVEL` stops most of them, but not those written before the log is set up
    ("cudart_stub", "computation_placer", "All log messages before absl::InitializeLog()"), nor that there is
    no GPU. These come while it is imported and looks for devices, so stderr is turned aside that long.
    Whoever sets the variable sees everything.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.update(leaner())
    one_memory_arena()
    quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with uncollected(), without_h5py(), stderr_turned_aside() if quiet else nullcontext():
        import tensorflow as tf

        tf.config.list_physical_devices()  # without a GPU, this is where CUDA says that there is none
    if quiet:
        tf.get_logger().setLevel("ERROR")


def leaner() -> dict[str, str]:
    """Variables that keep `import tensorflow` from importing Keras, which nothing here uses: 0.2 s, 20 MB."""
    return {} if find_spec("tf_keras") else {"TF_USE_LEGACY_KERAS": "1"}


@contextmanager
def without_h5py() -> Iterator[None]:
    """TensorFlow does without h5py, which it takes for Keras' own files if it is there: 11 MB."""
    hidden = "h5py" not in sys.modules
    if hidden:
        sys.modules["h5py"] = None  # type: ignore[assignment]  # the import system's word for "not there"
    try:
        yield
    finally:
        if hidden:
            del sys.modules["h5py"]


@contextmanager
def uncollected() -> Iterator[None]:
    """What is made meanwhile stays, and no garbage collection ever looks at it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def stderr_turned_aside() -> Iterator[None]:
    """What is written to file descriptor 2 meanwhile is dropped, unless this ends in an error."""
    sys.stderr.flush()
    try:
        original = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except Exception:  # but not Ctrl-C, which needs no explanation
            sys.stderr.flush()
            aside.seek(0)
            os.write(original, aside.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
