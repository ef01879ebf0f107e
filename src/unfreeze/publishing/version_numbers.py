"""Chooses version numbers: the next one to publish, the old ones to remove."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from unfreeze.errors import OutputError, SavedModelError
from unfreeze.version_folders import LARGEST_VERSION


def next_version(existing: Collection[int], requested: int | None, base: object) -> int:
    """Returns the version to publish: the requested one, by default one above the highest existing version.

    Raises: OutputError if the requested version exists already, or if no number is left.
    """
    if requested is None:
        version = max(existing, default=0) + 1
        if version > LARGEST_VERSION:
            raise OutputError(f"{base}: no number is left above version {LARGEST_VERSION}. Choose one with --version.")
        return version
    if not 1 <= requested <= LARGEST_VERSION:
        raise OutputError(f"--version {requested}: a version is a number from 1 to {LARGEST_VERSION}")
    if requested in existing:
        raise OutputError(
            f"{base}: version {requested} exists already, and a published version is never replaced. "
            "Run without --version to use the next number."
        )
    return requested


def require_versions(existing: Collection[int], base: object) -> None:
    """Raises SavedModelError if a base path has no versions."""
    if not existing:
        raise SavedModelError(
            f"{base}: no versions here (expected numbered folders such as 1/ with a SavedModel). Pass the folder that "
            "contains the versions, such as models/NAME."
        )


def removable_versions(existing: Collection[int], keep: int, labels: Mapping[str, int]) -> list[int]:
    """Returns the versions that `prune` may remove: all but the `keep` newest and those that have a label.

    Raises: OutputError if `keep` is less than 1.
    """
    if keep < 1:
        raise OutputError(f"--keep {keep}: must be at least 1, since servers use the newest version")
    newest = sorted(existing)[-keep:]
    return [version for version in sorted(existing) if version not in newest and version not in labels.values()]


def require_version(version: int, existing: Collection[int], base: object) -> int:
    """Returns the version if it exists.

    Raises: SavedModelError if it does not.
    """
    if version not in existing:
        listed = ", ".join(map(str, sorted(existing))) or "none"
        raise SavedModelError(f"{base}: no version {version} (existing versions: {listed})")
    return version
