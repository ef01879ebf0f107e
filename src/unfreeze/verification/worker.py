"""A fresh process that loads SavedModels: `python -m unfreeze.verification.worker tensorflow` or `… c_api`.

It starts with what takes long, importing TensorFlow or opening its library, and then reads requests from stdin and
writes replies to stdout, both pickled, until stdin ends. A request is `(step, arguments)`, a reply
`(result, problem, kind of the problem)`; the first reply says that it is ready.
"""

import gc
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO

from unfreeze.memory import release_memory
from unfreeze.verification.calls import Answers, Call, answers, one_line

Steps = Mapping[str, Callable[..., Any]]


def main() -> None:
    """Serve the requests on stdin, with the replies on stdout."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what TensorFlow or a model prints must not get between the replies
    serve(sys.argv[1], sys.stdin.buffer, replies)


def serve(kind: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Serve requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the caller ends its workers itself
    steps: Steps = {}

    def start() -> str:
        nonlocal steps
        steps = tensorflow_steps() if kind == "tensorflow" else c_api_steps()
        gc.freeze()  # what is there now stays: no collection need look at it
        return "ready"

    reply(replies, start)
    while True:
        try:
            step, arguments = pickle.load(requests)
        except EOFError:
            return
        reply(replies, partial(steps[step], *arguments))
        release_memory()  # what one step leaves behind must not add to the peak of the next


def reply(replies: BinaryIO, work: Callable[[], Any]) -> None:
    """Do the work and write what came of it."""
    try:
        told: tuple[Any, str | None, str | None] = (work(), None, None)
    except Exception as error:
        told = (None, one_line(error), type(error).__name__)
    pickle.dump(told, replies, protocol=5)
    replies.flush()


def tensorflow_steps() -> Steps:
    """The steps of the worker that imports TensorFlow."""
    from unfreeze.verification import loaders

    return {
        "variables": loaders.variables,
        "constants": loaders.constants,
        "tf2_loader": loaders.tf2_loader,
        "tf1_loader": loaders.tf1_loader,
        "either_loader": loaders.either_loader,
        "frozen_graph": loaders.frozen_graph,
        "graph": loaders.graph,
        "unoptimized": loaders.unoptimized,
    }


def c_api_steps() -> Steps:
    """The steps of the worker that does not."""
    from unfreeze.verification import c_api

    library = c_api.tensorflow_library()

    def cpp_loader(saved_model: str, calls: Sequence[Call]) -> Answers:
        start = time.perf_counter()
        with c_api.Session(library, saved_model) as session:
            load_s = time.perf_counter() - start
            return answers(lambda call, feed: session.run(call.fed(feed), call.outputs), calls, load_s)

    return {"cpp_loader": cpp_loader}


if __name__ == "__main__":
    main()
