"""Prove a SavedModel that exists already, later and elsewhere: alone, or against what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from unfreeze import verification
from unfreeze.errors import CheckpointError, ConfigError, SavedModelError
from unfreeze.export_record import ExportRecord, SlimmingRecord, read_record
from unfreeze.model_paths import CONFIG, find_pipeline_config, is_graph_path, saved_model_folder
from unfreeze.verification.html_report import require_writable, write_html_report

if TYPE_CHECKING:  # they need TensorFlow, which all but a comparison with a checkpoint leaves to the workers
    from unfreeze.weights import Checkpoint


def verify(
    saved_model: str | Path,
    *,
    against: str | Path | None = None,
    images: Sequence[str | Path] = (),
    label_map: str | Path | None = None,
    report_path: str | Path | None = None,
    overwrite: bool = False,
    on_progress: Callable[[str], None] | None = None,
) -> verification.Report:
    """Check everything that can be checked of a SavedModel.

    Args:
        saved_model: the folder with saved_model.pb, or the export's folder above it.
        against: a frozen graph (.pb) or a SavedModel, which must answer the same; or the checkpoint, whose weights
            must be in variables/ byte for byte, and which must answer the same when it is exported again.
        images: pictures to try instead of an artificial one.
        label_map: has the keypoints of a CenterNet checkpoint whose own label map is not on this machine; by default
            the one in the SavedModel's assets/.
        report_path: an HTML file of what was proved (verbs/html_report.py); one that is there only with `overwrite`.

    Raises: SavedModelError, CheckpointError, ImageError, OutputError for what is not what it should be; what `export`
    raises.
    """
    folder = saved_model_folder(saved_model)
    if report_path is not None:
        require_writable(Path(report_path), overwrite=overwrite)
    report = _verified(folder, against, images, label_map, on_progress or (lambda step: None))
    if report_path is not None:
        write_html_report(Path(report_path), report, read_record(folder), place=folder)
    return report


def _verified(
    folder: Path,
    against: str | Path | None,
    images: Sequence[str | Path],
    label_map: str | Path | None,
    say: Callable[[str], None],
) -> verification.Report:
    if against is None or is_graph_path(against):
        other = saved_model_folder(against) if against is not None and Path(against).is_dir() else against
        return verification.verify_saved_model(folder, against=other, images=images, on_progress=say)
    record = recorded(folder)
    with verification.WorkerProcesses() as workers, TemporaryDirectory(prefix="unfreeze-") as again:
        say(f"reading {against}")
        checkpoint = exported_checkpoint(against, record)
        weights = weights_of(checkpoint, record)
        say(f"exporting {checkpoint.prefix} again")
        return verification.verify_saved_model(
            folder,
            weights=weights,
            against=exported_again(checkpoint, folder, record, Path(again), label_map),
            against_name=str(checkpoint.prefix),
            images=images,
            workers=workers,
            on_progress=say,
        )


def recorded(saved_model: Path) -> ExportRecord:
    """What the export said of a SavedModel.

    Raises: SavedModelError when nothing tells which variable is which weight.
    """
    record = read_record(saved_model)
    if record is None or not record.weights:
        raise SavedModelError(
            f"{saved_model} has no export.json beside it, which says which variable is which weight of a checkpoint: "
            "compare with the checkpoint's frozen graph or SavedModel instead"
        )
    return record


def exported_checkpoint(path: str | Path, record: ExportRecord) -> Checkpoint:
    """The checkpoint at `path`; in a folder the step that was exported, not the one that training has reached since."""
    from unfreeze.weights import open_checkpoint

    return open_checkpoint(path, record.checkpoint.step if record.checkpoint and Path(path).is_dir() else None)


def weights_of(checkpoint: Checkpoint, record: ExportRecord) -> dict[str, verification.ExpectedWeight]:
    """Each weight that was exported, as this checkpoint has it.

    Raises: CheckpointError when it lacks one.
    """
    exported = record.weights
    if record.has_constant_weights:  # folded ones are proved by what the model returns
        direct = [key for key in exported if key in checkpoint.tensors]
        return {key: verification.expected_constant(checkpoint.read(key)) for key in direct}
    missing = [key for key in exported if key not in checkpoint.tensors]
    if missing:
        raise CheckpointError(
            f"{checkpoint.prefix} lacks {len(missing)} of the {len(exported)} weights that were exported, such as "
            f"{missing[0]}: give the checkpoint that the SavedModel was made from"
        )
    return {
        key: verification.ExpectedWeight(entry.variable, partial(checkpoint.read, key))
        for key, entry in exported.items()
    }


def exported_again(
    checkpoint: Checkpoint,
    exported: Path,
    record: ExportRecord,
    folder: Path,
    label_map: str | Path | None = None,
) -> Path:
    """A checkpoint as a SavedModel in `folder`, by its own pipeline.config, or else that of `exported`."""
    from unfreeze.exporting.from_checkpoint import export_checkpoint
    from unfreeze.exporting.side_inputs import SideInput

    override = record.config_override or ""
    try:
        config = find_pipeline_config(checkpoint, None)
    except ConfigError:
        # Exported, it does not ask for moving averages any more, but this checkpoint has them beside its variables.
        config = exported.parent / CONFIG
        if not config.is_file():
            raise
        override = f"eval_config {{ use_moving_averages: {str(averaged(record)).lower()} }}"
    slimming = record.slimming or SlimmingRecord()
    return export_checkpoint(
        checkpoint.prefix,
        pipeline_config_path=config,
        output_directory=folder,
        input_shape=record.input_shape,
        label_map=label_map or next(iter(sorted((exported / "assets").glob("*.pbtxt"))), None),
        side_inputs={name: SideInput(dtype, tuple(shape)) for name, (dtype, shape) in record.side_inputs.items()}
        if record.side_inputs
        else None,
        config_override=override,
        weights=record.binding or "variables",
        suppression=record.suppression or "kernel",
        kept_outputs=slimming.kept_outputs,
        score_threshold=slimming.score_threshold,
        max_detections=slimming.max_detections,
        allow_unknown_fields=True,
        verify=False,
    ).saved_model


def averaged(record: ExportRecord) -> bool:
    """Whether the export took moving averages for the variables."""
    averages = record.moving_averages
    return averages is not None and bool(averages.used or averages.missing)
