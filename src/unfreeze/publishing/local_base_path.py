"""A model base path in the file system.

A version is written to a hidden folder beside its place and renamed into it in one step.

BASE/3/                   a version
BASE/models.config        the labels, if there are any
BASE/watch.json           the checkpoints that `watch` evaluated, if it publishes only better ones
BASE/.unfreeze-lock       locked while a version gets its number or a label moves
BASE/.unfreeze-placing.json  while a version gets its number: the labels that are written next
BASE/.unfreeze-stage-…/   a version that is being published or removed; the file `lock` in it stays locked while the
                          process that made it is alive
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unfreeze.errors import OutputError, SavedModelError
from unfreeze.publishing.file_locks import lock_file
from unfreeze.publishing.version_numbers import next_version
from unfreeze.version_folders import version_folders

STAGE_PREFIX = ".unfreeze-stage-"
LOCK = ".unfreeze-lock"


@dataclass(frozen=True)
class StagedVersion:
    """A complete version in a hidden folder, which has no number yet."""

    folder: Path
    base: LocalBasePath

    def place(self, requested: int | None) -> int:
        """Gives the version its number by one rename, and returns the number. The base path must be locked.

        Raises: OutputError if the requested number exists already.
        """
        version = next_version(self.base.versions(), requested, self.base)
        with _output_errors(self.base.path):
            os.rename(self.folder, self.base.path / str(version))
            _flush_to_disk(self.base.path)
        return version


class LocalBasePath:
    """A folder with the versions of one model."""

    has_lock = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    def __str__(self) -> str:
        return str(self.path)

    def versions(self) -> dict[int, str]:
        """Returns the folder name of each version; none if the base path does not exist."""
        with _output_errors(self.path):
            return version_folders(os.listdir(self.path)) if self.path.exists() else {}

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file below the base path, None if it does not exist.

        Raises: SavedModelError if it cannot be read.
        """
        path = self.path / name
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError as error:
            raise SavedModelError(
                f"{path}: cannot be read ({error.strerror or error}). Check its permissions."
            ) from None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file of the base path, or replaces it in one step."""
        new_path = self.path / f".{name}.unfreeze-new"
        with _output_errors(self.path):
            new_path.write_bytes(content)
            _flush_to_disk(new_path)
            os.replace(new_path, self.path / name)

    def delete(self, name: str) -> None:
        """Deletes a file of the base path."""
        with _output_errors(self.path):
            (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from numbering versions, moving labels and cleaning up."""
        with _output_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK).open("wb")
        with file:
            lock_file(file, wait=True)
            yield

    @contextlib.contextmanager
    def staged(self, source: Path, extra_files: Mapping[str, bytes]) -> Iterator[StagedVersion]:
        """Yields a copy of a SavedModel with more files; it is deleted at the end unless it was placed."""
        with self._stage() as stage:
            folder = stage / "version"
            with _output_errors(self.path):
                shutil.copytree(source, folder)
                for name, content in extra_files.items():
                    (folder / name).write_bytes(content)
                for path in sorted(folder.rglob("*")):
                    _flush_to_disk(path)
            yield StagedVersion(folder, self)

    @contextlib.contextmanager
    def local_copy(self, version: int) -> Iterator[Path]:
        """Yields the folder of a version, which needs no copy here."""
        yield self.path / self.versions()[version]

    def remove(self, version: int) -> None:
        """Removes a version: by one rename, so that no server sees half of it, then its files."""
        with self._stage() as stage, _output_errors(self.path):
            os.rename(self.path / self.versions()[version], stage / "removed")

    def clean_up(self) -> None:
        """Deletes the hidden folders of processes that ended early. The base path must be locked."""
        for stage in self.path.glob(f"{STAGE_PREFIX}*"):
            try:
                file = (stage / "lock").open("rb+")
            except OSError:
                shutil.rmtree(stage, ignore_errors=True)
                continue
            with file:
                abandoned = lock_file(file, wait=False)
            if abandoned:
                shutil.rmtree(stage, ignore_errors=True)

    @contextlib.contextmanager
    def _stage(self) -> Iterator[Path]:
        with self.locked(), _output_errors(self.path):
            self.clean_up()
            stage = Path(tempfile.mkdtemp(prefix=STAGE_PREFIX, dir=self.path))
            file = (stage / "lock").open("wb")
            lock_file(file, wait=False)
        try:
            yield stage
        finally:
            file.close()
            shutil.rmtree(stage, ignore_errors=True)


def require_base_path(path: str | Path) -> None:
    """Raises SavedModelError if the path is a file, or a SavedModel instead of a folder of versions."""
    path = Path(path)
    expected = "Expected the folder that contains the versions, such as models/NAME."
    if path.exists() and not path.is_dir():
        raise SavedModelError(f"{path}: is a file. {expected}")
    if (path / "saved_model.pb").exists():
        raise SavedModelError(f"{path}: is a SavedModel. {expected}")


def _flush_to_disk(path: Path) -> None:
    """Makes a file or folder survive a power cut, as far as the operating system can."""
    with contextlib.suppress(OSError):  # Windows opens no folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Raises an OSError of the block as an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}). Choose another base path.") from None
