"""The images that the ranges of an int8 network are measured on, as each format takes them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from unfreeze.errors import ImageError
from unfreeze.runtimes.image_input import resized


def calibration_images(path: Path, count: int) -> Iterator[np.ndarray]:
    """Yields at most `count` images `[H, W, 3]` uint8 of a folder or of TFRecord files, decoded as a training does.

    Of a folder with more images, every n-th is taken: folders may be sorted by class. Of TFRecord files, the first.

    Raises:
        ImageError: there are none, or one cannot be decoded.
    """
    from unfreeze.evaluation.annotations import decode_image  # imports Pillow, which few exports need

    is_empty = True
    for name, encoded in islice(_encoded(path, count), count):
        is_empty = False
        yield decode_image(encoded, name)
    if is_empty:
        raise ImageError(f"{path}: has no images. Pass a folder of images or a TFRecord file.")


def _encoded(path: Path, count: int) -> Iterator[tuple[str, bytes]]:
    from unfreeze.evaluation.tfrecords import read_images
    from unfreeze.images import find_sources, is_video

    if not path.is_dir():
        yield from read_images(path)
        return
    locations = [source.location for source in find_sources([str(path)]) if not is_video(source.location)]
    step = max(1, len(locations) // count)
    for location in locations[::step]:
        yield location, Path(location).read_bytes()


def as_input(image: np.ndarray, shape: tuple[int | None, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an image as the input `[N, H, W, 3]` of a file: N copies, resized where the file fixes the size."""
    count, height, width, _ = shape
    batch = resized(image[np.newaxis], height or image.shape[0], width or image.shape[1], dtype)
    return np.repeat(batch, count or 1, axis=0)
