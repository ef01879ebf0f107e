"""A base path in an object store (s3://, gs://, memory:// …), which has no rename: saved_model.pb comes last.

A version without it is none yet, for a server fails to load it, goes on with the one before, and tries again. The
number of a version is claimed first, by an object `.unfreeze-claim-NUMBER-ID`: whoever then finds a claim of another on
the same number draws back. That is safe where a list shows what was written before, as S3 and GCS promise.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfreeze.errors import OutputError, UnsupportedError
from unfreeze.publishing.version_numbers import free_version, version_of, versions_among

CLAIM = ".unfreeze-claim-"
LAST = "saved_model.pb"
ABANDONED_S = 6 * 3600  # a claim this old, of a publisher on another machine, is taken for one that ended
TRIES = 20
LONGEST_WAIT = 32  # times the first wait


@dataclass(frozen=True)
class Staged:
    """A version that is complete on this machine."""

    folder: Path
    base: ObjectStoreBasePath
    beside: Mapping[str, bytes] = field(default_factory=dict)

    def place(self, asked: int | None) -> int:
        """Uploads it under a number of its own.

        Raises: OutputError when the number is taken.
        """
        with self.base.claimed(asked) as version:
            try:
                self.base.upload(self.folder, self.beside, version)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.base.remove(version)
                raise
        return version


class ObjectStoreBasePath:
    """The versions of one model in an object store."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            import fsspec
        except ImportError:
            raise UnsupportedError(f"{url}: object stores need fsspec: pip install 'unfreeze[cloud]'") from None
        try:
            self.files, self.path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UnsupportedError(f"{url}: {error}; pip install 'unfreeze[cloud]' brings s3:// and gs://") from None

    def __str__(self) -> str:
        return self.url

    def versions(self) -> dict[int, str]:
        """Each version whose saved_model.pb is there, and its name."""
        found = versions_among(self._names())
        return {version: name for version, name in found.items() if self._exists(f"{name}/{LAST}")}

    def read(self, name: str) -> bytes | None:
        """An object below the base path, None where it is absent."""
        try:
            with self._told(FileNotFoundError):
                return self.files.cat_file(f"{self.path}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """An object in the base path."""
        with self._told():
            self.files.pipe_file(f"{self.path}/{name}", content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing: an object store has no lock. Numbers are claimed instead; of labels the last writer counts."""
        yield

    @contextlib.contextmanager
    def staged(self, source: Path, beside: Mapping[str, bytes]) -> Iterator[Staged]:
        """The SavedModel as it is on this machine, with files `beside` its own."""
        self.sweep()
        yield Staged(source, self, beside)

    @contextlib.contextmanager
    def fetched(self, version: int) -> Iterator[Path]:
        """A copy of a version on this machine."""
        with tempfile.TemporaryDirectory(prefix="unfreeze-") as folder:
            with self._told():
                top = f"{self.path}/{self.versions()[version]}"
                for key in self.files.find(top):
                    target = Path(folder) / key[len(top) :].lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self.files.cat_file(key))
            yield Path(folder)

    def remove(self, version: int) -> None:
        """Takes a version away, its saved_model.pb first."""
        name = versions_among(self._names()).get(version)
        if name is None:
            return
        with self._told():
            if self._exists(f"{name}/{LAST}"):
                self.files.rm_file(f"{self.path}/{name}/{LAST}")
            for key in self.files.find(f"{self.path}/{name}"):
                self.files.rm_file(key)

    def upload(self, folder: Path, beside: Mapping[str, bytes], version: int) -> None:
        """Writes the files of a version, saved_model.pb last."""
        paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path == folder / LAST)
        with self._told():
            for name, content in beside.items():
                self.files.pipe_file(f"{self.path}/{version}/{name}", content)
            for path in paths:
                name = path.relative_to(folder).as_posix()
                if name not in beside:
                    self.files.put_file(str(path), f"{self.path}/{version}/{name}")

    @contextlib.contextmanager
    def claimed(self, asked: int | None) -> Iterator[int]:
        """A number that nobody else publishes under meanwhile."""
        for tried in range(TRIES):
            names = self._names()
            taken = {*versions_among(names), *self._claims(names).values()}
            version = free_version(taken, asked, self)
            claim = f"{CLAIM}{version}-{uuid.uuid4().hex}"
            self.write(claim, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
            try:
                others = [name for name, other in self._claims(self._names()).items() if other == version]
                if others == [claim]:
                    yield version
                    return
            finally:
                self._drop(claim)
            # Longer each time: where a store is slow, those who met once would meet again.
            time.sleep(random.uniform(0.05, 0.5) * min(2**tried, LONGEST_WAIT))
        raise OutputError(f"{self.url}: {TRIES} times another publisher took the same number: try again")

    def sweep(self) -> None:
        """Clears away what publishers left that ended in the middle: claims, and versions without their last file."""
        names = self._names()
        claims = self._claims(names)
        for name, version in list(claims.items()):
            if self._abandoned(name):
                del claims[name]
                if version not in claims.values() and version not in self.versions():
                    self.remove(version)
                self._drop(name)

    def _abandoned(self, claim: str) -> bool:
        """Whether whoever claimed a number is gone: no such process on this machine, or too old."""
        try:
            owner = json.loads(self.read(claim) or b"{}")
            if owner.get("host") == socket.gethostname():
                return not _alive(int(owner["process"]))
            with self._told(NotImplementedError, FileNotFoundError):
                written = self.files.modified(f"{self.path}/{claim}").timestamp()
            return time.time() - written > ABANDONED_S
        except (ValueError, KeyError, NotImplementedError, FileNotFoundError):
            return False

    def _claims(self, names: list[str]) -> dict[str, int]:
        found = {}
        for name in names:
            version = version_of(name.removeprefix(CLAIM).split("-")[0]) if name.startswith(CLAIM) else None
            if version is not None:
                found[name] = version
        return found

    def _names(self) -> list[str]:
        try:
            with self._told(FileNotFoundError):
                self.files.invalidate_cache()
                return [str(key).rstrip("/").rsplit("/", 1)[-1] for key in self.files.ls(self.path, detail=False)]
        except FileNotFoundError:
            return []

    def _drop(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._told(FileNotFoundError):
            self.files.rm_file(f"{self.path}/{name}")

    def _exists(self, name: str) -> bool:
        with self._told():
            return bool(self.files.exists(f"{self.path}/{name}"))

    @contextlib.contextmanager
    def _told(self, *expected: type[Exception]) -> Iterator[Any]:
        """What a store raises, told as an OutputError; but for what the caller knows what to do about."""
        try:
            yield
        except Exception as error:  # each store has errors of its own
            if isinstance(error, (*expected, OutputError, UnsupportedError)):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, FileNotFoundError):
                reason = f"{reason}; is there such a bucket?"
            raise OutputError(f"{self.url}: {type(error).__name__}: {reason}") from error


def _alive(process: int) -> bool:
    if sys.platform == "win32":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user, or Windows
        return True
    return True
