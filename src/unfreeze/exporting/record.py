"""What an export leaves: its folder, what export.json says of it, and what was proved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import tensorflow as tf

from unfreeze import verification
from unfreeze.errors import ConfigError, VerificationError
from unfreeze.export_record import RECORD
from unfreeze.inspection.inspection import Inspection
from unfreeze.verification.weight_digests import weights_record
from unfreeze.version import __version__
from unfreeze.weights import Checkpoint

Say = Callable[[str], None]
Labels = tuple[Path, Mapping[int, str]]


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and the report of its verification; of a dry run, only what it would export."""

    folder: Path
    record: Mapping[str, Any]
    report: verification.Report | None
    dry_run: Inspection | None = None

    @property
    def saved_model(self) -> Path:
        return self.folder / "saved_model"

    def to_dict(self) -> dict[str, Any]:
        if self.dry_run is not None:
            return self.dry_run.to_dict()
        return {"output_directory": str(self.folder), "saved_model": str(self.saved_model), **self.record}


def worker_processes(
    verify: bool, given: verification.WorkerProcesses | None
) -> AbstractContextManager[verification.WorkerProcesses | None]:
    """The processes that verify: those given, or new ones; none where nothing is to be verified."""
    return verification.WorkerProcesses() if verify and given is None else nullcontext(given)


def require_report(path: str | Path | None, *, verify: bool, overwrite: bool) -> Path | None:
    """Where the HTML report is to go; what is wrong with that is told before the long work.

    Raises: OutputError, ConfigError.
    """
    if path is None:
        return None
    if not verify:
        raise ConfigError("--report tells what was verified: it does not go with --no-verify")
    from unfreeze.verification.html_report import require_writable  # which draws: memory that most exports do not need

    require_writable(Path(path), overwrite=overwrite)
    return Path(path)


def write_record(
    folder: Path, record: Mapping[str, Any], report: verification.Report | None, target: Path, report_path: Path | None
) -> None:
    """Write export.json, and the HTML report if it is wanted, which is there for a check that failed, too.

    Raises: VerificationError when a check has failed; `target` is where the export was to go.
    """
    if report_path is not None and report is not None:
        from unfreeze.verification.html_report import write_html_report

        write_html_report(report_path, report, record, place=target / "saved_model")
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if report is not None and not report.passed:
        raise VerificationError(f"{target}: not exported, since a check of it failed:\n{report.table()}")


def written_by() -> dict[str, Any]:
    """What wrote an export, and when."""
    return {
        "unfreeze": __version__,
        "tensorflow": tf.__version__,
        "exported_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def checkpoint_record(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which checkpoint gave the weights."""
    return {
        "prefix": str(checkpoint.prefix),
        "step": checkpoint.step,
        "format": checkpoint.format,
        "files": {
            path.name: {"size_bytes": path.stat().st_size, "sha256": sha256(path)} for path in checkpoint.files()
        },
    }


def verification_record(
    report: verification.Report | None, weights: Mapping[str, verification.ExpectedWeight]
) -> dict[str, Any]:
    """What was proved, and which variable each weight is, for `verify` to check later."""
    proved = {
        "verified": report is not None and report.passed,
        "checks": [check.to_dict() for check in report.checks] if report else [],
    }
    if report is not None:
        return proved | dict(report.record)
    return proved | {
        "weights": weights_record(weights, {weight.variable: weight.stored() for weight in weights.values()})
    }


def labels_of(path: str | Path | None) -> Labels | None:
    """A label map: its file, and the names in it."""
    if path is None:
        return None
    from unfreeze.config import read_label_map

    labels = read_label_map(path)
    return Path(path), {number: labels.text(number) for number in labels.names}


def types_to_write(given: Sequence[str], possible: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """The signatures to write, that of `serving_default` first: those given if there are several, else all."""
    first = given[:1] or default[:1]
    return tuple(dict.fromkeys([*first, *(given if len(given) > 1 else possible)]))


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
