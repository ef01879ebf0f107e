"""Verifies files of other runtimes: they are as exported, their own runtime runs them, and their outputs are right."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from unfreeze.callbacks import OnMessage
from unfreeze.errors import SavedModelError
from unfreeze.export_record import ExportedFile, ExportRecord, file_digest, find_exported_file
from unfreeze.formatting import amount, megabytes
from unfreeze.inspection.description import TFLITE_POSTPROCESS, Description
from unfreeze.inspection.model_files import detector_problems, read_model_file
from unfreeze.inspection.records import exported_file_problems
from unfreeze.verification import Check, Report, Status
from unfreeze.verification.meta_graph import read_meta_graph
from unfreeze.verification.model_file import (
    FileRun,
    check_against,
    check_agreement,
    check_batch,
    check_outputs,
    check_runtime,
    image_results,
    run_file,
)
from unfreeze.verification.report import Kind, check_result
from unfreeze.verification.sample_inputs import SampleInput, fixed_image_size, image_pairs

Size = tuple[int | None, int | None]  # height and width
NO_REFERENCE = "there is no SavedModel in its folder: pass --against to compare with another model"
OWN_SUPPRESSION = (
    f"{TFLITE_POSTPROCESS} has rules of its own, so that detections differ from those of the SavedModel: "
    "pass --against to compare with another such file"
)
NEEDS_TENSORRT = "not run: it ends in EfficientNMS_TRT, which only TensorRT has"
RUN_IN_NODE = "not run here: unfreeze export runs it in Node.js"
TFJS = ".json"  # of a graph model of TensorFlow.js, which no runtime here reads
GRAPH = ".pb"  # frozen graphs are run on one image at a time


@dataclass(frozen=True)
class OtherModel:
    """The model to compare with, and what reports call it; `is_source`: what the files were exported from or with."""

    path: Path
    name: str
    is_source: bool = False


@dataclass(frozen=True)
class ModelFile:
    """A file to verify: what can be read of it without running it, or why it cannot be read."""

    path: Path
    exported: ExportedFile | None
    description: Description | SavedModelError

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of its images `[N, H, W, 3]`."""
        return self.description.image_shape if isinstance(self.description, Description) else (None,) * 4

    @property
    def batch_size(self) -> int | None:
        """The number of images that it takes at once; None for any."""
        return batch_size(self.path, self.shape)


def verify_files(
    paths: Sequence[Path],
    other: OtherModel | None,
    *,
    images: Sequence[str | Path],
    on_progress: OnMessage,
) -> tuple[Report, ...]:
    """Returns the report of each file.

    Args:
        other: the model whose outputs they must return.
        images: image files to run the models on; by default a generated image.

    Raises:
        ImageError: an image cannot be read.
    """
    files = [read_file(path) for path in paths]
    other_shape = image_shape(other.path) if other else (None,) * 4

    @cache
    def samples_of(size: Size) -> list[SampleInput]:
        return image_pairs(images, size)

    samples = {file.path: samples_of(image_size(file.shape, other_shape)) for file in files}
    reference = None
    if other is not None:
        on_progress(f"running {other.name}")
        distinct = {id(sample): sample for own in samples.values() for sample in own}
        reference = run_file(other.path, list(distinct.values()), batch_size=batch_size(other.path, other_shape))
    reports = []
    for file in files:
        if isinstance(file.description, Description) and file.description.needs_tensorrt:
            reports.append(_report_of_unrun(file, check_interface(file), NEEDS_TENSORRT))
            continue
        if file.path.suffix == TFJS:
            reports.append(_report_of_unrun(file, Check("interface", Status.SKIPPED, RUN_IN_NODE), RUN_IN_NODE))
            continue
        on_progress(f"running {file.path}")
        run = run_file(file.path, samples[file.path], batch_size=file.batch_size)
        reports.append(_report(file, run, reference, other, list_outputs=len(files) == 1))
    return tuple(reports)


def read_file(path: Path) -> ModelFile:
    """Returns a file to verify, whether or not it can be read."""
    description: Description | SavedModelError
    if path.suffix == TFJS:
        return ModelFile(path, find_exported_file(path), SavedModelError(RUN_IN_NODE))
    try:
        description = read_model_file(path)
    except SavedModelError as error:
        description = error
    return ModelFile(path, find_exported_file(path), description)


def image_shape(path: Path) -> tuple[int | None, ...]:
    """Returns the shape of a model's images `[N, H, W, 3]`; None for any length, and for what cannot be read."""
    try:
        if path.is_dir():
            return (None, *fixed_image_size([read_meta_graph(path)]), 3)
        return read_model_file(path).image_shape
    except SavedModelError:
        return (None,) * 4


def batch_size(path: Path, shape: Sequence[int | None]) -> int | None:
    """Returns the number of images that a model takes at once; None for any."""
    return 1 if path.suffix == GRAPH else shape[0]


def image_size(shape: Sequence[int | None], other_shape: Sequence[int | None]) -> Size:
    """Returns the height and width that a model requires, or else those of another model; None for any."""
    _, height, width, _ = shape
    _, other_height, other_width, _ = other_shape
    return height or other_height, width or other_width


def _report(
    file: ModelFile, run: FileRun, reference: FileRun | None, other: OtherModel | None, *, list_outputs: bool
) -> Report:
    name, reason = other.name if other else "", NO_REFERENCE
    has_own_suppression = isinstance(file.description, Description) and file.description.has_own_suppression
    if has_own_suppression and other is not None and other.is_source:
        reference, reason = None, OWN_SUPPRESSION
    agreement = file.exported.entry.agreement if file.exported else None

    def compared() -> Check:
        if agreement is not None:  # of lower precision: its scores are not those of the reference
            return check_agreement(run, reference, name, reason, agreement.min_share)
        return check_against(run, reference, name, reason, list_outputs=list_outputs)

    checks: Sequence[Callable[[], Check]] = (
        lambda: check_files(file),
        lambda: check_interface(file),
        lambda: check_runtime(run),
        lambda: check_batch(run),
        lambda: check_outputs(run, reference, clipped=not has_own_suppression),
        compared,
    )
    return Report(
        file.path,
        tuple(check() for check in checks),
        _record(file),
        image_results(run, reference),
        kind=Kind.FILE,
    )


def _report_of_unrun(file: ModelFile, interface: Check, reason: str) -> Report:
    """Returns the report of a file that no runtime here runs."""
    checks = (check_files(file), interface, Check("runtime", Status.SKIPPED, reason))
    return Report(file.path, checks, _record(file), kind=Kind.FILE)


def _record(file: ModelFile) -> ExportRecord:
    """Returns the record of the files that exist."""
    description = file.description
    existing = description.files if isinstance(description, Description) else [file.path]
    folder = file.exported.folder if file.exported else file.path.parent
    return ExportRecord(files={os.path.relpath(path, folder): file_digest(path) for path in existing if path.is_file()})


def check_files(file: ModelFile) -> Check:
    """Checks that the files are complete, and those that were exported."""
    description, exported = file.description, file.exported
    problems = exported_file_problems(exported) if exported else []
    existing = [file.path] if file.path.is_file() else []
    if file.path.suffix == TFJS and exported:
        existing = [path for name in exported.entry.files if (path := exported.folder / name).is_file()]
    if isinstance(description, Description):
        existing = list(description.files)
        problems += description.problems if not problems else []  # a file that is missing is one problem
    size = f"{amount(len(existing), 'file')}, {megabytes(sum(path.stat().st_size for path in existing))}"
    if exported is None:
        detail = f"{size}; not compared, since no export.json beside it or in the folder above lists it"
        return check_result("files", problems, detail, status=Status.SKIPPED)
    return check_result("files", problems, f"{size}, equal to export.json")


def check_interface(file: ModelFile) -> Check:
    """Checks that the model takes images, and returns the outputs of a detector that export.json lists."""
    description = file.description
    if isinstance(description, SavedModelError):
        return Check("interface", Status.FAILED, str(description))
    problems = detector_problems(description)
    recorded = file.exported.entry.outputs if file.exported else ()
    missing = [name for name in recorded if name not in description.outputs]
    if missing:
        problems.append(f"it has no output {', '.join(missing)}, which export.json lists")
    inputs = ", ".join(f"{name} {tensor}" for name, tensor in description.inputs.items())
    tensors = {
        "inputs": {name: str(tensor) for name, tensor in description.inputs.items()},
        "outputs": {name: str(tensor) for name, tensor in description.outputs.items()},
    }
    return check_result("interface", problems, f"{inputs} -> {amount(len(description.outputs), 'output')}", tensors)
