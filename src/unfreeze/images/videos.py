"""Reads the frames of a video with PyAV, an optional package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from PIL import Image

from unfreeze.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}


@dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    number: int  # the first is 0
    time_s: float | None  # None if the video does not store it
    image: Image.Image


def is_video(path: str) -> bool:
    """Returns whether a path or URL has a video's suffix."""
    return PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES


def is_pyav_installed() -> bool:
    """Returns whether videos can be read."""
    return find_spec("av") is not None


def read_frames(video: str | IO[bytes], name: str, step: int = 1) -> Iterator[Frame]:
    """Yields every `step`-th frame of a video, a path or an open file, upright and in RGB.

    Raises: MissingExtraError without PyAV; ImageError if it is not a video, and after the last frame of an incomplete
    one.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise MissingExtraError(f"{name} is a video, which needs PyAV: pip install 'unfreeze[video]'") from None
    try:
        with av.open(video) as container:
            if not container.streams.video:
                raise ImageError(f"{name} has no images. Pass a video.")
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                if number % step == 0:
                    time_s = None if frame.time is None else round(float(frame.time), 6)
                    yield Frame(number, time_s, upright(frame))
    except (av.FFmpegError, OSError) as error:
        raise ImageError(f"{name} cannot be read as a video ({error}). Check that the file is complete.") from None


def upright(frame: av.VideoFrame) -> Image.Image:
    """Returns a frame as an image, rotated as the video says; phones store a rotation, as cameras do in EXIF."""
    rotation = -round(getattr(frame, "rotation", 0) or 0) % 360
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call,unused-ignore]
    return image.rotate(-rotation, expand=True) if rotation else image
