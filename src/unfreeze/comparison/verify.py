"""Verifies a SavedModel that exists already, alone or against another model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.comparison.verify_checkpoint import verify_against_checkpoint
from unfreeze.errors import SavedModelError
from unfreeze.export_record import read_record
from unfreeze.model_paths import is_graph_path, saved_model_folder
from unfreeze.staging import require_writable_file
from unfreeze.verification import Report, verify_saved_model
from unfreeze.verification.html_report import write_html_report
from unfreeze.verification.sample_inputs import require_images
from unfreeze.weights import locate_checkpoint


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
    """Returns the report of all checks of a SavedModel.

    Args:
        saved_model: the folder with saved_model.pb, or the export folder above it.
        against: a frozen graph (.pb) or a SavedModel that must return the same outputs; or the checkpoint, whose
            weights must be in variables/ byte for byte, and which is exported again to compare the outputs.
        images: images to run the models on; by default a generated image.
        label_map: label map with the keypoints of a CenterNet checkpoint, if its own is not on this machine; by
            default the one in the SavedModel's assets/.
        report_path: an HTML file for the report.
        overwrite: replace an existing file at `report_path`.

    Raises:
        SavedModelError, CheckpointError, ImageError: a path is not what it should be.
        OutputError: the report cannot be written.
        UnfreezeError: the checkpoint cannot be exported.
    """
    folder = saved_model_folder(saved_model)
    html = Path(report_path) if report_path is not None else None
    if html is not None:
        require_writable_file(html, "--report", overwrite=overwrite)
    require_images(images)
    if against is None:
        report = verify_saved_model(folder, images=images, on_progress=on_progress)
    elif is_graph_path(against):
        graph = saved_model_folder(against) if Path(against).is_dir() else Path(against)
        if not graph.exists():
            raise SavedModelError(f"{graph} does not exist. Pass a frozen graph (.pb), a SavedModel or a checkpoint.")
        report = verify_saved_model(folder, against=graph, images=images, on_progress=on_progress)
    else:
        locate_checkpoint(against)
        report = verify_against_checkpoint(folder, against, label_map, images=images, on_progress=on_progress)
    if html is not None:
        write_html_report(html, report, read_record(folder), place=folder)
    return report
