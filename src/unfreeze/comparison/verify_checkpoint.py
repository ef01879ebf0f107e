"""Verifies a SavedModel against a checkpoint: the weights by their bytes, the outputs by exporting it again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config import read_pipeline_config
from unfreeze.errors import CheckpointError, ConfigError, SavedModelError
from unfreeze.export_record import ExportRecord, SlimmingRecord, find_exported_file, read_record
from unfreeze.exporting.option_checks import allowed_detections
from unfreeze.exporting.side_inputs import SideInput
from unfreeze.model_paths import CONFIG, find_pipeline_config
from unfreeze.verification import ExpectedWeight, Report, WorkerProcesses, expected_constant, verify_saved_model
from unfreeze.weights import Checkpoint, open_checkpoint


def verify_against_checkpoint(
    saved_model: Path,
    checkpoint_path: str | Path,
    label_map: str | Path | None = None,
    *,
    images: Sequence[str | Path],
    on_progress: OnMessage,
) -> Report:
    """Returns the report of a SavedModel whose weights and outputs are compared with those of a checkpoint.

    Raises: UnfreezeError if the checkpoint cannot be read or exported, or does not belong to the SavedModel.
    """
    record = require_record(saved_model)
    with WorkerProcesses() as workers, TemporaryDirectory(prefix="unfreeze-") as scratch:
        on_progress(f"reading {checkpoint_path}")
        checkpoint = open_exported_step(checkpoint_path, record)
        weights = expected_weights(checkpoint, record)
        on_progress(f"exporting {checkpoint.prefix} again")
        return verify_saved_model(
            saved_model,
            weights=weights,
            against=export_again(checkpoint, saved_model, record, Path(scratch), label_map),
            against_name=str(checkpoint.prefix),
            images=images,
            workers=workers,
            on_progress=on_progress,
        )


def export_again_for_file(
    checkpoint_path: str | Path, file: Path, folder: Path, label_map: str | Path | None = None
) -> Path:
    """Exports a checkpoint into `folder` as the file of another runtime was exported, and returns the SavedModel.

    Raises: UnfreezeError if the checkpoint cannot be read or exported, or if no export.json lists the file.
    """
    exported = find_exported_file(file)
    if exported is None:
        raise SavedModelError(
            f"{file} is not listed in an export.json, which says how the checkpoint was exported. "
            "Compare with another model instead."
        )
    checkpoint = open_exported_step(checkpoint_path, exported.record)
    return export_again(checkpoint, exported.folder / "saved_model", exported.record, folder, label_map)


def require_record(saved_model: Path) -> ExportRecord:
    """Returns the export record of a SavedModel.

    Raises: SavedModelError if there is none, so that the variable of each weight is not known.
    """
    record = read_record(saved_model)
    if record is None or not record.weights:
        raise SavedModelError(
            f"{saved_model} has no export.json beside it, which lists the variable of each weight of the checkpoint. "
            "Compare with the checkpoint's frozen graph or SavedModel instead."
        )
    return record


def open_exported_step(path: str | Path, record: ExportRecord) -> Checkpoint:
    """Opens a checkpoint; in a training folder the step that was exported, even if later ones exist."""
    return open_checkpoint(path, record.checkpoint.step if record.checkpoint and Path(path).is_dir() else None)


def expected_weights(checkpoint: Checkpoint, record: ExportRecord) -> dict[str, ExpectedWeight]:
    """Returns each exported weight with the value that the checkpoint has.

    Raises: CheckpointError if the checkpoint lacks one.
    """
    if record.has_constant_weights:  # folded constants are not in the checkpoint; the outputs verify them
        unfolded = [key for key in record.weights if key in checkpoint.tensors]
        return {key: expected_constant(checkpoint.read(key)) for key in unfolded}
    missing = [key for key in record.weights if key not in checkpoint.tensors]
    if missing:
        raise CheckpointError(
            f"{checkpoint.prefix} lacks {len(missing)} of the {len(record.weights)} weights that were exported, such "
            f"as {missing[0]}. Pass the checkpoint that the SavedModel was exported from."
        )
    return {
        key: ExpectedWeight(weight.variable, partial(checkpoint.read, key)) for key, weight in record.weights.items()
    }


def export_again(
    checkpoint: Checkpoint,
    saved_model: Path,
    record: ExportRecord,
    folder: Path,
    label_map: str | Path | None = None,
) -> Path:
    """Exports a checkpoint into `folder` as `saved_model` was exported, and returns the new SavedModel.

    Uses the pipeline.config of the checkpoint, or else the one beside the SavedModel.
    """
    from unfreeze.exporting.from_checkpoint import export_checkpoint  # imports TensorFlow, which takes seconds

    override = record.config_override or ""
    try:
        config = find_pipeline_config(checkpoint.prefix, None)
    except ConfigError:
        config = saved_model.parent / CONFIG
        if not config.is_file():
            raise
        # An exported config does not use moving averages any more, but this checkpoint still has them.
        override = f"eval_config {{ use_moving_averages: {str(used_moving_averages(record)).lower()} }}"
    slimming = record.slimming or SlimmingRecord()
    side_inputs = {name: SideInput(dtype, tuple(shape)) for name, (dtype, shape) in (record.side_inputs or {}).items()}
    return export_checkpoint(
        checkpoint.prefix,
        pipeline_config_path=config,
        output_directory=folder,
        input_shape=record.input_shape,
        label_map=label_map or next(iter(sorted((saved_model / "assets").glob("*.pbtxt"))), None),
        side_inputs=side_inputs or None,
        config_override=override,
        weights=record.binding or "variables",
        suppression=record.suppression or "kernel",
        kept_outputs=slimming.kept_outputs,
        score_threshold=slimming.score_threshold,
        max_detections=_recorded_limit(slimming, config, override),
        allow_unknown_fields=True,
        verify=False,
    ).saved_model


def _recorded_limit(slimming: SlimmingRecord, config: Path, override: str) -> int | None:
    """Returns the number of detections that was requested; None if it is above the config's, as 0.3.0 accepted it."""
    if slimming.max_detections is None:
        return None
    read = read_pipeline_config(config, allow_unknown_fields=True, override=override, on_warning=ignore)
    return slimming.max_detections if slimming.max_detections <= allowed_detections(read) else None


def used_moving_averages(record: ExportRecord) -> bool:
    """Returns whether the export used moving averages for the variables."""
    averages = record.moving_averages
    return averages is not None and bool(averages.used or averages.missing)
