"""The program of a worker process: `python -m unfreeze.verification.worker tensorflow`, or `… c_api`.

It first does what takes long, which is importing TensorFlow or opening its library. Then it reads requests from stdin
and writes replies to stdout, both pickled, until stdin ends. A request is `(step, arguments)`; a reply is the result of
the step or a `Failure`. The first reply says that the process is ready.
"""

import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO

from unfreeze.memory import release_memory
from unfreeze.verification.failures import Failure
from unfreeze.verification.steps import Step, WorkerKind

Steps = Mapping[Step, Callable[..., Any]]


def main() -> None:
    """Serves the requests on stdin, with the replies on stdout."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what TensorFlow or a model prints must not get between the replies
    serve(WorkerKind(sys.argv[1]), sys.stdin.buffer, replies)


def serve(kind: WorkerKind, requests: BinaryIO, replies: BinaryIO) -> None:
    """Serves requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the parent process ends its workers itself
    steps: Steps = {}

    def start() -> str:
        nonlocal steps
        steps = tensorflow_steps() if kind is WorkerKind.TENSORFLOW else c_api_steps()
        gc.freeze()  # all imported objects stay, so no garbage collection needs to look at them
        return "ready"

    reply(replies, start)
    while True:
        try:
            step, arguments = pickle.load(requests)
        except EOFError:
            return
        reply(replies, partial(steps[step], *arguments))
        release_memory()  # the memory of one step must not add to the peak of the next


def reply(replies: BinaryIO, work: Callable[[], Any]) -> None:
    """Does the work and writes its result, or its failure."""
    try:
        result = work()
    except Exception as error:
        result = Failure.of(error)
    pickle.dump(result, replies, protocol=5)
    replies.flush()


def tensorflow_steps() -> Steps:
    """Imports TensorFlow and returns the steps that need it."""
    from unfreeze.verification import loaders

    return {
        Step.VARIABLES: loaders.read_variables,
        Step.CONSTANTS: loaders.read_constants,
        Step.TF2_LOADER: loaders.run_with_tf2_loader,
        Step.TF1_LOADER: loaders.run_with_tf1_loader,
        Step.ANY_LOADER: loaders.run_with_any_loader,
        Step.GRAPH: loaders.run_graph,
        Step.OBJECT_DETECTION_GRAPH: loaders.run_object_detection_graph,
        Step.UNOPTIMIZED_PAIR: loaders.run_unoptimized_pair,
    }


def c_api_steps() -> Steps:
    """Opens TensorFlow's library and returns the step that uses it, without TensorFlow's Python package."""
    from unfreeze.verification import c_api

    return {Step.CPP_LOADER: partial(c_api.run_with_cpp_loader, c_api.tensorflow_library())}


if __name__ == "__main__":
    main()
