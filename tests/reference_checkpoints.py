"""Checkpoints of reference weights without files, for tests of single networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import reference

from unfreeze.weights import Checkpoint, CheckpointFormat, TensorInfo, Weights


class ReferenceReader:
    """A checkpoint reader whose values follow from the names, shapes and dtypes of the tensors."""

    def __init__(self, tensors: dict[str, TensorInfo]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> np.ndarray:
        return reference.weight(name, self._tensors[name].shape, self._tensors[name].dtype)


def checkpoint(tensors: dict[str, TensorInfo]) -> Checkpoint:
    """Returns a TensorFlow 1 checkpoint of reference weights with these names and shapes."""
    return Checkpoint(Path("model.ckpt-1"), 1, CheckpointFormat.TF1, tensors, _reader=ReferenceReader(tensors))


class AnyWeights(Weights):
    """The weights of a checkpoint that has every weight a network needs, in the shape that it needs."""

    def __init__(self) -> None:
        self._tensors: dict[str, TensorInfo] = {}
        super().__init__(checkpoint(self._tensors))

    def weight(self, name: str, shape: Sequence[int], *, trainable: bool, dtype: str) -> Any:
        self._tensors.setdefault(name, TensorInfo(tuple(shape), dtype))
        return super().weight(name, shape, trainable=trainable, dtype=dtype)
