"""The steps that every export shares: it is written aside, verified, recorded in export.json, moved into place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config import PipelineConfig, is_keras_model
from unfreeze.errors import ConfigError, OutputError, VerificationError
from unfreeze.export_record import RECORD, CheckRecord, ExportRecord, write_record
from unfreeze.formats import FORMATS
from unfreeze.formats import SAVED_MODEL as SAVED_MODEL_FORMAT
from unfreeze.inspection.inspection import Inspection
from unfreeze.model_paths import CONFIG
from unfreeze.staging import output_error, require_absent, require_writable_file, staged
from unfreeze.verification import ExpectedWeight, Report, WorkerProcesses, verify_saved_model
from unfreeze.verification.weight_digests import weights_record
from unfreeze.version import __version__
from unfreeze.weights.checkpoints import step_of

SAVED_MODEL = "saved_model"
CHECKPOINT = "model.ckpt"  # the prefix that `write_checkpoint` adds
CHECKPOINT_ENTRIES = ("checkpoint", f"{CHECKPOINT}.index", f"{CHECKPOINT}.data-00000-of-00001")
META_GRAPH, INFERENCE_GRAPH = f"{CHECKPOINT}.meta", "inference_graph.pbtxt"


@dataclass(frozen=True)
class Exported:
    """The result of an export: what it wrote, and the report of its verification; of a dry run, only the plan."""

    folder: Path
    record: ExportRecord
    report: Report | None
    dry_run: Inspection | None = None
    has_saved_model: bool = True  # not with other formats only

    @property
    def saved_model(self) -> Path:
        """Returns the folder with saved_model.pb."""
        return self.folder / SAVED_MODEL

    def to_dict(self) -> dict[str, Any]:
        """Returns what `unfreeze export --json` prints."""
        if self.dry_run is not None:
            return self.dry_run.to_dict()
        saved_model = {"saved_model": str(self.saved_model)} if self.has_saved_model else {}
        return {"output_directory": str(self.folder), **saved_model, **self.record.to_dict()}


@dataclass(frozen=True)
class ExportJob:
    """The destination of an export, and how it is verified.

    Args:
        entries: the files and folders in `target` that it writes.
        report_path: an HTML file for the report of the verification.
        workers: the worker processes of the verification, if they run already.

    Raises:
        OutputError, ConfigError: an output exists already, or the HTML report cannot be written.
    """

    target: Path
    entries: Sequence[str]
    overwrite: bool
    verify: bool
    report_path: Path | None
    workers: WorkerProcesses | None
    on_progress: OnMessage

    def __post_init__(self) -> None:
        if self.report_path is not None:
            if not self.verify:
                raise ConfigError(
                    "--report shows what was verified: it cannot be combined with --no-verify; remove one of them"
                )
            require_writable_file(self.report_path, "--report", overwrite=self.overwrite)
        require_absent(self.target, self.entries, overwrite=self.overwrite)

    @contextmanager
    def staged(self) -> Iterator[StagedExport]:
        """Returns a folder to write into, whose entries move to `target` when the block ends without an error."""
        with (
            staged(self.target, self.entries, overwrite=self.overwrite) as folder,
            self._running_workers() as workers,
        ):
            yield StagedExport(self, folder, workers)
            self.on_progress("putting it in place")

    def _running_workers(self) -> AbstractContextManager[WorkerProcesses | None]:
        if not self.verify:
            return nullcontext(None)
        return WorkerProcesses() if self.workers is None else nullcontext(self.workers)


def checkpoint_export_job(
    prefix: Path,
    *,
    formats: Sequence[str] = (SAVED_MODEL_FORMAT,),
    checkpoint_entries: Sequence[str] = (),
    output_directory: str | Path | None,
    overwrite: bool,
    verify: bool,
    report_path: str | Path | None,
    workers: WorkerProcesses | None = None,
    on_progress: OnMessage = ignore,
) -> ExportJob:
    """Returns the job of exporting a checkpoint, by default to `exported-STEP`."""
    step = step_of(prefix)
    target = Path(output_directory or ("exported" if step is None else f"exported-{step}"))
    with_saved_model = SAVED_MODEL_FORMAT in formats
    if not with_saved_model and overwrite and (target / SAVED_MODEL).exists():
        raise OutputError(
            f"{target / SAVED_MODEL}: is from another export, which {RECORD} would no longer describe; choose another "
            "--output-directory, or add --format saved_model"
        )
    return ExportJob(
        target=target,
        entries=(
            *((SAVED_MODEL,) if with_saved_model else ()),
            *(FORMATS[name].entry for name in formats if name in FORMATS),
            *checkpoint_entries,
            CONFIG,
            RECORD,
        ),
        overwrite=overwrite,
        verify=verify and with_saved_model,  # the other formats verify their files themselves
        report_path=Path(report_path) if report_path is not None else None,
        workers=workers,
        on_progress=on_progress,
    )


def checkpoint_entries(config: PipelineConfig, *, write_checkpoint: bool, write_inference_graph: bool) -> list[str]:
    """Returns the files and folders of the checkpoint that are written beside the SavedModel."""
    if is_keras_model(config):
        return ["checkpoint"] if write_checkpoint else []
    entries = [*CHECKPOINT_ENTRIES, META_GRAPH] if write_checkpoint else []
    return [*entries, *([INFERENCE_GRAPH] if write_inference_graph else [])]


def graph_export_job(
    *,
    output_directory: str | Path | None,
    write_checkpoint: bool,
    overwrite: bool,
    verify: bool,
    report_path: str | Path | None,
    workers: WorkerProcesses | None = None,
    on_progress: OnMessage = ignore,
) -> ExportJob:
    """Returns the job of exporting a frozen graph, by default to `exported`."""
    return ExportJob(
        target=Path(output_directory or "exported"),
        entries=(SAVED_MODEL, RECORD, *(CHECKPOINT_ENTRIES if write_checkpoint else ())),
        overwrite=overwrite,
        verify=verify,
        report_path=Path(report_path) if report_path is not None else None,
        workers=workers,
        on_progress=on_progress,
    )


@dataclass(frozen=True)
class StagedExport:
    """An export that is being written."""

    job: ExportJob
    folder: Path
    _workers: WorkerProcesses | None

    @property
    def saved_model(self) -> Path:
        """Returns the folder with saved_model.pb."""
        return self.folder / SAVED_MODEL

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raises OutputError for the errors of TensorFlow and of the system about a file that cannot be written."""
        import tensorflow as tf

        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise output_error(self.job.target, error) from None

    def verify(
        self,
        record: ExportRecord,
        weights: Mapping[str, ExpectedWeight],
        *,
        against: Path | None = None,
        against_name: str | None = None,
    ) -> Report | None:
        """Returns the report of all checks; None if none are wanted."""
        if self._workers is None:
            return None
        return verify_saved_model(
            self.saved_model,
            weights=weights,
            against=against,
            against_name=against_name,
            record=record,
            workers=self._workers,
            on_progress=self.job.on_progress,
        )

    def finish(self, record: ExportRecord, weights: Mapping[str, ExpectedWeight], report: Report | None) -> Exported:
        """Writes the HTML report, if one is wanted, and export.json with the results of the checks.

        Raises:
            VerificationError: a check has failed; the HTML report is written nevertheless.
        """
        import tensorflow as tf

        if report is None:
            stored = {weight.variable: weight.digest() for weight in weights.values()}
            record = replace(record, weights=weights_record(weights, stored))
        else:
            checks = [CheckRecord(check.name, check.status, check.detail, check.numbers) for check in report.checks]
            record = replace(record, verified=report.passed, checks=checks)
            record = replace(record, weights=report.record.weights, files=report.record.files)
        record = replace(
            record,
            unfreeze=__version__,
            tensorflow=tf.__version__,
            exported_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        if report is not None and self.job.report_path is not None:
            from unfreeze.verification.html_report import write_html_report  # imports Pillow, which few exports need

            write_html_report(self.job.report_path, report, record, place=self.job.target / SAVED_MODEL)
        write_record(self.folder, record)
        if report is not None and not report.passed:
            raise VerificationError(f"{self.job.target}: not exported, since a check of it failed:\n{report.table()}")
        return Exported(self.job.target, record, report, has_saved_model=SAVED_MODEL in self.job.entries)
