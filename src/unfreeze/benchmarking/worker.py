"""The program of a process that runs one model: `python -m unfreeze.benchmarking.worker`.

It reads requests from stdin and writes replies to stdout, both pickled, until stdin ends. A reply is a result or a
`Failure`.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import sys
import time
from typing import Any

import numpy as np

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
from unfreeze.formatting import first_line
from unfreeze.onednn import own_process
from unfreeze.runtimes import load_model
from unfreeze.runtimes.model import OPTIONAL_OUTPUTS, REQUIRED_OUTPUTS, Model

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


class Worker:
    """The model of this process, and the images of the latest TimeRequest."""

    model: Model
    images: np.ndarray

    def reply(self, request: Request) -> Any:
        """Returns the result of a request."""
        match request:
            case LoadRequest():
                began = _now()
                self.model = load_model(request.file, request.threads)
                cost = _since(began)
                gc.collect()
                gc.freeze()  # a garbage collection during a measured call needs not look at the model
                return cost
            case TimeRequest():
                if request.images is not None:
                    self.images = request.images
                began = _now()
                self.model.run(self.images)
                return _since(began)
            case RunRequest():
                outputs = self.model.run(request.images)
                names = (*REQUIRED_OUTPUTS, *OPTIONAL_OUTPUTS[:1])
                return {name: np.asarray(outputs[name]) for name in names if name in outputs}
            case MemoryRequest():
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT
            case EvaluateRequest():
                return _mean_average_precision(request)


def _mean_average_precision(request: EvaluateRequest) -> float:
    from unfreeze.evaluation.evaluate import evaluate

    evaluation = evaluate(request.file.path, request.annotations, images=request.images, label_map=request.label_map)
    return evaluation.scores[0].mean_average_precision


def _now() -> Cost:
    return Cost(time.perf_counter(), time.process_time())


def _since(began: Cost) -> Cost:
    return Cost(time.perf_counter() - began.wall_s, time.process_time() - began.cpu_s)


def main() -> None:
    """Serves the requests on stdin, with the replies on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the parent process ends its workers itself
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints must not get between the replies
    own_process()
    worker = Worker()
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = worker.reply(request)
        except Exception as error:  # of any runtime
            reply = Failure(first_line(error))
        pickle.dump(reply, replies, protocol=5)
        replies.flush()


if __name__ == "__main__":
    main()
