"""A model base path in an object store (s3://, gs://, memory:// …).

An object store has no rename, so saved_model.pb is uploaded last: a server does not load a version without it, keeps
the version before, and tries again.

A publisher claims a version number first, by an object `.unfreeze-claim-NUMBER-ID`. If it then finds another claim on
the same number, it withdraws its own and tries again. This needs a store whose lists show all earlier writes, as those
of S3 and GCS do. Conditional writes (`mode="create"` of fsspec) would need less code, but stores that do not support
them overwrite the object without an error, and two publishers would get the same number.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unfreeze.errors import MissingExtraError, OutputError, UnsupportedError
from unfreeze.formatting import first_line
from unfreeze.publishing.version_numbers import next_version
from unfreeze.version_folders import version_folders, version_of

CLAIM_PREFIX = ".unfreeze-claim-"
LAST_FILE = "saved_model.pb"
ABANDONED_AFTER_S = 6 * 3600  # a claim of another machine that is older counts as abandoned
MAX_ATTEMPTS = 20
MAX_WAIT_FACTOR = 32


@dataclass(frozen=True)
class StagedVersion:
    """A complete version on this machine, which is not uploaded yet."""

    folder: Path
    base: ObjectStoreBasePath
    extra_files: Mapping[str, bytes]

    def place(self, requested: int | None) -> int:
        """Uploads the version under a number of its own, and returns the number.

        Raises: OutputError if the requested number exists already, or if the upload fails.
        """
        with self.base.claimed(requested) as version:
            try:
                self.base.upload(self.folder, self.extra_files, version)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.base.remove(version)
                raise
        return version


class ObjectStoreBasePath:
    """A prefix in an object store with the versions of one model."""

    has_lock = False

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            import fsspec
        except ImportError:
            raise MissingExtraError(f"{url}: object stores need fsspec. Run: pip install 'unfreeze[cloud]'") from None
        try:
            self.files, self.path = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UnsupportedError(
                f"not supported: {url}: {first_line(error)}. For s3:// and gs:// run: pip install 'unfreeze[cloud]'"
            ) from None

    def __str__(self) -> str:
        return self.url

    def versions(self) -> dict[int, str]:
        """Returns the name of each version that has a saved_model.pb."""
        folders = version_folders(self._names())
        return {version: name for version, name in folders.items() if self._exists(f"{name}/{LAST_FILE}")}

    def read(self, name: str) -> bytes | None:
        """Returns the content of an object below the base path, None if it does not exist."""
        try:
            with self._output_errors(FileNotFoundError):
                content: bytes = self.files.cat_file(f"{self.path}/{name}")
                return content
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes or replaces an object of the base path."""
        with self._output_errors():
            self.files.pipe_file(f"{self.path}/{name}", content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Does nothing: an object store has no locks. Numbers are claimed; of two changes of labels the last wins."""
        yield

    @contextlib.contextmanager
    def staged(self, source: Path, extra_files: Mapping[str, bytes]) -> Iterator[StagedVersion]:
        """Yields a SavedModel with more files, as it is to be uploaded."""
        self.clean_up()
        yield StagedVersion(source, self, extra_files)

    @contextlib.contextmanager
    def local_copy(self, version: int) -> Iterator[Path]:
        """Yields a copy of a version on this machine."""
        with tempfile.TemporaryDirectory(prefix="unfreeze-") as folder:
            with self._output_errors():
                top = f"{self.path}/{self.versions()[version]}"
                for key in self.files.find(top):
                    target = Path(folder) / key[len(top) :].lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self.files.cat_file(key))
            yield Path(folder)

    def remove(self, version: int) -> None:
        """Removes a version, its saved_model.pb first."""
        name = version_folders(self._names()).get(version)
        if name is None:
            return
        with self._output_errors():
            if self._exists(f"{name}/{LAST_FILE}"):
                self.files.rm_file(f"{self.path}/{name}/{LAST_FILE}")
            for key in self.files.find(f"{self.path}/{name}"):
                self.files.rm_file(key)

    def upload(self, folder: Path, extra_files: Mapping[str, bytes], version: int) -> None:
        """Writes the files of a version, saved_model.pb last."""
        paths = sorted(
            (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path == folder / LAST_FILE
        )
        with self._output_errors():
            for name, content in extra_files.items():
                self.files.pipe_file(f"{self.path}/{version}/{name}", content)
            for path in paths:
                name = path.relative_to(folder).as_posix()
                if name not in extra_files:
                    self.files.put_file(str(path), f"{self.path}/{version}/{name}")

    @contextlib.contextmanager
    def claimed(self, requested: int | None) -> Iterator[int]:
        """Yields a version number that no other publisher uses during the block.

        Raises: OutputError if the requested number exists already, or if other publishers kept claiming the number.
        """
        for attempt in range(MAX_ATTEMPTS):
            names = self._names()
            existing = {*version_folders(names), *_claims(names).values()}
            version = next_version(existing, requested, self)
            claim = f"{CLAIM_PREFIX}{version}-{uuid.uuid4().hex}"
            self.write(claim, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
            try:
                claims = [name for name, claimed in _claims(self._names()).items() if claimed == version]
                if claims == [claim]:
                    yield version
                    return
            finally:
                self.delete(claim)
            # Random and longer each time, so that two publishers do not meet again.
            time.sleep(random.uniform(0.05, 0.5) * min(2**attempt, MAX_WAIT_FACTOR))
        raise OutputError(
            f"{self.url}: other publishers claimed the same version number {MAX_ATTEMPTS} times. Try again."
        )

    def clean_up(self) -> None:
        """Deletes what publishers that ended early left: claims, and versions without their last file."""
        claims = _claims(self._names())
        for claim, version in list(claims.items()):
            if self._is_abandoned(claim):
                del claims[claim]
                if version not in claims.values() and version not in self.versions():
                    self.remove(version)
                self.delete(claim)

    def _is_abandoned(self, claim: str) -> bool:
        """Returns whether the process that made a claim on this machine has ended, or the claim is too old."""
        try:
            owner = json.loads(self.read(claim) or b"{}")
            if owner.get("host") == socket.gethostname():
                return not _is_running(int(owner["process"]))
            with self._output_errors(NotImplementedError, FileNotFoundError):
                written: float = self.files.modified(f"{self.path}/{claim}").timestamp()
            return time.time() - written > ABANDONED_AFTER_S
        except (ValueError, KeyError, NotImplementedError, FileNotFoundError):
            return False

    def _names(self) -> list[str]:
        """Returns the names of the folders and objects directly below the base path."""
        try:
            with self._output_errors(FileNotFoundError):
                self.files.invalidate_cache()
                return [str(key).rstrip("/").rsplit("/", 1)[-1] for key in self.files.ls(self.path, detail=False)]
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        """Deletes an object of the base path."""
        with contextlib.suppress(FileNotFoundError), self._output_errors(FileNotFoundError):
            self.files.rm_file(f"{self.path}/{name}")

    def _exists(self, name: str) -> bool:
        with self._output_errors():
            return bool(self.files.exists(f"{self.path}/{name}"))

    @contextlib.contextmanager
    def _output_errors(self, *expected: type[Exception]) -> Iterator[None]:
        """Raises any error of the store as an OutputError, except the expected ones, which the caller handles."""
        try:
            yield
        except Exception as error:  # each store has errors of its own
            if isinstance(error, (*expected, OutputError, UnsupportedError)):
                raise
            reason = first_line(error)
            if isinstance(error, FileNotFoundError):
                reason = f"{reason}. Does the bucket exist?"
            raise OutputError(f"{self.url}: {type(error).__name__}: {reason}") from error


def _claims(names: Sequence[str]) -> dict[str, int]:
    """Returns the version number of each claim among the names."""
    claims: dict[str, int] = {}
    for name in names:
        if name.startswith(CLAIM_PREFIX):
            version = version_of(name.removeprefix(CLAIM_PREFIX).split("-")[0])
            if version is not None:
                claims[name] = version
    return claims


def _is_running(process: int) -> bool:
    if sys.platform == "win32":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True
