"""Lets oneDNN keep reordered weights in processes that run a model and never train it.

Where TensorFlow computes with oneDNN, it reorders the weights of a convolution at each call, unless they are constants
of the graph or TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 is set. TensorFlow reads TF_ENABLE_ONEDNN_OPTS when it is imported,
and the other variable once, when the first kernel that heeds it is made (`AreWeightsFrozen` in
tensorflow/core/util/onednn_env_vars.cc). So the second may be set after the import, once the model is known.

Both are set only in a process of unfreeze's own commands: a user's Python may train variables, which would go unseen.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unfreeze.cached_weights import request_dependent_weights, request_dependent_weights_of_graph
from unfreeze.errors import SavedModelError

ENABLE = "TF_ENABLE_ONEDNN_OPTS"
ASSUME_FROZEN_WEIGHTS = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"
OTHER_FORMS = ("saved_model.pbtxt", "saved_model.cpb")  # that TensorFlow loads too, and that are not checked

_lock = threading.Lock()
_owned = False
_declined = False  # a model that does not allow it runs in this process


def enable_for_command() -> None:
    """Turn oneDNN on in this process, which runs a command of unfreeze, unless the user set the variable.

    Does nothing where TensorFlow is imported already: the process is then someone else's, and it would be too late.
    """
    if "tensorflow" not in sys.modules:
        os.environ.setdefault(ENABLE, "1")
        own_process()


def own_process() -> None:
    """Note that this process runs models for unfreeze and nothing else."""
    global _owned
    _owned = True


def worker_environment() -> dict[str, str]:
    """The variables for a process that unfreeze starts to run a model: 1, or what the user set here."""
    given = {name: os.environ[name] for name in (ENABLE, ASSUME_FROZEN_WEIGHTS) if name in os.environ}
    return {ENABLE: "1", **given}


def server_environment(saved_model: str | os.PathLike[str]) -> tuple[dict[str, str], str | None]:
    """The variables for a server of a SavedModel, and why the second is left out, or None if it is not.

    Raises: SavedModelError if saved_model.pb cannot be read.
    """
    from google.protobuf.message import DecodeError

    try:
        operation = request_dependent_weights(saved_model)
    except (OSError, DecodeError) as error:
        raise SavedModelError(f"{saved_model}: saved_model.pb cannot be read: {error}") from error
    if operation is None:
        return {ENABLE: "1", ASSUME_FROZEN_WEIGHTS: "1"}, None
    return {ENABLE: "1"}, f"{ASSUME_FROZEN_WEIGHTS} is left out: {depends_on_request(operation)}"


def assume_frozen_weights(saved_model: str | os.PathLike[str]) -> None:
    """Set TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 if this is a command's process and the model that it loads allows it.

    To be called before each load. Does nothing if the user set the variable to 0, or if an earlier model did not allow
    it. A folder that is no SavedModel is left to the loader, which reports it.

    Raises: SavedModelError if the variable is 1 already and the model does not allow it.
    """
    folder = Path(saved_model)
    if not (folder / "saved_model.pb").is_file() and not any((folder / name).exists() for name in OTHER_FORMS):
        return
    _decide(folder, lambda: _problem(folder))


def assume_frozen_weights_of_graph(
    path: str | os.PathLike[str], graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """As `assume_frozen_weights`, for a GraphDef of which these tensors are fed and fetched; the error names `path`."""

    def problem() -> str | None:
        operation = request_dependent_weights_of_graph(graph_def, [(inputs, outputs)])
        return depends_on_request(operation) if operation else None

    _decide(path, problem)


def _decide(model: str | os.PathLike[str], find_problem: Callable[[], str | None]) -> None:
    """Set the variable, or keep it unset for this process; `find_problem` returns why a model does not allow it."""
    from google.protobuf.message import DecodeError

    global _declined
    with _lock:
        value = os.environ.get(ASSUME_FROZEN_WEIGHTS)
        if not _may_be_on() or (value is None and (_declined or not _owned)) or value in ("0", "false", ""):
            return
        try:
            problem = find_problem()
        except (OSError, DecodeError):
            return  # not a SavedModel: the loader reports it
        if problem is None and value is None:
            os.environ[ASSUME_FROZEN_WEIGHTS] = "1"
        elif problem and value is None:
            _declined = True  # a later model may not set it either: kernels of this one may be made after that
        elif problem:
            raise SavedModelError(
                f"{model}: {problem}, and with {ASSUME_FROZEN_WEIGHTS}=1, which is in effect in this process, those "
                f"of the first request would be reused. Start with {ASSUME_FROZEN_WEIGHTS}=0."
            )


def _problem(folder: Path) -> str | None:
    if not (folder / "saved_model.pb").is_file():
        return "it has no saved_model.pb, so its weights cannot be checked"
    operation = request_dependent_weights(folder)
    return depends_on_request(operation) if operation else None


def depends_on_request(operation: str) -> str:
    """Why a model with this operation does not allow it."""
    return f"the weights of {operation} depend on the request"


def _may_be_on() -> bool:
    return os.environ.get(ENABLE, "1").lower() not in ("0", "false")
