"""The worker processes that load and run models, as their parent process sees them."""

import contextlib
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from unfreeze.child_process import environment, exit_description
from unfreeze.verification import worker
from unfreeze.verification.failures import Failure
from unfreeze.verification.steps import Step, WorkerKind

STACK_LINE = re.compile(r"@ +0x|\*\*\* ")  # how TensorFlow's log writes the stack below a fatal line
START_TIMEOUT_S = 300.0  # importing TensorFlow from a cold disk


class Worker:
    """A worker process, started at once; if a step kills it, it is started again for the next step.

    With `fork` it is a fork of this process, which has imported TensorFlow and not used it yet; otherwise a new one.
    """

    def __init__(self, kind: WorkerKind, scratch: Path, timeout_s: float, *, fork: bool = False) -> None:
        self._kind = kind
        with tempfile.NamedTemporaryFile(prefix=kind.value, suffix=".stderr", dir=scratch, delete=False) as errors:
            self._errors = Path(errors.name)
        self._scratch = scratch
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, f"unfreeze-{kind.value}")
        self._process: ForkedProcess | subprocess.Popen[bytes] = (
            ForkedProcess(kind, self._errors, scratch) if fork else self._spawn()
        )
        self._start_reply: Any = None  # "ready", or why the process could not start
        self._is_closed = False
        self._replacing = threading.Lock()  # locked while a new process replaces a dead one

    def submit(self, step: Step, *arguments: object) -> "Future[Any]":
        """Queues a step. The future's result is that of the step, or a `Failure`; it never raises."""
        return self._thread.submit(self._run, step, arguments)

    def close(self) -> None:
        """Ends the process, even if a step is running."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with self._replacing:
            self._is_closed = True
            self._process.kill()
        self._thread.shutdown(wait=True)
        self._reap()

    def _run(self, step: Step, arguments: tuple[object, ...]) -> Any:
        with self._replacing:
            if self._is_closed:
                return Failure("the verification was stopped")
            if self._process.poll() is not None:
                self._reap()
                self._process, self._start_reply = self._spawn(), None
        if self._start_reply is None:
            self._start_reply = self._receive(START_TIMEOUT_S)
        if isinstance(self._start_reply, Failure):
            return self._start_reply
        try:
            assert self._process.stdin is not None
            pickle.dump((step, arguments), self._process.stdin, protocol=5)
            self._process.stdin.flush()
        except OSError:  # the process has ended; why is read next
            pass
        return self._receive(self._timeout_s)

    def _receive(self, timeout_s: float) -> Any:
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            assert self._process.stdout is not None
            return pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            if timed_out.is_set():
                return Failure(f"no response within {timeout_s:g} s")
            return Failure(f"the process {exit_description(code)}: {self._last_error_line()}")
        finally:
            timer.cancel()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self._errors.open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", worker.__name__, self._kind.value],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._scratch,  # an empty folder, from which nothing can be imported by mistake
                env=_environment(),
            )

    def _reap(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _last_error_line(self) -> str:
        lines = [line.strip() for line in self._errors.read_text("utf-8", "replace").splitlines()]
        lines = [line for line in lines if line and not STACK_LINE.match(line)]
        return lines[-1][:300] if lines else "it printed nothing"


class ForkedProcess:
    """A fork of this process that serves as a worker; it has the members of `Popen` that `Worker` uses."""

    def __init__(self, kind: WorkerKind, errors: Path, scratch: Path) -> None:
        requests, stdin = os.pipe()
        stdout, replies = os.pipe()
        self.stdin, self.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")

        def become_worker() -> None:
            for pipe in (stdin, stdout):
                os.close(pipe)
            with errors.open("wb") as file:
                for number in (1, 2):
                    os.dup2(file.fileno(), number)
            os.chdir(scratch)
            worker.serve(kind, os.fdopen(requests, "rb"), os.fdopen(replies, "wb"))

        self._process = multiprocessing.get_context("fork").Process(target=become_worker, daemon=True)
        with warnings.catch_warnings():  # about threads: those of NumPy and of the terminal do no harm to a fork
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        for pipe in (requests, replies):
            os.close(pipe)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


def can_fork() -> bool:
    """Returns whether forks of this process can serve as workers, provided that it has not used TensorFlow yet.

    TensorFlow opens a GPU as soon as it looks for one, and a fork cannot use a GPU that its parent has opened.
    """
    if sys.platform != "linux" or "tensorflow" not in sys.modules:
        return False
    return not sys.modules["tensorflow"].config.list_physical_devices("GPU")


class WorkerProcesses:
    """All worker processes of a verification. They start at once, so that they are ready when they are needed.

    `with WorkerProcesses() as workers:` … `verify_saved_model(folder, workers=workers)`. They end with the block.
    """

    def __init__(self, timeout_s: float = 600.0, *, unused_tensorflow: bool = False) -> None:
        """Starts the processes; a step that takes longer than `timeout_s` fails.

        `unused_tensorflow`: this process has imported TensorFlow and not used it yet. If forks are possible here,
        TensorFlow is not imported again, and the TF1 loader has a process of its own.
        """
        self._scratch = Path(tempfile.mkdtemp(prefix="unfreeze-verification-"))
        fork = unused_tensorflow and can_fork()
        self.tf2 = Worker(WorkerKind.TENSORFLOW, self._scratch, timeout_s, fork=fork)
        self.tf1 = Worker(WorkerKind.TENSORFLOW, self._scratch, timeout_s, fork=True) if fork else self.tf2
        self.c_api = Worker(WorkerKind.C_API, self._scratch, timeout_s)

    def __enter__(self) -> "WorkerProcesses":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, even if steps are running."""
        for process in {self.tf2, self.tf1, self.c_api}:
            process.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _environment() -> Mapping[str, str]:
    """Returns the environment of a worker. Without a GPU all loaders run on the same device."""
    return {
        "MALLOC_ARENA_MAX": "1",  # glibc: 10 % less memory at the peak, and no slower
        **environment(),
        "CUDA_VISIBLE_DEVICES": "-1",
    }
