"""Which names a model server takes for versions, and which of them may go.

Source: sources/storage_path/file_system_storage_path_source.cc of tensorflow/serving.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from unfreeze.errors import OutputError, SavedModelError

LARGEST = (1 << 63) - 1
_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*", re.ASCII)


def version_of(name: str) -> int | None:
    """The version that a server reads from the name of a folder, as absl::SimpleAtoi does: "007" is 7, "v1" is none."""
    if not _NUMBER.fullmatch(name):
        return None
    number = int(name)
    return number if 0 <= number <= LARGEST else None


def versions_among(names: Iterable[str]) -> dict[int, str]:
    """Each version and the name that it has, the oldest first; of "1" and "001" the plainer name."""
    found: dict[int, str] = {}
    for name in sorted(names, key=lambda name: (len(name), name)):
        version = version_of(name)
        if version is not None:
            found.setdefault(version, name)
    return dict(sorted(found.items()))


def free_version(taken: Collection[int], asked: int | None, base: object) -> int:
    """The version to publish: the one asked for, or one above the highest that is there.

    Raises: OutputError when it is taken, or when no number is left.
    """
    if asked is None:
        version = max(taken, default=0) + 1
        if version > LARGEST:
            raise OutputError(f"{base}: no number is left above version {LARGEST}: give a free one with --version")
        return version
    if not 1 <= asked <= LARGEST:
        raise OutputError(f"--version {asked}: a version is a number from 1 to {LARGEST}")
    if asked in taken:
        raise OutputError(
            f"{base}: version {asked} exists already, and what is served is never replaced: leave --version out"
        )
    return asked


def removable(taken: Collection[int], keep: int, labels: Mapping[str, int]) -> list[int]:
    """The versions that `prune` may remove: not the `keep` newest, and none that a label names."""
    if keep < 1:
        raise OutputError(f"--keep {keep}: at least 1, since the newest version is the one that is served")
    newest = sorted(taken)[-keep:]
    return [version for version in sorted(taken) if version not in newest and version not in labels.values()]


def require(version: int, taken: Collection[int], base: object) -> int:
    """The same version, if it is there.

    Raises: SavedModelError when it is not.
    """
    if version not in taken:
        known = ", ".join(map(str, sorted(taken))) or "none"
        raise SavedModelError(f"{base}: no version {version}; there is {known}")
    return version
