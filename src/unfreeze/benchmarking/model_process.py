"""A process that runs one model, as its parent process sees it."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.benchmarking import worker
from unfreeze.benchmarking.requests import (
    Cost,
    EvaluateRequest,
    Failure,
    LoadRequest,
    MemoryRequest,
    Request,
    RunRequest,
    TimeRequest,
)
from unfreeze.child_process import environment, exit_description
from unfreeze.formatting import first_line
from unfreeze.onednn import worker_environment
from unfreeze.runtimes import ModelFile
from unfreeze.runtimes.model import Outputs

TIMEOUT_S = 600.0  # of one request
THREAD_VARIABLES = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


class ModelProcessError(Exception):
    """The model or its process failed; the message is one line."""


class ModelProcess:
    """A process that runs one model."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path) -> None:
        self._process = process
        self._errors = errors

    def load(self, file: ModelFile, threads: int | None) -> Cost:
        """Loads the model and returns what that took."""
        cost: Cost = self._request(LoadRequest(file, threads))
        return cost

    def time(self, images: np.ndarray | None = None) -> Cost:
        """Runs the model on images, or on the same ones again, and returns what that took."""
        cost: Cost = self._request(TimeRequest(images))
        return cost

    def run(self, images: np.ndarray) -> Outputs:
        """Returns the detections for images `[N, H, W, 3]`."""
        outputs: Outputs = self._request(RunRequest(images))
        return outputs

    def peak_bytes(self) -> int:
        """Returns the peak memory of the process so far."""
        peak: int = self._request(MemoryRequest())
        return peak

    def evaluate(self, request: EvaluateRequest) -> float:
        """Returns COCO's mAP of boxes."""
        value: float = self._request(request)
        return value

    def _request(self, request: Request) -> Any:
        """Returns the reply to a request. Raises: ModelProcessError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            self._process.kill()

        timer = threading.Timer(TIMEOUT_S, stop)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(OSError):  # the process has ended; why is read next
                pickle.dump(request, self._process.stdin, protocol=5)
                self._process.stdin.flush()
            reply = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            if timed_out.is_set():
                raise ModelProcessError(f"no response within {TIMEOUT_S:g} s") from None
            raise ModelProcessError(f"the process {exit_description(code)}{self._last_error_line()}") from None
        finally:
            timer.cancel()
        if isinstance(reply, Failure):
            raise ModelProcessError(reply.message)
        return reply

    def _last_error_line(self) -> str:
        lines = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f": {first_line(lines[-1])}" if lines else ""


@contextmanager
def model_process(threads: int | None) -> Iterator[ModelProcess]:
    """Yields a new process for a model, which ends with the block."""
    limits = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    with tempfile.TemporaryDirectory(prefix="unfreeze-benchmark-") as scratch:
        errors = Path(scratch, "stderr")
        empty = Path(scratch, "empty")  # the current folder, from which nothing can be imported by mistake
        empty.mkdir()
        with errors.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", worker.__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=empty,
                env={**environment(), **worker_environment(), **limits},
            )
        try:
            yield ModelProcess(process, errors)
        finally:
            process.kill()
            with contextlib.suppress(OSError):
                process.communicate()
