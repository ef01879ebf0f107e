"""Compares two models: checkpoints, SavedModels and frozen graphs by their files, other files by their outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.comparison.diff_files import (
    OutputDifference,
    compare_outputs,
    interface_differences,
    model_layers,
    summarize_model_file,
)
from unfreeze.comparison.layers import LayerDifference, compare_layers
from unfreeze.comparison.summary import ModelSummary, StoredTensor, WeightChange, relative_distance
from unfreeze.comparison.verify import find_other_model
from unfreeze.comparison.verify_files import OtherModel
from unfreeze.errors import UnfreezeError, UnsupportedError
from unfreeze.formatting import aligned, amount, first_line, megabytes
from unfreeze.inspection.model_files import OTHER_RUNTIMES
from unfreeze.verification.sample_inputs import require_images
from unfreeze.weights import MOVING_AVERAGE

T = TypeVar("T")

SHOWN = 10  # lines of each list in the text; the JSON has all


@dataclass(frozen=True)
class ModelDifference:
    """The differences between two models.

    Attributes:
        equal: number of weights that are equal byte for byte.
        moved: weights of one shape and data type with other values, the farthest first.
        reshaped: name -> old and new shape and data type, where these differ.
        only_old, only_new: weights that only one of the models has.
        signatures, operations, settings: name -> old and new value, where these differ; None if there is none.
        layers: number of layers whose folded weights were compared, by shape and value; None where weights were
            compared by name. A layer has a kernel, and most have a bias.
        not_compared: why weights were not compared; empty if they were.
        outputs: whether both return the same for images, if they were run.
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
    layers: int | None = None
    not_compared: str = ""
    outputs: OutputDifference | None = None

    @property
    def same(self) -> bool:
        """Returns whether nothing differs, of what could be compared."""
        outputs_differ = self.outputs is not None and self.outputs.same is False
        weights_differ = (self.moved, self.reshaped, self.only_old, self.only_new)
        return not any((*weights_differ, self.signatures, self.operations, self.settings, outputs_differ))

    def to_dict(self) -> dict[str, Any]:
        """Returns the difference as JSON data."""
        return {
            "old": {"path": str(self.old.path), "kind": self.old.kind},
            "new": {"path": str(self.new.path), "kind": self.new.kind},
            "same": self.same,
            "weights": {
                "compared": not self.not_compared,
                "layers": self.layers,
                "equal": self.equal,
                "moved": [asdict(change) for change in self.moved],
                "reshaped": _old_and_new(self.reshaped),
                "only_old": list(self.only_old),
                "only_new": list(self.only_new),
            },
            "size_bytes": {"old": self.old.size_bytes, "new": self.new.size_bytes},
            "signatures": _old_and_new(self.signatures),
            "operations": _old_and_new(self.operations),
            "settings": _old_and_new(self.settings),
            **({"outputs": self.outputs.to_dict()} if self.outputs else {}),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"old: {self.old.path}: {self.old.kind}"
        yield f"new: {self.new.path}: {self.new.kind}"
        if self.same and self.layers is None and not self.not_compared and self.outputs is None:
            yield f"  no difference: {amount(self.equal, 'weight')} equal byte for byte"
            return
        yield from aligned([(title, text) for title, text in self._rows() if text])

    def _rows(self) -> Iterator[tuple[str, str]]:
        heading = ["relative    largest  weight"] if self.moved else []
        if self.not_compared:
            yield "weights", f"not compared: {self.not_compared}"
        elif self.layers is not None:
            counts = f"{self.equal:,} equal but for rounding, {len(self.moved):,} moved"
            yield "weights", f"folded, of {amount(self.layers, 'layer')}: {counts}"
        else:
            yield "weights", f"{self.equal:,} equal byte for byte, {len(self.moved):,} moved"
        yield "", _first_lines(heading + [str(change) for change in self.moved])
        yield "other shape", _first_lines(_change_lines(self.reshaped))
        yield "only in old", _first_lines(list(self.only_old))
        yield "only in new", _first_lines(list(self.only_new))
        yield "size", self._sizes()
        yield "signatures", "\n".join(_change_lines(self.signatures))
        yield "settings", "\n".join(_change_lines(self.settings))
        yield "operations", _first_lines([*self._operation_counts(), *_change_lines(self.operations)])
        yield "outputs", self.outputs.detail if self.outputs else ""

    def _sizes(self) -> str:
        old, new = self.old.size_bytes, self.new.size_bytes
        return "" if old is None or new is None else f"{megabytes(old)} -> {megabytes(new)} ({new / old:.0%})"

    def _operation_counts(self) -> list[str]:
        """Returns how many operations both have, if they are of different kinds, with other names for each."""
        old, new = self.old.operations, self.new.operations
        if old is None or new is None or self.old.kind == self.new.kind:
            return []
        return [f"{old.total():,} of {len(old)} kinds -> {new.total():,} of {len(new)} kinds"]


def diff(
    old: str | Path, new: str | Path, *, images: Sequence[str | Path] = (), on_progress: OnMessage = ignore
) -> ModelDifference:
    """Compares two models, of one kind or of two.

    Checkpoints, SavedModels and frozen graphs are compared by the names of their weights. Operations and signatures are
    compared if both have a graph, settings if both have a pipeline.config beside them or thresholds in their graph.

    If one of them is an ONNX, OpenVINO or TFLite file, both are run on images, and their folded weights are compared
    layer by layer: layers of one shape belong together if their values are near.

    Args:
        images: images to run the models on, also if neither is such a file; by default a generated image for such
            files.

    Raises:
        UnfreezeError: one of them is not a model, or is a checkpoint, which cannot be run.
        MissingExtraError: the runtime of a file is not installed.
    """
    require_images(images)
    models = find_other_model(old), find_other_model(new)
    is_converted = any(model is not None and model.path.suffix in OTHER_RUNTIMES for model in models)
    if not is_converted:
        difference = _diff_graphs(old, new, on_progress)
        if not images:
            return difference
        return replace(difference, outputs=compare_outputs(*_runnable(models, old, new), images, on_progress))
    before, after = _runnable(models, old, new)
    old_summary, new_summary = summarize_model_file(before), summarize_model_file(after)
    layers, not_compared = _compare_layers(before, after, on_progress)
    return ModelDifference(
        old=old_summary,
        new=new_summary,
        equal=layers.equal,
        moved=layers.moved,
        reshaped={},
        only_old=layers.only_old,
        only_new=layers.only_new,
        signatures=interface_differences(before, after),
        operations=_operations_of_one(old_summary, new_summary) if old_summary.kind == new_summary.kind else {},
        settings=_changes(old_summary.settings, new_summary.settings),
        layers=None if not_compared else layers.count,
        not_compared=not_compared,
        outputs=compare_outputs(before, after, images, on_progress),
    )


def _compare_layers(old: OtherModel, new: OtherModel, on_progress: OnMessage) -> tuple[LayerDifference, str]:
    """Returns the differences between the layers of two models, and why they cannot be compared, or an empty text."""
    sides = []
    for model in (old, new):
        on_progress(f"reading the weights of {model.name}")
        try:
            sides.append(model_layers(model.path))
        except (UnfreezeError, ValueError, OSError) as error:
            return LayerDifference(), f"{model.name}: {first_line(error)}"
        if not sides[-1]:
            return LayerDifference(), f"{model.name} has no layer whose weights are constants"
    return compare_layers(*sides), ""


def _runnable(
    models: tuple[OtherModel | None, OtherModel | None], old: str | Path, new: str | Path
) -> tuple[OtherModel, OtherModel]:
    """Returns both models. Raises: UnsupportedError: one of them is a checkpoint."""
    before, after = models
    if before is None or after is None:
        raise UnsupportedError(
            f"{new if after is None else old}: a checkpoint cannot be run, which is how these models are compared. "
            "Export it first, or run unfreeze verify with --against."
        )
    return before, after


def _diff_graphs(old: str | Path, new: str | Path, on_progress: OnMessage) -> ModelDifference:
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
    return WeightChange(name, float(np.abs(after - before).max()), relative_distance(before, after))


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
