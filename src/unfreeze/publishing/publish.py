"""Publishes a SavedModel as the next version under a model base path, completely or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import UnsupportedError, VerificationError
from unfreeze.export_record import ExportRecord, read_record
from unfreeze.model_paths import saved_model_folder, saved_model_in
from unfreeze.publishing.base_paths import open_base_path
from unfreeze.publishing.labels import locked, place, read_labels
from unfreeze.publishing.version_numbers import next_version
from unfreeze.publishing.version_records import records_to_publish
from unfreeze.runtimes import find_model_file
from unfreeze.targets.deployable import require_deployable
from unfreeze.targets.model_config import require_label
from unfreeze.targets.server_versions import parse_server_version
from unfreeze.targets.serving_responses import ResponseBytes
from unfreeze.verification import Report, verify_saved_model


@dataclass(frozen=True)
class Published:
    """A version that was published."""

    base: str
    version: int
    labels: Mapping[str, int]
    report: Report | None = field(default=None, compare=False)
    response: ResponseBytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON data."""
        return {
            "model_base_path": self.base,
            "version": self.version,
            "labels": dict(self.labels),
            "verified": self.report is not None and self.report.passed,
            "response_bytes_per_image": self.response.to_dict() if self.response else None,
        }

    def __str__(self) -> str:
        labels = sorted(label for label, version in self.labels.items() if version == self.version)
        published = f"published version {self.version} of {self.base}"
        if labels:
            published += f" with label {', '.join(labels)}"
        return f"{published}\nresponse to one image: {self.response}" if self.response else published


def publish(
    saved_model: str | Path,
    model_base_path: str | Path,
    *,
    version: int | None = None,
    labels: Sequence[str] = (),
    runtimes: Sequence[str] = (),
    verify: bool = True,
    on_progress: OnMessage = ignore,
    on_warning: OnMessage = ignore,
) -> Published:
    """Publishes a SavedModel as a version that model servers load, after it was verified.

    Args:
        saved_model: the folder with saved_model.pb, or the folder of the export above it.
        model_base_path: the folder of versions, or a URL of an object store (s3://bucket/models/NAME).
        version: the number of the version; by default one above the highest existing version.
        labels: names by which clients request a version; they move to this version.
        runtimes: servers such as `tensorflow-serving:2.6`; an operation that one of them does not know is an error.
        verify: whether to load the copy, run it and check it before it is published.

    Raises:
        UnfreezeError: an error of the kind that fits; the existing versions stay as they were. VerificationError: a
            check failed.
    """
    require_no_other_format(saved_model)
    folder = saved_model_folder(saved_model)
    base = open_base_path(model_base_path)
    new_labels = [require_label(label) for label in labels]
    record = read_record(folder)
    require_deployable(folder, record, [parse_server_version(runtime) for runtime in runtimes])
    next_version(base.versions(), version, base)  # fails early; the number is chosen when the copy is complete
    from unfreeze.targets.warmup import check_warmup  # imports TensorFlow, which takes seconds

    on_progress(f"copying {folder}")
    with base.staged(folder, records_to_publish(record)) as staged:
        report = _verified(staged.folder, folder, record, on_progress) if verify else None
        on_progress(f"replaying the warm-up requests of {folder}")
        response = check_warmup(staged.folder, on_warning)
        on_progress(f"adding a version to {base}")
        with locked(base, on_warning):
            before = read_labels(base)
            number, all_labels = place(
                base, staged, version, lambda number: {**before, **dict.fromkeys(new_labels, number)}
            )
            on_progress(f"version {number} is in place")
    return Published(str(base), number, all_labels, report, response)


def require_no_other_format(path: str | Path) -> None:
    """Raises UnsupportedError for a file of another runtime, and for an export that has such files only."""
    file = find_model_file(Path(path))
    if file is None or saved_model_in(Path(path)):
        return
    raise UnsupportedError(
        f"not supported: {file.path} is a file of {file.runtime.name}, and unfreeze publish takes SavedModels only, as "
        f"TensorFlow Serving and KServe do. Export with --format saved_model; or, for unfreeze serve, copy the file to "
        f"NUMBER/{file.runtime.files[0]} in the model base path."
    )


def _verified(copy: Path, source: Path, record: ExportRecord | None, on_progress: OnMessage) -> Report:
    report = verify_saved_model(copy, record=record, on_progress=on_progress)
    if not report.passed:
        raise VerificationError(f"{source}: not published, since a check failed:\n{report.table()}")
    return report
