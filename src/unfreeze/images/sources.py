"""Which pictures a person means: files, folders, patterns, lists, and URLs of any store that fsspec knows."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from unfreeze.errors import ConfigError, MissingExtraError, ImageError, UnsupportedError
from unfreeze.images.files import read_picture
from unfreeze.images.videos import VIDEO_SUFFIXES, is_video, videos_can_be_read

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
LIST_SUFFIXES = {".txt", ".lst"}
STDIN = "-"


@dataclass(frozen=True)
class Source:
    """A picture or a video: what the results call it, and where it is."""

    name: str
    location: str  # an absolute path, or a URL


def means_many(given: str | os.PathLike[str]) -> bool:
    """Whether an input is anything but the path of one picture."""
    text = os.fspath(given)
    return (
        text == STDIN
        or "://" in text
        or os.path.isdir(text)
        or is_list(text)
        or is_video(text)
        or (glob.has_magic(text) and not os.path.exists(text))
    )


def is_list(text: str) -> bool:
    return PurePosixPath(text).suffix.lower() in LIST_SUFFIXES


def find_sources(
    inputs: Sequence[str], outputs: str = "", on_warning: Callable[[str], None] = lambda warning: None
) -> list[Source]:
    """Every picture that the inputs mean, once each, in the order of the inputs and sorted within a folder or pattern.

    A picture of a folder is called by its path in there, if the folder is the only input; else by the path as given.
    What lies under `outputs` is left out.

    Raises: ImageError when an input has none, ConfigError when two share a name.
    """
    alone = len(inputs) == 1
    found: dict[str, Source] = {}
    names: dict[str, Source] = {}
    skipped = 0
    for given in inputs:
        empty = True
        for source in sources_of(given, alone):
            empty = False
            if source.location in found or is_within(source.location, outputs):
                continue
            if is_video(source.location) and not videos_can_be_read():
                skipped += 1
                continue
            if (other := names.setdefault(source.name, source)) is not source:
                raise ConfigError(f"{other.location} and {source.location} are both called {source.name}: rename one")
            found[source.location] = source
        if empty:
            raise ImageError(f"{given} has no pictures: give a folder, a quoted pattern, a list or pictures")
    if skipped and not found:
        raise MissingExtraError(f"{inputs[0]}: videos need PyAV: pip install 'unfreeze[video]'")
    if skipped:
        on_warning(f"{skipped} videos are left out: they need PyAV (pip install 'unfreeze[video]')")
    return list(found.values())


def is_within(location: str, folder: str) -> bool:
    return bool(folder) and location.startswith(folder.rstrip("/" + os.sep) + ("/" if "://" in folder else os.sep))


def sources_of(given: str, alone: bool) -> Iterator[Source]:
    if given == STDIN:
        yield from listed(sys.stdin)
    elif "://" in given and not given.startswith("file://"):
        yield from remote_sources(given, alone)
    else:
        path = given.removeprefix("file://")
        if is_list(path):
            try:
                yield from listed(Path(path).read_text(encoding="utf-8").splitlines())
            except (OSError, UnicodeDecodeError) as error:
                raise ImageError(f"{given} cannot be read as a list of pictures: {error}") from None
        elif os.path.isdir(path):
            for inside in files_in(path):
                yield located(inside, path if alone else "")
        elif glob.has_magic(path) and not os.path.exists(path):
            yield from (located(match) for match in sorted(glob.glob(path, recursive=True)) if is_known(match))
        else:
            yield located(path)


def listed(lines: Iterable[str]) -> Iterator[Source]:
    """A list's lines, each the path or the URL of a picture, as if it was given on the command line."""
    for line in lines:
        if text := line.strip():
            yield Source(text, text) if "://" in text else located(text)


def located(path: str, root: str = "") -> Source:
    return Source(Path(os.path.relpath(path, root)).as_posix() if root else path, os.path.abspath(path))


def files_in(folder: str) -> Iterator[str]:
    """The pictures and videos in a folder and those below, sorted, without hidden ones."""
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(path, name) for name in sorted(names) if is_known(name))


def is_known(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES and not path.name.startswith(".")


def remote_sources(url: str, alone: bool) -> Iterator[Source]:
    """What a URL means: one file, a pattern, a list, or all below it."""
    files, path = file_system(url)
    start = url[: url.index("://") + 3]
    try:
        if glob.has_magic(path):
            found, root = sorted(files.glob(path)), ""
        elif is_list(path):
            yield from listed(files.cat_file(path).decode().splitlines())
            return
        elif is_known(path) and files.isfile(path):
            yield Source(url, url)
            return
        else:
            found, root = sorted(files.find(path)), path.rstrip("/") + "/" if alone else ""
    except Exception as error:  # each store has errors of its own
        raise ImageError(f"{url} cannot be listed: {type(error).__name__}: {error}") from None
    for name in filter(is_known, found):
        location = name if "://" in name else start + name
        yield Source(name.removeprefix(root) if root else location, location)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError(f"{url}: URLs need fsspec: pip install 'unfreeze[cloud]'") from None
    try:
        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UnsupportedError(f"{url}: {error}; pip install 'unfreeze[cloud]' brings s3:// and gs://") from None


def read_source(source: Source) -> Image.Image:
    """The picture, upright and in RGB. Raises: ImageError."""
    if "://" not in source.location:
        return read_picture(source.location)
    files, path = file_system(source.location)
    try:
        encoded = files.cat_file(path)
    except Exception as error:  # each store has errors of its own
        raise ImageError(f"{source.location} cannot be read: {type(error).__name__}: {error}") from None
    return read_picture(source.location, encoded)
