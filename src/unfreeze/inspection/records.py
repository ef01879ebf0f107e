"""What the export.json beside a model says about it."""

from __future__ import annotations

from pathlib import Path

from unfreeze.errors import SavedModelError
from unfreeze.export_record import ExportedFile, ExportRecord, file_digest, find_exported_file
from unfreeze.formatting import amount
from unfreeze.inspection.inspection import Field, field
from unfreeze.verification.file_checks import digest_mismatches

NOT_VERIFIED = "no: run `unfreeze verify`"


def record_fields(record: ExportRecord) -> list[Field]:
    """Returns the summary of export.json; an export of a frozen graph has fewer entries."""
    if record == ExportRecord():
        return []
    passed = sum(check.status == "passed" for check in record.checks)
    verified = f"yes, {amount(passed, 'check')} passed" if record.verified else NOT_VERIFIED
    return [*source_fields(record), field("verified", record.verified, verified)]


def source_fields(record: ExportRecord) -> list[Field]:
    """Returns what was exported."""
    fields = [
        field("model", record.model),
        field("feature_extractor", record.feature_extractor),
        field("num_classes", record.num_classes),
        field("checkpoint", record.checkpoint and record.checkpoint.prefix),
        field("step", record.checkpoint and record.checkpoint.step, str(record.checkpoint and record.checkpoint.step)),
        field("from_graph", record.graph and record.graph.path),
        field("exported_at", record.exported_at),
    ]
    return [entry for entry in fields if entry.value is not None]


def exported_file_report(path: Path) -> tuple[list[Field], list[str]]:
    """Returns what the export.json beside a model file, or in the folder above, says about it, and the problems."""
    try:
        exported = find_exported_file(path)
    except SavedModelError as error:
        return [], [str(error)]
    if exported is None:
        return [], []
    entry, record = exported.entry, exported.record
    verified = f"yes: {entry.detail}" if entry.verified else entry.detail or NOT_VERIFIED
    fields = [
        field("written_by", f"unfreeze {record.unfreeze}"),
        *source_fields(record),
        field("verified", bool(entry.verified), verified),
    ]
    return fields, exported_file_problems(exported)


def exported_file_problems(exported: ExportedFile) -> list[str]:
    """Describes the files of a format that are not those that export.json lists."""
    recorded = exported.entry.files
    existing = {name: exported.folder / name for name in recorded if (exported.folder / name).is_file()}
    return digest_mismatches({name: file_digest(file) for name, file in existing.items()}, recorded)
