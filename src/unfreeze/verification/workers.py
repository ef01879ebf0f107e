"""The worker processes, seen from the process that waits for them."""

import contextlib
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from unfreeze.errors import UnsupportedError
from unfreeze.verification import worker

T = TypeVar("T")

STACK = re.compile(r"@ +0x|\*\*\* ")  # how TensorFlow's log writes the stack under a fatal line
START_S = 300.0  # importing TensorFlow from a cold disk


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What came of a step: its result, or what went wrong; `unsupported` when it cannot be done on this machine."""

    result: T | None = None
    problem: str = ""
    unsupported: bool = False


class Worker:
    """One process, started at once; it is started again for the next step when one kills it.

    It is a fresh one, or with `copy` a copy of this process, which has imported TensorFlow and not used it yet.
    """

    def __init__(self, kind: str, scratch: Path, timeout_s: float, *, copy: bool = False) -> None:
        self._kind = kind
        with tempfile.NamedTemporaryFile(prefix=kind, suffix=".stderr", dir=scratch, delete=False) as errors:
            self._errors = Path(errors.name)
        self._scratch = scratch
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, f"unfreeze-{kind}")
        self._process: Copy | subprocess.Popen[bytes] = Copy(kind, self._errors, scratch) if copy else self._spawn()
        self._ready: Reply[Any] | None = None
        self._closed = False
        self._change = threading.Lock()  # held while a process takes the place of a dead one

    def ask(self, step: str, *arguments: object) -> "Future[Reply[Any]]":
        """Queue a step; the future never raises."""
        return self._thread.submit(self._do, step, arguments)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with self._change:
            self._closed = True
            self._process.kill()
        self._thread.shutdown(wait=True)
        self._end()

    def _do(self, step: str, arguments: tuple[object, ...]) -> Reply[Any]:
        with self._change:
            if self._closed:
                return Reply(problem="the verification was broken off")
            if self._process.poll() is not None:
                self._end()
                self._process, self._ready = self._spawn(), None
        self._ready = self._ready or self._receive(START_S)
        if self._ready.problem:
            return self._ready
        try:
            assert self._process.stdin is not None
            pickle.dump((step, arguments), self._process.stdin, protocol=5)
            self._process.stdin.flush()
        except OSError:  # it died meanwhile; what it has to say about that is read next
            pass
        return self._receive(self._timeout_s)

    def _receive(self, timeout_s: float) -> Reply[Any]:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            assert self._process.stdout is not None
            result, problem, kind = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            self._ready = None
            if late.is_set():
                return Reply(problem=f"no answer within {timeout_s:g} s")
            return Reply(problem=f"the process {_ending(code)}: {self._last_words()}")
        finally:
            timer.cancel()
        return Reply(result, problem or "", kind == UnsupportedError.__name__)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self._errors.open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "unfreeze.verification.worker", self._kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._scratch,  # an empty folder: nothing in it can be imported by mistake
                env=_environment(),
            )

    def _end(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._errors.read_text("utf-8", "replace").splitlines()]
        words = [line for line in lines if line and not STACK.match(line)]
        return words[-1][:300] if words else "it said nothing"


class Copy:
    """A copy of this process that serves as a worker; has of `Popen` what a worker's keeper asks for."""

    def __init__(self, kind: str, errors: Path, scratch: Path) -> None:
        requests, stdin = os.pipe()
        stdout, replies = os.pipe()
        self.stdin, self.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")

        def become_worker() -> None:
            for end in (stdin, stdout):
                os.close(end)
            with errors.open("wb") as words:
                for number in (1, 2):
                    os.dup2(words.fileno(), number)
            os.chdir(scratch)
            worker.serve(kind, os.fdopen(requests, "rb"), os.fdopen(replies, "wb"))

        self._process = multiprocessing.get_context("fork").Process(target=become_worker, daemon=True)
        with warnings.catch_warnings():  # of threads: NumPy's and the terminal's are no harm to a copy
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        for end in (requests, replies):
            os.close(end)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def can_copy() -> bool:
    """Whether copies of this process can serve as workers, provided that TensorFlow has not been used in it.

    A GPU is opened as soon as TensorFlow looks for it, and no copy of a process can use one.
    """
    if sys.platform != "linux" or "tensorflow" not in sys.modules:
        return False
    return not sys.modules["tensorflow"].config.list_physical_devices("GPU")


class WorkerProcesses:
    """The worker processes, started at once, so that they get ready while their caller is still busy.

    `with WorkerProcesses() as workers:` … `verify_saved_model(folder, workers=workers)`. They end with the block.
    """

    def __init__(self, timeout_s: float = 600.0, *, unused_tensorflow: bool = False) -> None:
        """Start them; a step that takes longer than `timeout_s` has failed.

        `unused_tensorflow` says that this process has imported TensorFlow, and done nothing with it: where copies of
        such a process can be made, it need not be imported once more, and there are two, one a loader.
        """
        self._scratch = Path(tempfile.mkdtemp(prefix="unfreeze-proof-"))
        copy = unused_tensorflow and can_copy()
        self.tf2 = Worker("tensorflow", self._scratch, timeout_s, copy=copy)
        self.tf1 = Worker("tensorflow", self._scratch, timeout_s, copy=True) if copy else self.tf2
        self.c_api = Worker("c_api", self._scratch, timeout_s)

    def __enter__(self) -> "WorkerProcesses":
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for each in {self.tf2, self.tf1, self.c_api}:
            each.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _environment() -> Mapping[str, str]:
    """This process's, but: its import path made absolute, no GPU (one device for all loaders), a quieter TensorFlow."""
    here = Path(__file__).resolve().parents[2]
    path = [str(here), *(os.path.abspath(entry) for entry in sys.path if entry)]
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "MALLOC_ARENA_MAX": "1",  # glibc: 10 % less memory at the peak, and no slower
        **({} if find_spec("tf_keras") else {"TF_USE_LEGACY_KERAS": "1"}),  # else TensorFlow imports Keras
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        "CUDA_VISIBLE_DEVICES": "-1",
    }


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
