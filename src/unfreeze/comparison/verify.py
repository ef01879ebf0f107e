"""Verifies an existing SavedModel, model files of other runtimes, or an export with both, alone or against a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.comparison.verify_checkpoint import export_again_for_file, verify_against_checkpoint
from unfreeze.comparison.verify_files import OtherModel, image_shape, image_size, verify_files
from unfreeze.errors import SavedModelError
from unfreeze.export_record import RECORD, ExportRecord, find_exported_file, read_record
from unfreeze.inspection.model_files import OTHER_RUNTIMES, READERS, model_file, model_files_in, require_runtime
from unfreeze.model_paths import SAVED_MODEL, is_graph_path, saved_model_folder
from unfreeze.staging import require_writable_file
from unfreeze.verification import Report, verify_saved_model
from unfreeze.verification.html_report import write_html_report
from unfreeze.verification.model_file import function_of
from unfreeze.verification.report import Kind
from unfreeze.verification.sample_inputs import image_pairs, require_images
from unfreeze.weights import locate_checkpoint

ADVICE = (
    f"Pass a SavedModel (a folder with {SAVED_MODEL}), an export folder, or a model file (.pb, "
    f"{', '.join(OTHER_RUNTIMES)})."
)


@dataclass(frozen=True)
class Target:
    """What is verified: a SavedModel, files of other runtimes, or both. `path` is an export folder, or one file."""

    path: Path
    saved_model: Path | None = None
    files: tuple[Path, ...] = ()

    @property
    def is_file(self) -> bool:
        """Whether it is one file, not an export."""
        return self.files == (self.path,)


def verify(
    saved_model: str | Path,
    *,
    against: str | Path | None = None,
    images: Sequence[str | Path] = (),
    label_map: str | Path | None = None,
    report_path: str | Path | None = None,
    overwrite: bool = False,
    on_progress: OnMessage = ignore,
) -> Report:
    """Returns the report of all checks of a model.

    Args:
        saved_model: a SavedModel (the folder with saved_model.pb); a file of another runtime (.onnx, .xml, .tflite) or
            a frozen graph (.pb); or an export folder, whose SavedModel and other files are all verified.
        against: another model that must return the same outputs: a SavedModel, a frozen graph or a file of another
            runtime; or the checkpoint, whose weights must be in variables/ byte for byte, and which is exported again
            to compare the outputs. By default, files are compared with the SavedModel of their export.
        images: images to run the models on; by default a generated image.
        label_map: label map with the keypoints of a CenterNet checkpoint, if its own is not on this machine; by
            default the one in the SavedModel's assets/.
        report_path: an HTML file for the report.
        overwrite: replace an existing file at `report_path`.

    Raises:
        SavedModelError, CheckpointError, ImageError: a path is not what it should be.
        MissingExtraError: the runtime of a file is not installed.
        OutputError: the report cannot be written.
        UnfreezeError: the checkpoint cannot be exported.
    """
    target = find_target(saved_model)
    html = Path(report_path) if report_path is not None else None
    if html is not None:
        require_writable_file(html, "--report", overwrite=overwrite)
    require_images(images)
    for file in target.files:
        if file.suffix in READERS:  # TensorFlow.js is not run here
            require_runtime(file)
    other = find_other_model(against)
    if target.saved_model is None:
        report = Report(target.path, (), kind=Kind.FOLDER)
    else:
        report = _verify_saved_model(target.saved_model, against, other, label_map, images, on_progress)
    if target.files:
        with _compared_with(target, against, other, label_map, on_progress) as other:
            parts = verify_files(target.files, other, images=images, on_progress=on_progress)
        report = parts[0] if target.is_file else _joined(report, parts)
    if html is not None:
        write_html_report(html, report, _record_of(target), place=report.path)
    return report


def find_target(path: str | Path) -> Target:
    """Returns what is to be verified at a path.

    Raises: SavedModelError: there is no model.
    """
    path = Path(path)
    if "://" in str(path) or path.name == SAVED_MODEL or (path / SAVED_MODEL).is_file():
        return Target(path, saved_model_folder(path))
    if path.is_file() and path.suffix in READERS:
        return Target(path, files=(path,))
    if path.is_dir():
        saved_model, files = path / "saved_model", _files_of_export(path)
        if (saved_model / SAVED_MODEL).is_file():
            return Target(path, saved_model, files)
        if files:
            is_export = (path / RECORD).is_file() or len(files) > 1
            return Target(path if is_export else files[0], files=files)
    problem = "does not exist" if not path.exists() else "has no model" if path.is_dir() else "is not a model"
    raise SavedModelError(f"{path} {problem}. {ADVICE}")


def find_other_model(against: str | Path | None) -> OtherModel | None:
    """Returns the model to compare with; None if there is none, or if it is a checkpoint.

    Raises: UnfreezeError: there is no such model or checkpoint.
    """
    if against is None:
        return None
    path = Path(against)
    if is_graph_path(path) and path.is_dir():
        return OtherModel(saved_model_folder(path), str(against))
    if (model := model_file(path)) or path.suffix in READERS:
        path = model or path
        if not path.exists():
            raise SavedModelError(f"{path} does not exist. Pass a SavedModel, a model file or a checkpoint.")
        require_runtime(path)
        return OtherModel(path, str(against))
    locate_checkpoint(path)
    return None


def _files_of_export(folder: Path) -> tuple[Path, ...]:
    """Returns the files that export.json lists, even if they are missing; without one, those that exist."""
    if not (folder / RECORD).is_file():
        return tuple(model_files_in(folder))
    record = read_record(folder) or ExportRecord()
    return tuple(folder / entry.file for entry in (record.formats or {}).values())


def _verify_saved_model(
    folder: Path,
    against: str | Path | None,
    other: OtherModel | None,
    label_map: str | Path | None,
    images: Sequence[str | Path],
    on_progress: OnMessage,
) -> Report:
    if against is None:
        return verify_saved_model(folder, images=images, on_progress=on_progress)
    if other is None:
        return verify_against_checkpoint(folder, against, label_map, images=images, on_progress=on_progress)
    if other.path.suffix not in OTHER_RUNTIMES:
        return verify_saved_model(folder, against=other.path, images=images, on_progress=on_progress)
    size = image_size(image_shape(other.path), image_shape(folder))
    return verify_saved_model(
        folder,
        against=function_of(other.path),
        against_name=other.name,
        images=image_pairs(images, size),
        on_progress=on_progress,
    )


@contextmanager
def _compared_with(
    target: Target,
    against: str | Path | None,
    other: OtherModel | None,
    label_map: str | Path | None,
    on_progress: OnMessage,
) -> Iterator[OtherModel | None]:
    """Yields the model that files are compared with, by default the SavedModel of their export."""
    saved_model = target.saved_model or saved_model_beside(target.files[0])
    if other is None and against is not None and target.saved_model is None:
        with TemporaryDirectory(prefix="unfreeze-") as scratch:
            on_progress(f"exporting {against} again")
            exported = export_again_for_file(against, target.files[0], Path(scratch), label_map)
            yield OtherModel(exported, str(against), is_source=True)
    elif other is None and saved_model is not None:
        yield OtherModel(saved_model, str(saved_model), is_source=True)
    else:
        yield other


def saved_model_beside(file: Path) -> Path | None:
    """Returns the SavedModel of the export that has a file; None if there is none."""
    exported = find_exported_file(file)
    folders = (exported.folder,) if exported else (file.parent, file.parent.parent)
    saved_models = (folder / "saved_model" for folder in folders)
    return next((path for path in saved_models if (path / SAVED_MODEL).is_file()), None)


def _record_of(target: Target) -> ExportRecord | None:
    if target.is_file:
        exported = find_exported_file(target.path)
        return exported.record if exported else None
    return read_record(target.saved_model or target.path)


def _joined(report: Report, parts: tuple[Report, ...]) -> Report:
    """Returns the report of a model or a folder with those of its files."""
    files = {name: file for part in (report, *parts) for name, file in part.record.files.items()}
    return replace(report, parts=parts, record=replace(report.record, files=files))
