"""Unpacks a model.tar.gz from anybody: nothing outside of the folder, no links, no more than told."""

import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from unfreeze.errors import ArchiveError

MAX_BYTES = 8 * 2**30
MAX_ENTRIES = 100_000
MAX_RATIO = 200  # unpacked to packed, where more than BOMB_BYTES come out; weights hardly shrink
BOMB_BYTES = 256 * 2**20


def unpack(archive: str | os.PathLike[str], folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Unpack a .tar.gz (or plain .tar) into a folder.

    Raises: ArchiveError for what is no archive, and for entries that climb out, link, repeat, or are too large.
    """
    try:
        packed = os.stat(archive).st_size
        with tarfile.open(archive, "r:*") as tar:
            seen: set[PurePosixPath] = set()
            total = 0
            for entry in tar:
                path = checked_path(archive, entry, seen)
                total += entry.size
                check_size(archive, total, packed, max_bytes)
                write_entry(tar, entry, folder / path)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{archive} is not a whole .tar.gz: {error}") from error
    except OSError as error:
        raise ArchiveError(f"{archive} cannot be unpacked: {error}") from error


def checked_path(archive: str | os.PathLike[str], entry: tarfile.TarInfo, seen: set[PurePosixPath]) -> PurePosixPath:
    """The path of an entry, if it is a plain file or folder below the one that is unpacked into."""
    path = PurePosixPath(entry.name)
    if not (entry.isfile() or entry.isdir()):
        raise ArchiveError(f"{archive}: {entry.name!r} is a link or a device; only files and folders are unpacked")
    if path.is_absolute() or ".." in path.parts or "\\" in entry.name or ":" in entry.name or "\0" in entry.name:
        raise ArchiveError(f"{archive}: {entry.name!r} would be written outside of the model's folder")
    if entry.isfile() and path in seen:
        raise ArchiveError(f"{archive}: {entry.name!r} is there twice")
    seen.add(path)
    if len(seen) > MAX_ENTRIES:
        raise ArchiveError(f"{archive} has more than {MAX_ENTRIES} entries")
    return path


def check_size(archive: str | os.PathLike[str], total: int, packed: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise ArchiveError(f"{archive} unpacks to more than {max_bytes} bytes")
    if total > BOMB_BYTES and total > MAX_RATIO * packed:
        raise ArchiveError(f"{archive} has {packed} bytes and unpacks to more than {total}: that is no model")


def write_entry(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    if entry.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(entry)
    assert source is not None
    with source, open(path, "xb") as target:
        shutil.copyfileobj(source, target, 2**20)
