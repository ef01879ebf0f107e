"""The summary of a model that `diff` compares, and what a pipeline.config adds to it. Needs no TensorFlow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Message

from unfreeze.config import read_pipeline_config

# The parts of a pipeline.config that the outputs depend on; the others only say how the model was trained.
SETTINGS = ("model", "graph_rewriter", "eval_config.use_moving_averages")

Signatures = Mapping[str, str]  # "serving_default input inputs" -> "uint8 [?, ?, ?, 3]"


@dataclass(frozen=True)
class StoredTensor:
    """A weight in a file; `read` returns its value."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class ModelSummary:
    """The comparable parts of a checkpoint, SavedModel or frozen graph (`kind`).

    `operations` counts those of a graph; it is None for a checkpoint, which has no graph. `settings` are fields of a
    pipeline.config by path, `thresholds` those of the non-maximum suppression in a graph. `size_bytes` is that of
    the files of a model that can be run.
    """

    path: Path
    kind: str
    weights: Mapping[str, StoredTensor]
    signatures: Signatures = field(default_factory=dict)
    operations: Counter[str] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int | None = None


def relative_distance(old: np.ndarray, new: np.ndarray) -> float:
    """Returns the norm of the difference of two arrays of one shape, divided by the norm of the old one."""
    norm, distance = float(np.linalg.norm(old)), float(np.linalg.norm(new - old))
    return distance / norm if norm else (0.0 if not distance else float("inf"))


@dataclass(frozen=True)
class WeightChange:
    """The change of a weight: the largest difference of an element, and the norm of the difference.

    `relative` is that norm divided by the norm of the old value.
    """

    name: str
    largest: float
    relative: float

    def __str__(self) -> str:
        return f"{self.relative:8.2%}  {self.largest:9.3g}  {self.name}"


def read_settings(config: Path) -> dict[str, str]:
    """Returns the fields of a pipeline.config that the outputs depend on, by path; nothing if there is no such file."""
    if not config.is_file():
        return {}
    message = read_pipeline_config(config, allow_unknown_fields=True, on_warning=lambda warning: None)
    return {path: value for path, value in _fields(message, "") if path.startswith(SETTINGS)}


def _fields(message: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yields path and value of every field that is set in a message, and in the messages within it."""
    for descriptor, value in message.ListFields():
        name = f"{prefix}{descriptor.name}"
        is_repeated = not isinstance(value, (Message, str, bytes)) and hasattr(value, "__len__")
        for index, element in enumerate(value if is_repeated else [value]):
            path = f"{name}[{index}]" if is_repeated else name
            if isinstance(element, Message):
                yield from _fields(element, f"{path}.")
            elif descriptor.enum_type is not None:
                yield path, str(descriptor.enum_type.values_by_number[element].name)
            else:
                yield path, str(element)
