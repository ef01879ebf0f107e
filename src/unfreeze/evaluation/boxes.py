"""The objects and the detections of all images as columns, and which of them overlap.

Metrics of thousands of images are computed on these columns at once: a loop over images and classes takes minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK = 1 << 21  # pairs that are compared at once: it bounds the memory
MASK_CHUNK = 1 << 10

Mask = dict[str, Any]  # COCO's compressed run lengths: size and counts


@dataclass(frozen=True)
class Objects:
    """The annotated objects of all images; boxes are (left, top, width, height) in pixels."""

    images: np.ndarray  # [M] index of the image
    classes: np.ndarray  # [M] index of the category
    boxes: np.ndarray  # [M, 4] float64
    areas: np.ndarray  # [M] of the object, which may be less than that of its box
    is_crowd: np.ndarray  # [M] bool
    is_difficult: np.ndarray  # [M] bool
    is_group_of: np.ndarray  # [M] bool
    masks: list[Mask] | None = None

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Detections:
    """The detections of all images; boxes are (left, top, width, height) in pixels."""

    images: np.ndarray  # [N] index of the image
    classes: np.ndarray  # [N] index of the category
    boxes: np.ndarray  # [N, 4] float64
    scores: np.ndarray  # [N] float64
    masks: list[Mask] | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, rows: np.ndarray) -> Detections:
        """Returns the detections of some rows, in that order."""
        masks = [self.masks[row] for row in rows.tolist()] if self.masks is not None else None
        return Detections(self.images[rows], self.classes[rows], self.boxes[rows], self.scores[rows], masks)


@dataclass(frozen=True)
class Pairs:
    """The pairs of a detection and an object that overlap enough, ordered by detection, then by object."""

    detections: np.ndarray  # [P] row
    objects: np.ndarray  # [P] row
    overlaps: np.ndarray  # [P]


def group_keys(table: Objects | Detections, classes: int) -> np.ndarray:
    """Returns a number for each row that is the same for all rows of one image and class."""
    keys: np.ndarray = table.images.astype(np.int64) * classes + table.classes
    return keys


def ranks(keys: np.ndarray) -> np.ndarray:
    """Returns how many earlier rows have the same key, for keys whose equal values are neighbors."""
    if not len(keys):
        return np.zeros(0, np.int64)
    is_first = np.concatenate([[True], keys[1:] != keys[:-1]])
    starts = np.flatnonzero(is_first)
    numbers: np.ndarray = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return numbers


def overlapping_pairs(
    detections: Detections,
    objects: Objects,
    regions: np.ndarray,
    *,
    min_overlap: float,
    classes: int | None = None,
    masks: bool = False,
) -> Pairs:
    """Returns the pairs of one image, and of one class if `classes` is their number, that overlap at least so much.

    The overlap is the intersection over the union; with an object that stands for several (`regions`: a crowd, a group)
    it is the intersection over the area of the detection.
    """
    if classes is None:
        detection_keys, object_keys = detections.images.astype(np.int64), objects.images.astype(np.int64)
    else:
        detection_keys, object_keys = group_keys(detections, classes), group_keys(objects, classes)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for rows, columns in _pairs_of_keys(detection_keys, object_keys, MASK_CHUNK if masks else CHUNK):
        overlaps = (
            _mask_overlaps(detections, objects, regions, rows, columns)
            if masks
            else _box_overlaps(detections.boxes[rows], objects.boxes[columns], regions[columns])
        )
        enough = overlaps >= min_overlap
        found.append((rows[enough], columns[enough], overlaps[enough]))
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _pairs_of_keys(
    detection_keys: np.ndarray, object_keys: np.ndarray, chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows of the detections and of the objects that have equal keys, about `chunk` pairs at a time."""
    order = np.argsort(object_keys, kind="stable")
    first, last = (np.searchsorted(object_keys[order], detection_keys, side) for side in ("left", "right"))
    counts = last - first
    ends = np.cumsum(counts)
    start, done = 0, 0
    while start < len(counts):
        stop = max(start + 1, int(np.searchsorted(ends, done + chunk, "right")))
        part = counts[start:stop]
        total = int(part.sum())
        if total:
            within = np.arange(total) - np.repeat(np.cumsum(part) - part, part)
            yield np.repeat(np.arange(start, stop), part), order[np.repeat(first[start:stop], part) + within]
        done += total
        start = stop


def _box_overlaps(detected: np.ndarray, annotated: np.ndarray, is_region: np.ndarray) -> np.ndarray:
    """Returns the overlap of each row of two arrays of boxes. Source: bbIou of cocoapi's maskApi.c."""
    width = np.minimum(detected[:, 0] + detected[:, 2], annotated[:, 0] + annotated[:, 2])
    width -= np.maximum(detected[:, 0], annotated[:, 0])
    height = np.minimum(detected[:, 1] + detected[:, 3], annotated[:, 1] + annotated[:, 3])
    height -= np.maximum(detected[:, 1], annotated[:, 1])
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = detected[:, 2] * detected[:, 3]
    total = np.where(is_region, area, area + annotated[:, 2] * annotated[:, 3] - shared)
    overlaps: np.ndarray = np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
    return overlaps


def _mask_overlaps(
    detections: Detections, objects: Objects, is_region: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Returns the overlap of the masks of each pair."""
    from pycocotools import mask as coco_mask

    assert detections.masks is not None
    assert objects.masks is not None
    overlaps = np.zeros(len(rows))
    starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    for start, stop in zip(starts, np.append(starts[1:], len(rows)), strict=True):  # one detection, all its objects
        others = columns[start:stop]
        crowds = is_region[others].astype(np.uint8).tolist()
        masks = [objects.masks[column] for column in others]
        overlaps[start:stop] = coco_mask.iou([detections.masks[rows[start]]], masks, crowds)[0]
    return overlaps
