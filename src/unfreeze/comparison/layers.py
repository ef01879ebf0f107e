"""Compares the layers of two models by shape and value: converters fold weights and give them other names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from unfreeze.comparison.operation_graph import Layer, OperationGraph
from unfreeze.comparison.summary import WeightChange, relative_distance

# Readers of the operations of a file, by its suffix.
READERS = {
    ".onnx": "unfreeze.comparison.onnx_operations",
    ".xml": "unfreeze.comparison.openvino_operations",
    ".tflite": "unfreeze.comparison.tflite_operations",
}
ROUNDING = 1e-6  # relative; converters fold in another order
UNRELATED = 1.0  # relative; the distance of two independent kernels is about 1.4


class Reader(Protocol):
    """A module that reads a format."""

    def read_operations(self, path: Path) -> OperationGraph:
        """Returns the operations of a file."""


@dataclass(frozen=True)
class LayerDifference:
    """The differences between the layers of two models.

    Attributes:
        count: number of layers that both have.
        equal: number of kernels and biases that are equal but for rounding.
        moved: kernels and biases with other values, the farthest first.
        only_old, only_new: kernels of layers that only one of the models has.
    """

    count: int = 0
    equal: int = 0
    moved: tuple[WeightChange, ...] = ()
    only_old: tuple[str, ...] = ()
    only_new: tuple[str, ...] = ()


def read_file_layers(path: Path) -> list[Layer]:
    """Returns the layers of a file of another runtime. Raises: ValueError or OSError if it cannot be read."""
    return cast(Reader, import_module(READERS[path.suffix])).read_operations(path).layers()


def compare_layers(old: Sequence[Layer], new: Sequence[Layer]) -> LayerDifference:
    """Pairs the layers of two models, of one shape each, nearest first, and compares kernels and biases."""
    pairs = list(_pairs(old, new))
    changes = [change for before, after in pairs for change in _changes(before, after)]
    moved = [change for change in changes if change.relative > ROUNDING]
    paired_old, paired_new = {id(before) for before, _ in pairs}, {id(after) for _, after in pairs}
    return LayerDifference(
        count=len(pairs),
        equal=len(changes) - len(moved),
        moved=tuple(sorted(moved, key=lambda change: -change.relative)),
        only_old=tuple(_text(layer) for layer in old if id(layer) not in paired_old),
        only_new=tuple(_text(layer) for layer in new if id(layer) not in paired_new),
    )


def _pairs(old: Sequence[Layer], new: Sequence[Layer]) -> Iterator[tuple[Layer, Layer]]:
    """Yields layers that belong together: those that are equal, then those of one name, then the nearest."""
    candidates: dict[tuple[int, ...], tuple[list[Layer], list[Layer]]] = defaultdict(lambda: ([], []))
    for side, layers in enumerate((old, new)):
        for layer in layers:
            candidates[layer.kernel.shape][side].append(layer)
    for ours, theirs in candidates.values():
        distances = [
            (_relative(before.kernel, after.kernel), before.name != after.name, row, column)
            for row, before in enumerate(ours)
            for column, after in enumerate(theirs)
        ]
        taken: tuple[set[int], set[int]] = (set(), set())
        for distance, _, row, column in sorted(distances):
            if distance < UNRELATED and row not in taken[0] and column not in taken[1]:
                taken[0].add(row)
                taken[1].add(column)
                yield ours[row], theirs[column]


def _changes(old: Layer, new: Layer) -> Iterator[WeightChange]:
    yield _change(old.name, old.kernel, new.kernel)
    if old.bias.any() or new.bias.any():
        yield _change(f"bias of {old.name}", old.bias, new.bias)


def _change(name: str, old: np.ndarray, new: np.ndarray) -> WeightChange:
    largest = float(np.abs(new - old).max(initial=0)) if old.shape == new.shape else float("inf")
    return WeightChange(name, largest, _relative(old, new))


def _relative(old: np.ndarray, new: np.ndarray) -> float:
    return relative_distance(old, new) if old.shape == new.shape else float("inf")


def _text(layer: Layer) -> str:
    return f"{layer.name} {list(layer.kernel.shape)}"
