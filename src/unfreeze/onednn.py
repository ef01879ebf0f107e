"""Lets oneDNN keep reordered weights in processes that run a model and do not train it.

Where TensorFlow computes with oneDNN, it reorders the weights of a convolution at each call, unless they are constants
of the graph or TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 is set. TensorFlow reads TF_ENABLE_ONEDNN_OPTS when it is imported,
and the other variable once, when it creates the first kernel that uses it (`AreWeightsFrozen` in
tensorflow/core/util/onednn_env_vars.cc). So the second may be set after the import, when the model is known.

Both are set only in processes of unfreeze's own commands: a user's Python program may train the variables, and oneDNN
would not notice.
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
OTHER_FORMS = ("saved_model.pbtxt", "saved_model.cpb")  # TensorFlow loads these too; they are not checked

_lock = threading.Lock()
_owned = False
_declined = False  # whether a model that does not allow it runs in this process


def enable_for_command() -> None:
    """Turns oneDNN on in this process, which runs a command of unfreeze, unless the user set the variable.

    Does nothing if TensorFlow is imported already: then the process is not a command's, and it would be too late.
    """
    if "tensorflow" not in sys.modules:
        os.environ.setdefault(ENABLE, "1")
        own_process()


def own_process() -> None:
    """Declares that this process only runs models for unfreeze, so the variables may be set in it."""
    global _owned
    _owned = True


def worker_environment() -> dict[str, str]:
    """Returns the variables for a process that unfreeze starts to run a model: 1, or what the user set here."""
    set_here = {name: os.environ[name] for name in (ENABLE, ASSUME_FROZEN_WEIGHTS) if name in os.environ}
    return {ENABLE: "1", **set_here}


def server_environment(saved_model: str | os.PathLike[str]) -> tuple[dict[str, str], str | None]:
    """Returns the variables for a server of a SavedModel, and why the second is not set, None if it is.

    Raises: SavedModelError if saved_model.pb cannot be read.
    """
    from google.protobuf.message import DecodeError

    try:
        operation = request_dependent_weights(saved_model)
    except (OSError, DecodeError) as error:
        raise SavedModelError(
            f"{saved_model}: saved_model.pb cannot be read ({error}). Copy or export it again."
        ) from error
    if operation is None:
        return {ENABLE: "1", ASSUME_FROZEN_WEIGHTS: "1"}, None
    return {ENABLE: "1"}, f"{ASSUME_FROZEN_WEIGHTS} is not set: {depends_on_request(operation)}"


def assume_frozen_weights(saved_model: str | os.PathLike[str]) -> None:
    """Sets TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 if this is a command's process and the model to be loaded allows it.

    Must be called before each load. Does nothing if the user set the variable to 0, or if an earlier model did not
    allow it, or if the folder is not a SavedModel, which the loader reports.

    Raises: SavedModelError if the variable is 1 already and the model does not allow it.
    """
    folder = Path(saved_model)
    if not (folder / "saved_model.pb").is_file() and not any((folder / name).exists() for name in OTHER_FORMS):
        return
    _decide(folder, lambda: _problem(folder))


def assume_frozen_weights_of_graph(
    path: str | os.PathLike[str], graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Does the same as `assume_frozen_weights` for a GraphDef with these inputs and outputs; errors name `path`."""

    def problem() -> str | None:
        operation = request_dependent_weights_of_graph(graph_def, [(inputs, outputs)])
        return depends_on_request(operation) if operation else None

    _decide(path, problem)


def _decide(model: str | os.PathLike[str], find_problem: Callable[[], str | None]) -> None:
    """Sets the variable, or keeps it unset in this process; `find_problem` returns why a model does not allow it."""
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
            _declined = True  # a later model may not set it either: kernels of this model may be created after that
        elif problem:
            raise SavedModelError(
                f"{model}: {problem}, and with {ASSUME_FROZEN_WEIGHTS}=1, which is in effect in this process, the "
                f"weights of the first request would be reused. Set {ASSUME_FROZEN_WEIGHTS}=0."
            )


def _problem(folder: Path) -> str | None:
    if not (folder / "saved_model.pb").is_file():
        return "it has no saved_model.pb, so its weights cannot be checked"
    operation = request_dependent_weights(folder)
    return depends_on_request(operation) if operation else None


def depends_on_request(operation: str) -> str:
    """Returns why a model with this operation does not allow it."""
    return f"the weights of {operation} depend on the request"


def _may_be_on() -> bool:
    return os.environ.get(ENABLE, "1").lower() not in ("0", "false")
