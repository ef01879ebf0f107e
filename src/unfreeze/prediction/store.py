"""A folder of results, on this machine or in any store that fsspec supports, whose files are written atomically."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from unfreeze.errors import OutputError, UnfreezeError
from unfreeze.images.files import umask
from unfreeze.images.sources import file_system

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


@dataclass(frozen=True)
class Store:
    """A folder of results. `files` is its fsspec file system, None for this machine's own."""

    url: str
    root: str
    files: AbstractFileSystem | None = None

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        return open_store, (self.url,)  # connections are opened again, not pickled

    def path(self, name: str) -> str:
        """Returns the full path of a file."""
        return f"{self.root}/{name}"

    def names(self, folder: str) -> set[str]:
        """Returns the names of the files in a folder; none if it does not exist."""
        with self.errors_as_output_error(folder):
            if self.files is None:
                return set(os.listdir(self.path(folder))) if os.path.isdir(self.path(folder)) else set()
            try:
                return {path.rsplit("/", 1)[-1] for path in self.files.ls(self.path(folder), detail=False)}
            except FileNotFoundError:
                return set()

    def exists(self, name: str) -> bool:
        """Returns whether a file exists."""
        with self.errors_as_output_error(name):
            return os.path.exists(self.path(name)) if self.files is None else bool(self.files.exists(self.path(name)))

    def open(self, name: str) -> IO[bytes]:
        """Returns a file that is open for reading."""
        with self.errors_as_output_error(name):
            if self.files is None:
                return open(self.path(name), "rb")
            file: IO[bytes] = self.files.open(self.path(name), "rb")
            return file

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        with self.errors_as_output_error(name), self.open(name) as file:
            return file.read()

    def tail(self, name: str, size_bytes: int) -> bytes:
        """Returns the last bytes of a file."""
        with self.errors_as_output_error(name):
            if self.files is not None:
                end: bytes = self.files.tail(self.path(name), size_bytes)
                return end
            with open(self.path(name), "rb") as file:
                file.seek(max(0, os.path.getsize(self.path(name)) - size_bytes))
                return file.read()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Writes a file, which appears only once it is complete and on the disk. Raises: OutputError."""
        with self.writing(name) as file:
            for chunk in chunks:
                file.write(chunk)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Yields a file to write to, which appears when the block ends without an error. Raises: OutputError."""
        with self.writing_locally(name) if self.files is None else self.uploading(name, self.files) as file:
            yield file

    @contextlib.contextmanager
    def uploading(self, name: str, files: AbstractFileSystem) -> Iterator[IO[bytes]]:
        """Yields a file of an object store."""
        path = self.path(name)
        with self.errors_as_output_error(name):
            files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            file = files.open(path, "wb")
        try:
            yield file
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()  # an upload that is not completed leaves nothing behind
            raise
        with self.errors_as_output_error(name):
            file.close()

    @contextlib.contextmanager
    def writing_locally(self, name: str) -> Iterator[IO[bytes]]:
        """Yields a temporary file, which is renamed at the end."""
        path = self.path(name)
        staged = ""
        try:
            with self.errors_as_output_error(name):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                handle, staged = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".unfreeze-")
                with os.fdopen(handle, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(staged, 0o666 & ~umask())
                os.replace(staged, path)
                staged = ""
        finally:
            if staged:
                with contextlib.suppress(OSError):
                    os.unlink(staged)

    def remove(self, name: str) -> None:
        """Removes a file, if it exists."""
        with self.errors_as_output_error(name), contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name)) if self.files is None else self.files.rm_file(self.path(name))

    @contextlib.contextmanager
    def errors_as_output_error(self, name: str) -> Iterator[None]:
        """Raises OutputError for errors of the file system; for a store, whose errors have no common class, for all."""
        try:
            yield
        except UnfreezeError:
            raise
        except Exception as error:
            if self.files is None and not isinstance(error, OSError):
                raise
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise OutputError(f"{self.path(name)}: {reason}. Choose another --output-directory.") from None


def open_store(url: str | Path) -> Store:
    """Returns the store of a folder, which need not exist yet."""
    text = os.fspath(url).removeprefix("file://")
    if "://" not in text:
        return Store(os.path.abspath(text), os.path.abspath(text))
    files, path = file_system(text)
    return Store(text.rstrip("/"), path.rstrip("/"), files)
