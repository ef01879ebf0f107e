"""Checkpoints in, tensors out: which file, which step, which variable, and whether every one was found.

`locate` answers without TensorFlow, so that a wrong path is told at once; what needs it comes when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from unfreeze.weights.checkpoints import (
    Candidate,
    Checkpoint,
    TensorInfo,
    find_checkpoints,
    is_table,
    locate,
    open_checkpoint,
    open_export,
    prefix_of,
    read_index,
)

if TYPE_CHECKING:
    from unfreeze.weights.branches import Branch, Weights, training_state

__all__ = [
    "Branch",
    "Candidate",
    "Checkpoint",
    "TensorInfo",
    "Weights",
    "find_checkpoints",
    "is_table",
    "locate",
    "open_checkpoint",
    "open_export",
    "prefix_of",
    "read_index",
    "training_state",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unfreeze.weights import branches

    return getattr(branches, name)
