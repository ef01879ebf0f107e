"""Cuts large images into tiles, and merges the detections of the tiles.

A detector scales an image to its input size, so that small objects of a large image disappear. In tiles they stay
large. The whole image is run too, for objects that are larger than a tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from unfreeze.errors import ConfigError
from unfreeze.images import Detection, Source
from unfreeze.images.detections import Box
from unfreeze.images.drawing import Rectangle
from unfreeze.prediction.backends import Backend
from unfreeze.prediction.class_names import Names, names_in_outputs
from unfreeze.prediction.detections import parse_detections

DEFAULT_OVERLAP = 0.2
SAME_OBJECT = 0.5  # overlap above which two detections of one class are one object
EDGE_PX = 3  # a box that ends so close to the edge of a tile may go on beyond it


@dataclass(frozen=True)
class Tiling:
    """How images are cut: into squares of `size` pixels that overlap by a share of it."""

    size: int
    overlap: float = DEFAULT_OVERLAP

    @classmethod
    def of(cls, size: int | None, overlap: float | None) -> Tiling | None:
        """Returns the tiling of the options, or None. Raises: ConfigError."""
        if size is None:
            if overlap is not None:
                raise ConfigError("--tile-overlap needs --tile-size: pass the size of a tile in pixels.")
            return None
        tiling = cls(size, DEFAULT_OVERLAP if overlap is None else overlap)
        if size < 1 or not 0 <= tiling.overlap < 1:
            raise ConfigError(
                f"--tile-size {size} --tile-overlap {tiling.overlap}: not a tiling. "
                "Pass a size of at least 1 and an overlap from 0 to less than 1."
            )
        return tiling

    def cuts(self, image: Image.Image) -> bool:
        """Returns whether an image is larger than a tile."""
        return max(image.size) > self.size

    def tiles(self, width: int, height: int) -> list[Rectangle]:
        """Returns the tiles of an image, all of one size; the last of a row or column is moved inside the image."""
        return [
            (left, top, min(left + self.size, width), min(top + self.size, height))
            for top in self._starts(height)
            for left in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        if length <= self.size:
            return [0]
        step = max(1, round(self.size * (1 - self.overlap)))
        return [*range(0, length - self.size, step), length - self.size]


@dataclass(frozen=True)
class TileDetection:
    """A detection in the coordinates of the whole image, and the number of the tile that has it."""

    detection: Detection
    tile: int
    is_cut: bool  # it ends at an edge of its tile that is inside the image


def detect(
    backend: Backend, source: Source, image: Image.Image, names: Names, min_score: float, tiling: Tiling | None
) -> tuple[Detection, ...]:
    """Returns the detections of an image that score at least `min_score`, run in tiles if it is larger than one.

    `names` are those of the classes; if there are none, those in the outputs of the model.
    """
    if tiling is None or not tiling.cuts(image):
        [outputs] = backend.run([source], [image])
        return tuple(parse_detections(outputs, image, names or names_in_outputs(outputs), min_score))
    detections: list[TileDetection] = []
    tiles = [*tiling.tiles(*image.size), (0, 0, *image.size)]
    for number, (tile, part, outputs) in enumerate(_run_parts(backend, source, image, tiles)):
        for detection in parse_detections(outputs, part, names or names_in_outputs(outputs), min_score):
            detections.append(in_image(detection, tile, number, image.size))
    return merged(detections)


def _run_parts(
    backend: Backend, source: Source, image: Image.Image, tiles: Sequence[Rectangle]
) -> Iterator[tuple[Rectangle, Image.Image, dict[str, np.ndarray]]]:
    """Yields each part of the image with the outputs of the model; parts of one size share a batch."""
    *squares, whole = tiles
    batches = [squares[start : start + backend.batch_size] for start in range(0, len(squares), backend.batch_size)]
    for batch in batches:
        parts = [image.crop(tile) for tile in batch]
        sources = [Source(f"{source.name} at {left},{top}", "") for left, top, _, _ in batch]
        for tile, part, outputs in zip(batch, parts, backend.run(sources, parts), strict=True):
            yield tile, part, dict(outputs)
    [outputs] = backend.run([source], [image])
    yield whole, image, dict(outputs)


def in_image(detection: Detection, tile: Rectangle, number: int, size: tuple[int, int]) -> TileDetection:
    """Returns a detection of a tile in the coordinates of the whole image of `size` (width, height)."""
    width, height = size
    left, top, right, bottom = tile

    def moved_y(y: float) -> float:
        return (top + y * (bottom - top)) / height

    def moved_x(x: float) -> float:
        return (left + x * (right - left)) / width

    def moved(box: Box) -> Box:
        ymin, xmin, ymax, xmax = box
        return moved_y(ymin), moved_x(xmin), moved_y(ymax), moved_x(xmax)

    ymin, xmin, ymax, xmax = moved(detection.box)
    is_cut = (
        (top > 0 and ymin * height < top + EDGE_PX)
        or (left > 0 and xmin * width < left + EDGE_PX)
        or (bottom < height and ymax * height > bottom - EDGE_PX)
        or (right < width and xmax * width > right - EDGE_PX)
    )
    keypoints = tuple((moved_y(y), moved_x(x), score) for y, x, score in detection.keypoints)
    in_whole = replace(detection, box=(ymin, xmin, ymax, xmax), mask_box=moved(detection.mask_box), keypoints=keypoints)
    return TileDetection(in_whole, number, is_cut)


def merged(detections: Iterable[TileDetection]) -> tuple[Detection, ...]:
    """Returns the detections of all tiles without those of objects that another tile has too, highest score first.

    In each class, a detection is dropped if one of another tile overlaps it: by IoU, or, if it is cut at the edge of
    its tile, by the share of it that is inside the other. Whole detections win over cut ones, then the higher score.
    """
    by_class: dict[int, list[TileDetection]] = {}
    for item in detections:
        by_class.setdefault(item.detection.class_id, []).append(item)
    kept = [item.detection for items in by_class.values() for item in _suppressed(items)]
    return tuple(sorted(kept, key=lambda detection: -detection.score))


def _suppressed(items: list[TileDetection]) -> Iterator[TileDetection]:
    """Yields the detections of one class that are kept."""
    items = sorted(items, key=lambda item: (item.is_cut, -item.detection.score))
    boxes = np.array([item.detection.box for item in items])
    tiles = np.array([item.tile for item in items])
    is_cut = np.array([item.is_cut for item in items])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    is_dropped = np.zeros(len(items), bool)
    for index, item in enumerate(items):
        if is_dropped[index]:
            continue
        yield item
        shared = _intersections(boxes[index], boxes)
        union = areas[index] + areas - shared
        is_same = (shared >= SAME_OBJECT * union) | (is_cut & (shared >= SAME_OBJECT * areas))
        is_dropped |= is_same & (tiles != tiles[index])


def _intersections(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    height = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    width = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    shared: np.ndarray = np.maximum(height, 0) * np.maximum(width, 0)
    return shared
