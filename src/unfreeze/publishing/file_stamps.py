"""Names, sizes and times of files, by which a change is noticed without reading them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FileStamps = tuple[tuple[str, int, int], ...]  # name, size and time of each file


def file_stamps(paths: Iterable[Path]) -> FileStamps:
    """Returns the stamps of files, sorted by path; a file that does not exist is omitted."""
    stamps = []
    for path in sorted(paths):
        try:
            stat = path.stat()
        except OSError:  # deleted meanwhile, as trainings do with their oldest checkpoints
            continue
        stamps.append((path.name, stat.st_size, stat.st_mtime_ns))
    return tuple(stamps)


def checkpoint_stamps(prefix: Path) -> FileStamps:
    """Returns the stamps of the files of a checkpoint."""
    return file_stamps(path for path in prefix.parent.iterdir() if path.name.startswith(f"{prefix.name}."))
