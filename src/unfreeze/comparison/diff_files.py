"""Compares two models that can be run: their inputs and outputs, and what both return for images."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfreeze.callbacks import OnMessage
from unfreeze.comparison.layers import read_file_layers
from unfreeze.comparison.operation_graph import Layer
from unfreeze.comparison.summary import ModelSummary, read_settings
from unfreeze.comparison.verify_files import OtherModel, batch_size, image_shape, image_size
from unfreeze.export_record import find_exported_file
from unfreeze.inspection.model_files import OTHER_RUNTIMES, read_model_file
from unfreeze.model_paths import CONFIG, has_variables
from unfreeze.runtimes import find_model
from unfreeze.runtimes.model import SIGNATURES
from unfreeze.verification import Status
from unfreeze.verification.meta_graph import TensorInfo, read_meta_graph
from unfreeze.verification.model_file import FileRun, check_against, check_runtime, run_file
from unfreeze.verification.sample_inputs import image_pairs

Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class OutputDifference:
    """Whether two models return the same for images; `same` is None if they could not be compared.

    `samples` has the numbers for each image.
    """

    same: bool | None
    detail: str
    samples: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the difference as JSON data."""
        return {"same": self.same, "detail": self.detail, "samples": dict(self.samples)}


@dataclass(frozen=True)
class Interface:
    """What a model takes and returns, by name."""

    inputs: Tensors
    outputs: Tensors


def summarize_model_file(model: OtherModel) -> ModelSummary:
    """Returns the summary of a model, without its weights, which `model_layers` reads.

    Raises: SavedModelError if it cannot be read.
    """
    path = model.path
    kind = find_model(path).runtime.name
    if path.is_dir():
        size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return ModelSummary(path, kind, {}, settings=read_settings(path.parent / CONFIG), size_bytes=size_bytes)
    exported = find_exported_file(path)
    folder = exported.folder if exported else path.parent
    is_other = path.suffix in OTHER_RUNTIMES
    description = read_model_file(path)
    return ModelSummary(
        path,
        f"{kind} model" if is_other else kind,
        {},
        operations=description.operations,
        settings=read_settings(folder / CONFIG),
        size_bytes=sum(file.stat().st_size for file in description.files),
    )


def model_layers(path: Path) -> list[Layer]:
    """Returns the layers of a model that can be run, with their weights folded.

    Raises: ValueError or OSError if it cannot be read. UnfreezeError if it is no graph, or a SavedModel with variables
    and without the pipeline.config of its export, by which the weights are folded.
    """
    if path.suffix in OTHER_RUNTIMES:
        return read_file_layers(path)
    from unfreeze.comparison.tensorflow_operations import read_operations  # here, since it imports TensorFlow
    from unfreeze.graphs import read_frozen_graph

    if not has_variables(path):
        return read_operations(read_frozen_graph(path)).layers()
    from unfreeze.exporting.folded_graph import write_folded_graph

    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
        return read_operations(read_frozen_graph(write_folded_graph(path, Path(scratch)))).layers()


def interface_differences(old: OtherModel, new: OtherModel) -> dict[str, tuple[str | None, str | None]]:
    """Returns old and new form of the inputs and outputs that differ.

    A length of an output that a file leaves open is no difference; for an input it is one.

    Raises: SavedModelError if a model cannot be read.
    """
    before, after = read_interface(old.path), read_interface(new.path)
    sides = {"input": (before.inputs, after.inputs), "output": (before.outputs, after.outputs)}
    differences: dict[str, tuple[str | None, str | None]] = {}
    for side, (ours, theirs) in sides.items():
        for name in dict.fromkeys([*ours, *theirs]):
            one, other = ours.get(name), theirs.get(name)
            if differ(one, other, is_open_a_difference=side == "input"):
                differences[f"{side} {name}"] = (str(one) if one else None, str(other) if other else None)
    return differences


def read_interface(path: Path) -> Interface:
    """Returns what a model takes and returns; of a SavedModel, the signature that is run on images.

    Raises: SavedModelError if it cannot be read.
    """
    if path.is_dir():
        signatures = read_meta_graph(path).signatures
        name = next((name for name in SIGNATURES if name in signatures), None)
        return Interface(signatures[name].inputs, signatures[name].outputs) if name else Interface({}, {})
    description = read_model_file(path)
    return Interface(description.inputs, description.outputs)


def differ(old: TensorInfo | None, new: TensorInfo | None, *, is_open_a_difference: bool) -> bool:
    """Returns whether data types or shapes differ; a shape that is not known does not."""
    if old is None or new is None:
        return True
    if old.dtype != new.dtype:
        return True
    if old.shape is None or new.shape is None:
        return False
    if len(old.shape) != len(new.shape):
        return True
    return any(
        before != after and (is_open_a_difference or None not in (before, after))
        for before, after in zip(old.shape, new.shape, strict=True)
    )


def compare_outputs(
    old: OtherModel, new: OtherModel, images: Sequence[str | Path], on_progress: OnMessage
) -> OutputDifference:
    """Runs both models on images, each in a process of its own, and compares what they return.

    Raises: ImageError if an image cannot be read.
    """
    shapes = image_shape(old.path), image_shape(new.path)
    sizes = image_size(shapes[0], shapes[1]), image_size(shapes[1], shapes[0])
    if sizes[0] != sizes[1]:
        before, after = (f"{height} x {width}" for height, width in sizes)
        return OutputDifference(None, f"not compared: the images of one are {before}, those of the other {after}")
    samples = image_pairs(images, sizes[0])
    runs: list[FileRun] = []
    for model, shape in ((old, shapes[0]), (new, shapes[1])):
        on_progress(f"running {model.name}")
        runs.append(run_file(model.path, samples, batch_size=batch_size(model.path, shape)))
        check = check_runtime(runs[-1])
        if check.status is Status.FAILED:
            return OutputDifference(None, f"not compared: {model.name} does not run: {check.detail}")
    check = check_against(runs[1], runs[0], old.name)
    is_same = check.status is Status.PASSED
    detail = check.detail.removeprefix(f"{old.name}: ")
    names = ", ".join(sample.name for sample in samples)
    return OutputDifference(
        is_same, f"{'the same' if is_same else 'differ'} for {names}: {detail}", check.numbers["samples"]
    )
