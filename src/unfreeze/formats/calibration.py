"""A folder of images that a network is run on, to find the ranges of its values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np


def write_calibration(batches: Iterable[np.ndarray], folder: Path) -> int:
    """Writes the input of a model for each image, `[1, H, W, 3]`, into a folder; returns their number."""
    count = 0
    for count, batch in enumerate(batches, start=1):
        np.save(folder / f"{count:06d}.npy", batch)
    return count


def read_calibration(folder: Path) -> Iterator[np.ndarray]:
    """Yields what `write_calibration` wrote, one image at a time: only one is in memory."""
    for path in sorted(folder.glob("*.npy")):
        yield np.load(path)
