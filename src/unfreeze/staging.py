"""Outputs that are there whole or not at all: written aside, moved into place at the end, cleared away on failure."""

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

if TYPE_CHECKING:
    import tensorflow as tf

PREFIX = ".unfreeze-"  # hidden, and no number: no model server takes it for a version
# What the system says of a write for which there is no room.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, *([errno.EDQUOT] if hasattr(errno, "EDQUOT") else [])}


@contextlib.contextmanager
def staged(
    target: Path, entries: Sequence[str], *, overwrite: bool, advice: str = "choose another --output-directory"
) -> Iterator[Path]:
    """A folder to write `entries` into, which are moved to `target` when the block ends well.

    It lies on the file system of `target`, so that moving is renaming. What else is in `target` is left alone.

    Raises: OutputError when an entry exists and `overwrite` is false, when the folder cannot be written, or when
    there is no room for what the block writes.
    """
    present = [name for name in entries if os.path.lexists(target / name)]
    if present and not overwrite:
        raise OutputError(
            f"{target / present[0]} exists already: give --overwrite, or {advice.removeprefix('choose ')}"
        )
    made: list[Path] = []
    staging: Path | None = None
    try:
        with _told(target, advice):
            made = [folder for folder in (*target.parents[::-1], target) if not folder.exists()]
            target.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target))
        with _told(target, advice, NO_ROOM):
            yield staging
        with _told(target, advice):
            _move(staging, target, entries)
        made = []
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _move(staging: Path, target: Path, entries: Sequence[str]) -> None:
    """Each entry into place; what it replaces is put aside first. If a move fails, all of them are undone."""
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
def _told(target: Path, advice: str, numbers: Collection[int] | None = None) -> Iterator[None]:
    """An OSError, of these numbers if they are given, as an OutputError."""
    try:
        yield
    except OSError as error:
        if numbers is not None and error.errno not in numbers:
            raise
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}; {advice}") from None


def output_error(
    folder: Path, error: OSError | tf.errors.OpError, advice: str = "choose another --output-directory"
) -> OutputError:
    """What to raise where an export cannot be written; a full disk is an error of either kind, by the file it hits."""
    return OutputError(f"{folder}: cannot be written: {_reason(error)}; {advice}")


def _reason(error: OSError | tf.errors.OpError) -> str:
    """What the system said: of TensorFlow's `{{node}} PATH; No space left on device [Op:SaveV2]` the middle."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    line = (error.message.splitlines() or [type(error).__name__])[0]
    return re.sub(r"\s*\[Op:\w+\].*$", "", line).rsplit("; ", 1)[-1]
