"""Writes outputs completely or not at all: in a hidden folder, moved into place at the end, removed on failure."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.errors import OutputError
from unfreeze.formatting import first_line

if TYPE_CHECKING:
    import tensorflow as tf

PREFIX = ".unfreeze-"  # hidden and not a number, so that no model server takes it for a version
# Error numbers of a write to a full disk, or beyond a quota.
NO_SPACE = {errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else [])}


def require_absent(
    target: Path, entries: Sequence[str], *, overwrite: bool, advice: str = "choose another --output-directory"
) -> None:
    """Raises OutputError if an entry exists in `target` and `overwrite` is false."""
    present = [name for name in entries if os.path.lexists(target / name)]
    if present and not overwrite:
        raise OutputError(
            f"{target / present[0]} exists already: give --overwrite, or {advice.removeprefix('choose ')}"
        )


def require_writable_file(path: Path, option: str, *, overwrite: bool) -> None:
    """Raises OutputError if a file cannot be written, or exists and `overwrite` is false; `option` names it."""
    if path.is_dir():
        raise OutputError(f"{option} {path}: this is a folder. Pass the name of a file in it, such as report.html.")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{option} {path}: the file exists already. Pass --overwrite, or another name.")
    if not path.parent.is_dir():
        raise OutputError(f"{option} {path}: the folder {path.parent} does not exist. Create it first.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{option} {path}: the folder {path.parent} is not writable. Choose another one.")


def write_page(path: Path, page: str, option: str) -> None:
    """Writes a text file atomically. Raises: OutputError, which names the option, if it cannot be written."""
    temporary = path.with_name(f"{PREFIX}{os.getpid()}-{path.name}")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise OutputError(f"{option} {path}: cannot be written: {reason}. Choose another path.") from None


@contextlib.contextmanager
def staged(
    target: Path, entries: Sequence[str], *, overwrite: bool, advice: str = "choose another --output-directory"
) -> Iterator[Path]:
    """Yields a folder to write `entries` into, which are moved to `target` when the block ends without an error.

    The folder is on the file system of `target`, so that moving is renaming. Other files in `target` are not touched.

    Raises:
        OutputError: an entry exists and `overwrite` is false, the folder cannot be written, or the disk is full.
    """
    require_absent(target, entries, overwrite=overwrite, advice=advice)
    created: list[Path] = []
    staging: Path | None = None
    try:
        with _as_output_error(target, advice):
            created = [folder for folder in (*target.parents[::-1], target) if not folder.exists()]
            target.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target))
        with _as_output_error(target, advice, NO_SPACE):
            yield staging
        with _as_output_error(target, advice):
            _move(staging, target, entries)
        created = []
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _move(staging: Path, target: Path, entries: Sequence[str]) -> None:
    """Moves each entry into place, and what it replaces aside. If a move fails, all are undone."""
    aside = staging / "replaced"
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for name in entries:
            for source, destination in ((target / name, aside / name), (staging / name, target / name)):
                if os.path.lexists(source):
                    os.rename(source, destination)
                    moved.append((source, destination))
    except BaseException:
        for source, destination in reversed(moved):
            os.rename(destination, source)
        raise


@contextlib.contextmanager
def _as_output_error(target: Path, advice: str, numbers: Collection[int] | None = None) -> Iterator[None]:
    """Turns an OSError, only one of these numbers if they are given, into an OutputError."""
    try:
        yield
    except OSError as error:
        if numbers is not None and error.errno not in numbers:
            raise
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}; {advice}") from None


def output_error(
    folder: Path, error: OSError | tf.errors.OpError, advice: str = "choose another --output-directory"
) -> OutputError:
    """Returns the error to raise for output that cannot be written; a full disk is an error of either type."""
    return OutputError(f"{folder}: cannot be written: {_reason(error)}; {advice}")


def _reason(error: OSError | tf.errors.OpError) -> str:
    """Returns the system's message, also from TensorFlow's `{{node}} PATH; No space left on device [Op:SaveV2]`."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return re.sub(r"\s*\[Op:\w+\].*$", "", first_line(error, limit=10_000)).rsplit("; ", 1)[-1]
