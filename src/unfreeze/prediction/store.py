"""A folder of results, on this machine or in any store that fsspec knows; files are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.errors import OutputError, UnfreezeError
from unfreeze.images.files import umask
from unfreeze.images.sources import file_system


@dataclass(frozen=True)
class Store:
    """Where results are written: `files` is an fsspec file system, None for this machine's own."""

    url: str
    root: str
    files: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.url,)  # a file system's connections stay where they are

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def names(self, folder: str) -> set[str]:
        """The names of the files in a folder; none where there is no folder."""
        with self.told(folder):
            if self.files is None:
                return set(os.listdir(self.path(folder))) if os.path.isdir(self.path(folder)) else set()
            try:
                return {path.rsplit("/", 1)[-1] for path in self.files.ls(self.path(folder), detail=False)}
            except FileNotFoundError:
                return set()

    def exists(self, name: str) -> bool:
        with self.told(name):
            return os.path.exists(self.path(name)) if self.files is None else self.files.exists(self.path(name))

    def open(self, name: str) -> Any:
        with self.told(name):
            return open(self.path(name), "rb") if self.files is None else self.files.open(self.path(name), "rb")

    def read(self, name: str) -> bytes:
        with self.told(name), self.open(name) as file:
            return file.read()

    def end(self, name: str, size_bytes: int) -> bytes:
        """The last bytes of a file."""
        with self.told(name):
            if self.files is not None:
                return self.files.tail(self.path(name), size_bytes)
            with open(self.path(name), "rb") as file:
                file.seek(max(0, os.path.getsize(self.path(name)) - size_bytes))
                return file.read()

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """A file, in place only once it is complete and safe on the disk. Raises: OutputError."""
        with self.writing(name) as file:
            for chunk in chunks:
                file.write(chunk)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A file to write to, which is in place once the block ends well."""
        path = self.path(name)
        if self.files is not None:
            with self.told(name):
                self.files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
                file = self.files.open(path, "wb")
            try:
                yield file
            except BaseException:
                with contextlib.suppress(Exception):
                    file.discard()  # an upload that is not finished leaves nothing
                raise
            with self.told(name):
                file.close()
            return
        staged = ""
        try:
            with self.told(name):
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
        with self.told(name), contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(name)) if self.files is None else self.files.rm_file(self.path(name))

    @contextlib.contextmanager
    def told(self, name: str) -> Iterator[None]:
        try:
            yield
        except UnfreezeError:
            raise
        except Exception as error:
            if self.files is None and not isinstance(error, OSError):
                raise
            # Each store has errors of its own.
            what = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise OutputError(f"{self.path(name)}: {what}; choose another --output-directory") from None


def open_store(url: str | Path) -> Store:
    """The store of a folder, which need not be there yet."""
    text = os.fspath(url).removeprefix("file://")
    if "://" not in text:
        return Store(os.path.abspath(text), os.path.abspath(text))
    files, path = file_system(text)
    return Store(text.rstrip("/"), path.rstrip("/"), files)
