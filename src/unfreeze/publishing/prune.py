"""Removes old versions of a model base path."""

from __future__ import annotations

from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.publishing.base_paths import open_base_path
from unfreeze.publishing.labels import locked, read_labels, write_labels
from unfreeze.publishing.version_numbers import removable_versions, require_versions


def prune(model_base_path: str | Path, *, keep: int, on_warning: OnMessage = ignore) -> list[int]:
    """Removes old versions, except the `keep` newest and those that have a label, and returns the removed versions.

    Raises: SavedModelError if the base path has no versions. OutputError if `keep` is less than 1, or if a version
        cannot be removed.
    """
    base = open_base_path(model_base_path)
    require_versions(base.versions(), base)  # before the lock, which creates the folder
    with locked(base, on_warning):
        removed = removable_versions(base.versions(), keep, read_labels(base))
        # Servers stop loading them before their files are removed.
        write_labels(base, read_labels(base), removed=removed)
    for version in removed:
        base.remove(version)
    return removed
