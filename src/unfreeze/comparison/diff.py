"""Compares two checkpoints, SavedModels or frozen graphs without running them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.formatting import aligned, amount
from unfreeze.model_paths import is_graph_path
from unfreeze.weights import MOVING_AVERAGE, locate_checkpoint

if TYPE_CHECKING:
    from unfreeze.comparison.model_summary import ModelSummary, StoredTensor

T = TypeVar("T")

SHOWN = 10  # lines of each list in the text; the JSON has all


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


@dataclass(frozen=True)
class ModelDifference:
    """The differences between two models.

    Attributes:
        equal: number of weights that are equal byte for byte.
        moved: weights of one shape and data type with other values, the farthest first.
        reshaped: name -> old and new shape and data type, where these differ.
        only_old, only_new: weights that only one of the models has.
        signatures, operations, settings: name -> old and new value, where these differ; None if there is none.
    """

    old: ModelSummary
    new: ModelSummary
    equal: int
    moved: tuple[WeightChange, ...]
    reshaped: Mapping[str, tuple[str, str]]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    signatures: Mapping[str, tuple[str | None, str | None]]
    operations: Mapping[str, tuple[int, int]]
    settings: Mapping[str, tuple[str | None, str | None]]

    @property
    def same(self) -> bool:
        """Returns whether nothing differs."""
        return not any(
            (self.moved, self.reshaped, self.only_old, self.only_new, self.signatures, self.operations, self.settings)
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the difference as JSON data."""
        return {
            "old": {"path": str(self.old.path), "kind": self.old.kind},
            "new": {"path": str(self.new.path), "kind": self.new.kind},
            "same": self.same,
            "weights": {
                "equal": self.equal,
                "moved": [asdict(change) for change in self.moved],
                "reshaped": _old_and_new(self.reshaped),
                "only_old": list(self.only_old),
                "only_new": list(self.only_new),
            },
            "signatures": _old_and_new(self.signatures),
            "operations": _old_and_new(self.operations),
            "settings": _old_and_new(self.settings),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"old: {self.old.path}: {self.old.kind}"
        yield f"new: {self.new.path}: {self.new.kind}"
        if self.same:
            yield f"  no difference: {amount(self.equal, 'weight')} equal byte for byte"
            return
        yield from aligned([(title, text) for title, text in self._rows() if text])

    def _rows(self) -> Iterator[tuple[str, str]]:
        heading = ["relative    largest  weight"] if self.moved else []
        yield "weights", f"{self.equal:,} equal byte for byte, {len(self.moved):,} moved"
        yield "", _first_lines(heading + [str(change) for change in self.moved])
        yield "other shape", _first_lines(_change_lines(self.reshaped))
        yield "only in old", _first_lines(list(self.only_old))
        yield "only in new", _first_lines(list(self.only_new))
        yield "signatures", "\n".join(_change_lines(self.signatures))
        yield "settings", "\n".join(_change_lines(self.settings))
        yield "operations", _first_lines(_change_lines(self.operations))


def diff(old: str | Path, new: str | Path, *, on_progress: OnMessage = ignore) -> ModelDifference:
    """Compares two checkpoints, SavedModels or frozen graphs, of one kind or of two, by the names of their weights.

    Operations and signatures are compared if both have a graph, settings if both have a pipeline.config beside them
    or thresholds in their graph.

    Raises: UnfreezeError if one of them is not a model.
    """
    for path in (old, new):
        if not is_graph_path(path):
            locate_checkpoint(path)
    from unfreeze.comparison.model_summary import summarize_model  # here, since it imports TensorFlow

    on_progress(f"reading {old}")
    old_summary = summarize_model(old)
    on_progress(f"reading {new}")
    new_summary = summarize_model(new)
    return compare_models(old_summary, new_summary, on_progress)


def compare_models(old: ModelSummary, new: ModelSummary, on_progress: OnMessage = ignore) -> ModelDifference:
    """Compares the summaries of two models; reads the values of the weights that both have."""
    old_weights, new_weights = _named_as_in(new.weights, old.weights), _named_as_in(old.weights, new.weights)
    equal, moved, reshaped = compare_weights(old_weights, new_weights, on_progress)
    return ModelDifference(
        old=old,
        new=new,
        equal=equal,
        moved=moved,
        reshaped=reshaped,
        only_old=tuple(name for name in old_weights if name not in new_weights),
        only_new=tuple(name for name in new_weights if name not in old_weights),
        signatures=_changes(old.signatures, new.signatures),
        operations=_operations_of_one(old, new),
        settings=_changes(old.settings, new.settings) | _changes(old.thresholds, new.thresholds),
    )


def compare_weights(
    old: Mapping[str, StoredTensor], new: Mapping[str, StoredTensor], on_progress: OnMessage = ignore
) -> tuple[int, tuple[WeightChange, ...], dict[str, tuple[str, str]]]:
    """Returns how many of the weights that both have are equal, and which moved or have another shape or data type.

    Only one weight is in memory at a time.
    """
    equal, moved, reshaped = 0, [], {}
    for name in [name for name in old if name in new]:
        on_progress(f"comparing {name}")
        before, after = old[name], new[name]
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            reshaped[name] = (str(before), str(after))
        elif change := _change(name, before.read(), after.read()):
            moved.append(change)
        else:
            equal += 1
    return equal, tuple(sorted(moved, key=lambda change: -change.relative)), reshaped


def _named_as_in(
    other_model: Mapping[str, StoredTensor], weights: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Returns the weights by the names under which the other model can have them.

    A checkpoint has a weight and its moving average; an export has one of the two, and a frozen graph has either of
    them under the name of the weight.
    """
    named = {}
    for name, tensor in weights.items():
        weight = name.removesuffix(MOVING_AVERAGE)
        average = weight + MOVING_AVERAGE
        if name != weight and name not in other_model:
            if weight not in weights:
                named[weight] = tensor
        elif name in other_model or not (average in other_model and average in weights):  # else it has the average
            named[name] = tensor
    return named


def _change(name: str, old: np.ndarray, new: np.ndarray) -> WeightChange | None:
    """Returns how far a weight moved; None if its bytes are equal."""
    if old.tobytes() == new.tobytes():
        return None
    if old.dtype.kind in "OSU":
        return WeightChange(name, float("nan"), float("nan"))
    before, after = old.astype(np.float64), new.astype(np.float64)
    norm = float(np.linalg.norm(before))
    distance = float(np.linalg.norm(after - before))
    return WeightChange(name, float(np.abs(after - before).max()), distance / norm if norm else float("inf"))


def _operations_of_one(old: ModelSummary, new: ModelSummary) -> dict[str, tuple[int, int]]:
    """Returns old and new count of the operations that only one of the models has; other counts say little."""
    if old.operations is None or new.operations is None:
        return {}
    names = sorted(set(old.operations) ^ set(new.operations))
    return {name: (old.operations[name], new.operations[name]) for name in names}


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Returns old and new value of each difference; nothing if only one of the models has such values."""
    names = dict.fromkeys([*old, *new] if old and new else [])
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _old_and_new(changes: Mapping[str, tuple[T, T]]) -> dict[str, dict[str, T]]:
    return {name: {"old": old, "new": new} for name, (old, new) in changes.items()}


def _change_lines(changes: Mapping[str, tuple[object, object]]) -> list[str]:
    texts = {name: ["none" if value is None else str(value) for value in values] for name, values in changes.items()}
    return [f"{name}: {old} -> {new}" for name, (old, new) in texts.items()]


def _first_lines(lines: list[str]) -> str:
    more = [f"and {len(lines) - SHOWN:,} more (--json has all)"] if len(lines) > SHOWN + 1 else []
    return "\n".join([*lines[: SHOWN if more else None], *more])
