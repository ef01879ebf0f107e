"""Finds the images of an input: files, folders, patterns, lists, and URLs of any store that fsspec supports."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from PIL import Image

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import ConfigError, ImageError, MissingExtraError, UnsupportedError
from unfreeze.images.files import read_image
from unfreeze.images.videos import VIDEO_SUFFIXES, is_pyav_installed, is_video

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
LIST_SUFFIXES = {".txt", ".lst"}
STDIN = "-"


@dataclass(frozen=True)
class Source:
    """An image or a video: its name in the results, and where it is."""

    name: str
    location: str  # an absolute path, or a URL


def is_image_collection(path: str | os.PathLike[str]) -> bool:
    """Returns whether an input is a folder, a pattern, a list, a URL or a video, rather than the path of one image."""
    text = os.fspath(path)
    return (
        text == STDIN
        or "://" in text
        or os.path.isdir(text)
        or is_list(text)
        or is_video(text)
        or (glob.has_magic(text) and not os.path.exists(text))
    )


def is_list(path: str) -> bool:
    """Returns whether a path or URL is a list of images, by its suffix."""
    return PurePosixPath(path).suffix.lower() in LIST_SUFFIXES


def find_sources(inputs: Sequence[str], outputs: str = "", on_warning: OnMessage = ignore) -> list[Source]:
    """Returns every image of the inputs once, in the order of the inputs, sorted within a folder or pattern.

    If a folder is the only input, an image is named by its path in that folder; otherwise by its path as passed.
    Images below the folder `outputs` are skipped.

    Raises: ImageError if an input has no images, ConfigError if two images share a name.
    """
    is_only_input = len(inputs) == 1
    by_location: dict[str, Source] = {}
    by_name: dict[str, Source] = {}
    skipped_videos = 0
    for path in inputs:
        is_empty = True
        for source in sources_of(path, is_only_input):
            is_empty = False
            if source.location in by_location or is_below(source.location, outputs):
                continue
            if is_video(source.location) and not is_pyav_installed():
                skipped_videos += 1
                continue
            if (first := by_name.setdefault(source.name, source)) is not source:
                raise ConfigError(
                    f"{first.location} and {source.location} have the same name, {source.name}. Rename one of them."
                )
            by_location[source.location] = source
        if is_empty:
            raise ImageError(f"{path} has no images. Pass images, a folder, a quoted pattern or a list.")
    if skipped_videos and not by_location:
        raise MissingExtraError(f"{inputs[0]}: videos need PyAV: pip install 'unfreeze[video]'")
    if skipped_videos:
        on_warning(f"{skipped_videos} videos are skipped, because they need PyAV: pip install 'unfreeze[video]'")
    return list(by_location.values())


def is_below(location: str, folder: str) -> bool:
    """Returns whether a path or URL is below a folder; never for an empty `folder`."""
    return bool(folder) and location.startswith(folder.rstrip("/" + os.sep) + ("/" if "://" in folder else os.sep))


def sources_of(path: str, is_only_input: bool) -> Iterator[Source]:
    """Yields the images of one input."""
    if path == STDIN:
        yield from sources_of_list(sys.stdin)
    elif "://" in path and not path.startswith("file://"):
        yield from remote_sources(path, is_only_input)
    else:
        yield from local_sources(path.removeprefix("file://"), is_only_input)


def local_sources(path: str, is_only_input: bool) -> Iterator[Source]:
    """Yields the images of a list, a folder, a pattern, or the image itself."""
    if is_list(path):
        try:
            yield from sources_of_list(Path(path).read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ImageError(
                f"{path} cannot be read as a list of images: {error}. Write one path or URL on each line."
            ) from None
    elif os.path.isdir(path):
        for inside in files_in(path):
            yield source_of_file(inside, path if is_only_input else "")
    elif glob.has_magic(path) and not os.path.exists(path):
        matches = sorted(glob.glob(path, recursive=True))
        yield from (source_of_file(match) for match in matches if has_known_suffix(match))
    else:
        yield source_of_file(path)


def sources_of_list(lines: Iterable[str]) -> Iterator[Source]:
    """Yields the images of a list: each line is a path or a URL, as on the command line."""
    for line in lines:
        if text := line.strip():
            yield Source(text, text) if "://" in text else source_of_file(text)


def source_of_file(path: str, root: str = "") -> Source:
    """Returns the source of a local file, named by its path in the folder `root`, if there is one."""
    return Source(Path(os.path.relpath(path, root)).as_posix() if root else path, os.path.abspath(path))


def files_in(folder: str) -> Iterator[str]:
    """Yields the images and videos in a folder and below, sorted, without hidden ones."""
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(path, name) for name in sorted(names) if has_known_suffix(name))


def has_known_suffix(path: str) -> bool:
    """Returns whether a path is an image or a video by its suffix, and not hidden."""
    name = PurePosixPath(path)
    return name.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not name.name.startswith(".")


def remote_sources(url: str, is_only_input: bool) -> Iterator[Source]:
    """Yields the images of a URL: one file, a pattern, a list, or everything below it."""
    files, path = file_system(url)
    scheme = url[: url.index("://") + 3]
    try:
        if glob.has_magic(path):
            paths, root = sorted(files.glob(path)), ""
        elif is_list(path):
            yield from sources_of_list(files.cat_file(path).decode().splitlines())
            return
        elif has_known_suffix(path) and files.isfile(path):
            yield Source(url, url)
            return
        else:
            paths, root = sorted(files.find(path)), path.rstrip("/") + "/" if is_only_input else ""
    except Exception as error:  # each store has errors of its own
        raise ImageError(
            f"{url} cannot be listed: {type(error).__name__}: {error}. Check the URL and your access."
        ) from None
    for name in filter(has_known_suffix, paths):
        location = name if "://" in name else scheme + name
        yield Source(name.removeprefix(root) if root else location, location)


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns the fsspec file system of a URL, and the path in it."""
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError(f"{url}: URLs need fsspec: pip install 'unfreeze[cloud]'") from None
    try:
        files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UnsupportedError(f"{url}: {error}. s3:// and gs:// need: pip install 'unfreeze[cloud]'") from None
    return files, str(path)


def read_source(source: Source) -> Image.Image:
    """Returns the image, upright and in RGB. Raises: ImageError."""
    if "://" not in source.location:
        return read_image(source.location)
    files, path = file_system(source.location)
    try:
        encoded: bytes = files.cat_file(path)
    except Exception as error:  # each store has errors of its own
        raise ImageError(
            f"{source.location} cannot be read: {type(error).__name__}: {error}. Check the URL and your access."
        ) from None
    return read_image(source.location, encoded)
