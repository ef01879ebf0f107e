"""Unpacks a model.tar.gz that may be hostile: path traversal, links and decompression bombs are rejected."""

import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from unfreeze.errors import ArchiveError

MAX_BYTES = 8 * 2**30
MAX_ENTRIES = 100_000
MAX_RATIO = 200  # unpacked to packed bytes, checked above RATIO_MIN_BYTES; weights hardly shrink
RATIO_MIN_BYTES = 256 * 2**20


def unpack(archive: str | os.PathLike[str], folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Unpacks a .tar.gz, or a plain .tar, into a folder.

    Raises: ArchiveError if it is not an archive, or if an entry is a link, a duplicate, too large or outside of the
    folder.
    """
    try:
        packed_bytes = os.stat(archive).st_size
        with tarfile.open(archive, "r:*") as tar:
            seen: set[PurePosixPath] = set()
            total_bytes = 0
            for entry in tar:
                path = checked_path(archive, entry, seen)
                total_bytes += entry.size
                check_size(archive, total_bytes, packed_bytes, max_bytes)
                write_entry(tar, entry, folder / path)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{archive} is not a complete .tar.gz: {error}") from error
    except OSError as error:
        raise ArchiveError(f"{archive} cannot be unpacked: {error}") from error


def checked_path(archive: str | os.PathLike[str], entry: tarfile.TarInfo, seen: set[PurePosixPath]) -> PurePosixPath:
    """Returns the path of an entry and adds it to `seen`.

    Raises: ArchiveError if it is not a file or folder inside of the folder that is unpacked into.
    """
    path = PurePosixPath(entry.name)
    if not (entry.isfile() or entry.isdir()):
        raise ArchiveError(f"{archive}: {entry.name!r} is a link or a device; only files and folders are unpacked")
    if path.is_absolute() or ".." in path.parts or "\\" in entry.name or ":" in entry.name or "\0" in entry.name:
        raise ArchiveError(f"{archive}: {entry.name!r} would be written outside of the model's folder")
    if entry.isfile() and path in seen:
        raise ArchiveError(f"{archive}: {entry.name!r} occurs twice")
    seen.add(path)
    if len(seen) > MAX_ENTRIES:
        raise ArchiveError(f"{archive} has more than {MAX_ENTRIES} entries")
    return path


def check_size(archive: str | os.PathLike[str], total_bytes: int, packed_bytes: int, max_bytes: int) -> None:
    """Raises ArchiveError if the archive unpacks to too many bytes, or is a decompression bomb."""
    if total_bytes > max_bytes:
        raise ArchiveError(f"{archive} unpacks to more than {max_bytes} bytes")
    if total_bytes > RATIO_MIN_BYTES and total_bytes > MAX_RATIO * packed_bytes:
        raise ArchiveError(
            f"{archive} is a decompression bomb: its {packed_bytes} bytes unpack to more than {total_bytes}"
        )


def write_entry(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    """Writes a folder or a file of the archive; an existing file is not replaced."""
    if entry.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(entry)
    assert source is not None
    with source, open(path, "xb") as target:
        shutil.copyfileobj(source, target, 2**20)
