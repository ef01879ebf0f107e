"""Finds checkpoints, reads their tensors, and binds them to the weights that a network needs.

`locate_checkpoint` needs no TensorFlow, so that a wrong path is reported at once.
"""

from typing import TYPE_CHECKING, Any

from unfreeze.weights.checkpoints import (
    Checkpoint,
    CheckpointEntry,
    CheckpointFormat,
    Generation,
    TensorInfo,
    checkpoint_folder,
    checkpoint_prefix,
    find_checkpoints,
    is_checkpoint_table,
    locate_checkpoint,
    open_checkpoint,
    open_export,
    read_index,
)
from unfreeze.weights.training_state import MOVING_AVERAGE, training_state

if TYPE_CHECKING:
    from unfreeze.weights.branches import Branch, Weights

__all__ = [
    "MOVING_AVERAGE",
    "Branch",
    "Checkpoint",
    "CheckpointEntry",
    "CheckpointFormat",
    "Generation",
    "TensorInfo",
    "Weights",
    "checkpoint_folder",
    "checkpoint_prefix",
    "find_checkpoints",
    "is_checkpoint_table",
    "locate_checkpoint",
    "open_checkpoint",
    "open_export",
    "read_index",
    "training_state",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unfreeze.weights import branches

    return getattr(branches, name)
