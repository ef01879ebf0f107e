"""COCO's twelve metrics, for all classes and for each, equal to those of pycocotools.

pycocotools matches the detections of each image and class in Python loops, which takes as long as running a fast
detector. Here the detections of all images are matched at once, in rounds: the best of each image and class first.

Source: COCOeval of pycocotools (evaluateImg, accumulate, summarize); object_detection/metrics/coco_evaluation.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unfreeze.errors import MissingExtraError
from unfreeze.evaluation.boxes import Detections, Objects, group_keys, overlapping_pairs, ranks
from unfreeze.evaluation.curves import Curve
from unfreeze.evaluation.matching import Matches, greedy_matches

METRICS = (
    "AP", "AP at IoU 0.5", "AP at IoU 0.75", "AP small", "AP medium", "AP large",
    "AR at 1", "AR at 10", "AR at 100", "AR small", "AR medium", "AR large",
)  # fmt: skip
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)  # of an image and class
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, small, medium, large; in pixels
ALL, SMALL, MEDIUM, LARGE = range(len(AREAS))

UNMATCHED, MATCHED, MATCHED_IGNORED = 0, 1, 2

Metrics = Mapping[str, Mapping[str, float]]  # "bbox" or "segm" -> name of a metric -> value, NaN if undefined


def require_pycocotools() -> None:
    """Raises MissingExtraError if pycocotools, which decodes and compares masks, is not installed."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        raise MissingExtraError("evaluating masks needs pycocotools: pip install 'unfreeze[evaluate]'") from None


@dataclass(frozen=True)
class CocoMetrics:
    """The precision and recall of each class at each IoU threshold and size; -1 for classes without objects."""

    precision: np.ndarray  # [IoU threshold, recall, class, area]
    recall: np.ndarray  # [IoU threshold, class, area, MAX_DETECTIONS]
    curves: tuple[Curve | None, ...]  # of each class, at IoU 0.5

    def summary(self, class_index: int | None = None) -> dict[str, float]:
        """Returns the twelve metrics over all classes, or of one class; NaN if undefined."""
        classes = slice(None) if class_index is None else slice(class_index, class_index + 1)
        precision, recall = self.precision[:, :, classes], self.recall[:, classes]
        values = (
            precision[..., ALL], precision[0, ..., ALL], precision[5, ..., ALL],
            precision[..., SMALL], precision[..., MEDIUM], precision[..., LARGE],
            *(recall[..., ALL, number] for number in range(len(MAX_DETECTIONS))),
            recall[..., SMALL, -1], recall[..., MEDIUM, -1], recall[..., LARGE, -1],
        )  # fmt: skip
        return {name: _mean_of_defined(value) for name, value in zip(METRICS, values, strict=True)}


def _mean_of_defined(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def coco_metrics(detections: Detections, objects: Objects, classes: int, *, masks: bool = False) -> CocoMetrics:
    """Returns the metrics of the detections of all images, by boxes or by masks.

    The rows of `objects` of one image are in the order of the annotations, those of `detections` in any order.
    """
    ordered = _best_of_each_image(detections, classes)
    pairs = overlapping_pairs(
        ordered, objects, objects.is_crowd, min_overlap=IOU_THRESHOLDS[0], classes=classes, masks=masks
    )
    low, high = (np.array(edges)[:, None] for edges in zip(*AREAS, strict=True))
    is_ignored = objects.is_crowd | (objects.areas < low) | (objects.areas > high)  # [A, M]
    keys = group_keys(ordered, classes)
    matches = greedy_matches(pairs, keys, IOU_THRESHOLDS, is_ignored=is_ignored, is_shared=objects.is_crowd)
    states = _states(matches, is_ignored, len(ordered))
    areas = _areas(ordered, masks)
    is_outside = (areas < low) | (areas > high)  # [A, N]
    return _accumulate(ordered, objects, classes, states, is_ignored, is_outside)


def _best_of_each_image(detections: Detections, classes: int) -> Detections:
    """Returns the detections ordered by image and class, the highest scores first, at most 100 of each."""
    keys = group_keys(detections, classes)
    order = np.lexsort((-detections.scores, keys))
    return detections[order[ranks(keys[order]) < MAX_DETECTIONS[-1]]]


def _areas(detections: Detections, masks: bool) -> np.ndarray:
    if not masks:
        boxes: np.ndarray = detections.boxes[:, 2] * detections.boxes[:, 3]
        return boxes
    from pycocotools import mask as coco_mask

    return np.asarray(coco_mask.area(detections.masks), np.float64) if detections.masks else np.zeros(0)


def _states(matches: Matches, is_ignored: np.ndarray, count: int) -> np.ndarray:
    """Returns `[A, T, N]` for each detection: unmatched, matched to an object, or to one that is ignored."""
    states = np.full((*matches.objects.shape[:2], count), UNMATCHED, np.int8)
    area, threshold, column = np.nonzero(matches.objects >= 0)
    chosen = matches.objects[area, threshold, column]
    ignored = is_ignored[area, chosen]
    states[area, threshold, matches.rows[column]] = np.where(ignored, MATCHED_IGNORED, MATCHED)
    return states


def _accumulate(
    detections: Detections,
    objects: Objects,
    classes: int,
    states: np.ndarray,
    is_ignored: np.ndarray,
    is_outside: np.ndarray,
) -> CocoMetrics:
    """Returns precision and recall over all images, from the matches of each detection."""
    by_class = np.lexsort((-detections.scores, detections.classes))
    rank = ranks(group_keys(detections, classes))[by_class]
    states, is_outside, scores = states[:, :, by_class], is_outside[:, by_class], detections.scores[by_class]
    sorted_classes, numbers = detections.classes[by_class], np.arange(classes)
    ends = np.searchsorted(sorted_classes, numbers, "right")
    starts = np.searchsorted(sorted_classes, numbers, "left")
    precision = -np.ones((len(IOU_THRESHOLDS), len(RECALLS), classes, len(AREAS)))
    recall = -np.ones((len(IOU_THRESHOLDS), classes, len(AREAS), len(MAX_DETECTIONS)))
    curves: list[Curve | None] = [None] * classes
    for index, rows in enumerate(map(slice, starts.tolist(), ends.tolist())):
        positives = (~is_ignored[:, objects.classes == index]).sum(axis=1)
        for area in np.flatnonzero(positives).tolist():
            state = states[area, :, rows]
            is_true = state == MATCHED
            is_false = (state == UNMATCHED) & ~is_outside[area, rows]
            for number, most in enumerate(MAX_DETECTIONS):
                found = is_true if most == MAX_DETECTIONS[-1] else is_true & (rank[rows] < most)
                recall[:, index, area, number] = found.sum(axis=1) / positives[area]
            precision[:, :, index, area] = _interpolated(is_true, is_false, positives[area])
            if area == ALL:
                counted = is_true[0] | is_false[0]
                curves[index] = Curve.of(scores[rows][counted], is_true[0][counted], positives[area])
    return CocoMetrics(precision, recall, tuple(curves))


def _interpolated(is_true: np.ndarray, is_false: np.ndarray, positives: int) -> np.ndarray:
    """Returns `[T, R]`: the highest precision at each recall or above it, 0 where the recall is not reached."""
    precision = np.zeros((len(is_true), len(RECALLS)))
    trues, falses = np.cumsum(is_true, axis=1, dtype=np.int32), np.cumsum(is_false, axis=1, dtype=np.int32)
    recalls = trues / positives
    precisions = trues / (trues + falses + np.spacing(1))
    precisions = np.maximum.accumulate(precisions[:, ::-1], axis=1)[:, ::-1]
    for row, (reached, values) in enumerate(zip(recalls, precisions, strict=True)):
        at = np.searchsorted(reached, RECALLS, side="left")
        precision[row, at < len(values)] = values[at[at < len(values)]]
    return precision
