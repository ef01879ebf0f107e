"""A base path in the file system: versions are staged beside their place, and renamed into it in one step.

BASE/3/                   a version
BASE/models.config        its labels, if there are any
BASE/.unfreeze-lock       held while a number is taken or a label moves
BASE/.unfreeze-stage-…/   what is being published or removed; `lock` in it is held as long as its process lives
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from unfreeze.errors import OutputError, SavedModelError
from unfreeze.publishing.version_numbers import free_version, versions_among

STAGE = ".unfreeze-stage-"
LOCK = ".unfreeze-lock"


@dataclass(frozen=True)
class Staged:
    """A version that is complete, but has no number yet."""

    folder: Path
    base: LocalBasePath

    def place(self, asked: int | None) -> int:
        """Gives it its number: one rename. Only while the base is locked.

        Raises: OutputError when the number is taken.
        """
        version = free_version(self.base.versions(), asked, self.base)
        with _told(self.base.path):
            os.rename(self.folder, self.base.path / str(version))
            _to_disk(self.base.path)
        return version


class LocalBasePath:
    """The versions of one model in a folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def __str__(self) -> str:
        return str(self.path)

    def versions(self) -> dict[int, str]:
        """Each version and its folder's name; a base path that does not exist has none."""
        with _told(self.path):
            return versions_among(os.listdir(self.path)) if self.path.exists() else {}

    def read(self, name: str) -> bytes | None:
        """A file below the base path, None where it is absent."""
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        """A file in the base path, replaced in one step."""
        path = self.path / name
        aside = self.path / f".{name}.unfreeze-new"
        with _told(self.path):
            aside.write_bytes(content)
            _to_disk(aside)
            os.replace(aside, path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else gives a number, moves a label or clears away meanwhile."""
        with _told(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK).open("wb")
        with file:
            _lock(file, wait=True)
            yield

    @contextlib.contextmanager
    def staged(self, source: Path, beside: Mapping[str, bytes]) -> Iterator[Staged]:
        """A copy of a SavedModel with files `beside` its own, which is cleared away if it gets no number."""
        with self._stage() as stage:
            folder = stage / "version"
            with _told(self.path):
                shutil.copytree(source, folder)
                for name, content in beside.items():
                    (folder / name).write_bytes(content)
                for path in sorted(folder.rglob("*")):
                    _to_disk(path)
            yield Staged(folder, self)

    @contextlib.contextmanager
    def fetched(self, version: int) -> Iterator[Path]:
        """The folder of a version."""
        yield self.path / self.versions()[version]

    def remove(self, version: int) -> None:
        """Takes a version away: first its number in one step, so that no server meets half of it, then its files."""
        with self._stage() as stage, _told(self.path):
            os.rename(self.path / self.versions()[version], stage / "removed")

    def sweep(self) -> None:
        """Clears away what publishers left that ended in the middle. Only while the base is locked."""
        for stage in self.path.glob(f"{STAGE}*"):
            try:
                file = (stage / "lock").open("rb+")
            except OSError:
                shutil.rmtree(stage, ignore_errors=True)
                continue
            with file:
                abandoned = _lock(file, wait=False)
            if abandoned:
                shutil.rmtree(stage, ignore_errors=True)

    @contextlib.contextmanager
    def _stage(self) -> Iterator[Path]:
        with self.locked(), _told(self.path):
            self.sweep()
            stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=self.path))
            file = (stage / "lock").open("wb")
            _lock(file, wait=False)
        try:
            yield stage
        finally:
            file.close()
            shutil.rmtree(stage, ignore_errors=True)


def require_folder(path: str | Path) -> None:
    """Raises SavedModelError when a base path is a file, or a SavedModel itself."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise SavedModelError(f"{path} is a file: give the folder that holds the versions, such as models/NAME")
    if (path / "saved_model.pb").exists():
        raise SavedModelError(f"{path} is a SavedModel: give the folder that holds the versions, such as models/NAME")


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Whether an open file could be locked. The system lets go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        return _lock_windows(file, wait=wait)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks: as if nobody else were there, but nothing is swept
        return wait if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP) else False
    return True


def _lock_windows(file: IO[bytes], *, wait: bool) -> bool:
    import msvcrt

    how = getattr(msvcrt, "LK_LOCK" if wait else "LK_NBLCK")
    try:
        getattr(msvcrt, "locking")(file.fileno(), how, 1)  # noqa: B009  mypy knows it on Windows only
    except OSError:
        return False
    return True


def _to_disk(path: Path) -> None:
    """What was written is there after a power cut too, as far as the system can tell."""
    with contextlib.suppress(OSError):  # Windows opens no folder
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}; choose another base path") from None
