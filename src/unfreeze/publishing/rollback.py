"""Serves an older version again, by publishing its content as a new version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import OutputError, SavedModelError
from unfreeze.export_record import read_record
from unfreeze.publishing.base_paths import BasePath, open_base_path
from unfreeze.publishing.labels import locked, place, read_labels
from unfreeze.publishing.publish import Published
from unfreeze.publishing.version_numbers import require_version, require_versions
from unfreeze.publishing.version_records import original_version, records_to_publish


@dataclass(frozen=True, kw_only=True)
class RolledBack(Published):
    """A version with the content of an older one, published instead of the version that was withdrawn."""

    withdrawn: int
    copy_of: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON data."""
        return {**super().to_dict(), "withdrawn": self.withdrawn, "copy_of": self.copy_of}

    def __str__(self) -> str:
        return (
            f"published version {self.version} of {self.base}, a copy of version {self.copy_of}, "
            f"instead of version {self.withdrawn}"
        )


def rollback(
    model_base_path: str | Path,
    *,
    to: int | None = None,
    on_progress: OnMessage = ignore,
    on_warning: OnMessage = ignore,
) -> RolledBack:
    """Publishes the content of an older version as a new version, since servers load the highest number.

    Labels of the newest version move to the new one.

    Args:
        model_base_path: the folder of versions, or a URL of an object store.
        to: the version to go back to; by default the one that was served before the content of the newest version.

    Raises:
        SavedModelError: there is no such version, or none to go back to. OutputError: it is the newest version, or
            another version was published at the same time.
    """
    base = open_base_path(model_base_path)
    versions = base.versions()
    require_versions(versions, base)
    newest = max(versions)
    source = require_version(to, versions, base) if to is not None else _previous(base, versions, newest)
    if source == newest:
        raise OutputError(f"{base}: version {to} is the newest version already")
    from unfreeze.targets.warmup import check_warmup  # imports TensorFlow, which takes seconds

    with base.local_copy(source) as folder:
        on_progress(f"copying version {source}")
        records = records_to_publish(read_record(folder), copy_of=original_version(base, versions, source))
        with base.staged(folder, records) as staged:
            check_warmup(staged.folder)
            with locked(base, on_warning):
                if max(base.versions()) != newest:
                    raise OutputError(
                        f"{base}: version {max(base.versions())} was published at the same time. "
                        "Check whether to roll back that one."
                    )
                before = read_labels(base)
                number, labels = place(
                    base,
                    staged,
                    None,
                    lambda number: {label: number if old == newest else old for label, old in before.items()},
                )
    return RolledBack(base=str(base), version=number, labels=labels, withdrawn=newest, copy_of=source)


def _previous(base: BasePath, versions: Mapping[int, str], newest: int) -> int:
    """Returns the version that was served before the content of the newest version was published first."""
    original = original_version(base, versions, newest)
    older = [
        version for version in versions if version < original and original_version(base, versions, version) == version
    ]
    if not older:
        raise SavedModelError(f"{base}: no version to go back to before version {newest}")
    return max(older)
