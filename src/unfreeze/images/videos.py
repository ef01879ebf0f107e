"""Frames of a video, upright and in RGB, where PyAV is installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import IO, Any

from PIL import Image

from unfreeze.errors import MissingExtraError, ImageError

VIDEO_SUFFIXES = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    number: int  # from 0
    time_s: float | None  # None where the video does not tell
    picture: Image.Image


def is_video(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES


def videos_can_be_read() -> bool:
    return find_spec("av") is not None


def frames(video: str | IO[bytes], name: str, step: int = 1) -> Iterator[Frame]:
    """Each `step`-th frame of a video, a path or an open file.

    Raises: MissingExtraError without PyAV; ImageError for no video, and for a torn one after its last frame.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise MissingExtraError(f"{name} is a video, which needs PyAV: pip install 'unfreeze[video]'") from None
    try:
        with av.open(video) as container:
            if not container.streams.video:
                raise ImageError(f"{name} has no pictures: give a video")
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                if number % step == 0:
                    time_s = None if frame.time is None else round(float(frame.time), 6)
                    yield Frame(number, time_s, upright(frame))
    except (av.FFmpegError, OSError) as error:
        raise ImageError(f"{name} cannot be read as a video ({error}): is it complete?") from None


def upright(frame: Any) -> Image.Image:
    """Phones write which way up a video is, as cameras do in EXIF."""
    turned = -round(getattr(frame, "rotation", 0) or 0) % 360
    picture = frame.to_image()
    return picture.rotate(-turned, expand=True) if turned else picture
