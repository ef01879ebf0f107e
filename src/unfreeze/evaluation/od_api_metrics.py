"""The mean average precision at IoU 0.5 of Pascal VOC and of Open Images, as the Object Detection API computes them.

Source: object_detection/utils/object_detection_evaluation.py (PascalDetectionEvaluator, OpenImagesDetectionEvaluator,
OpenImagesDetectionChallengeEvaluator), per_image_evaluation.py and metrics.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.boxes import Detections, Objects, Pairs, group_keys, overlapping_pairs
from unfreeze.evaluation.curves import Curve

MATCHING_IOU = 0.5
NAME = "AP at IoU 0.5"


@dataclass(frozen=True)
class Protocol:
    """What an evaluation does with objects that are not like the others."""

    skips_difficult: bool = False  # difficult objects, and detections of them, do not count
    skips_groups: bool = False  # detections inside a group-of box do not count as false positives
    group_weight: float = 0.0  # how much a group-of box counts, which its best detection finds
    verified_classes_only: bool = False  # detections of classes that nobody looked for in the image do not count


PASCAL_VOC = Protocol(skips_difficult=True)
OPEN_IMAGES = Protocol(skips_groups=True)
OPEN_IMAGES_CHALLENGE = Protocol(skips_groups=True, group_weight=1.0, verified_classes_only=True)


@dataclass(frozen=True)
class AveragePrecisions:
    """The curve of each class at IoU 0.5; None for classes without objects."""

    curves: tuple[Curve | None, ...]

    def summary(self, class_index: int | None = None) -> dict[str, float]:
        """Returns the mean average precision over all classes with objects, or that of one class; NaN if undefined."""
        curves = self.curves if class_index is None else self.curves[class_index : class_index + 1]
        values = [curve.average_precision() for curve in curves if curve is not None]
        return {NAME: float(np.mean(values)) if values else float("nan")}


def average_precisions(
    detections: Detections,
    objects: Objects,
    classes: int,
    protocol: Protocol,
    verified: np.ndarray | None = None,
) -> AveragePrecisions:
    """Returns the average precision of each class.

    Args:
        verified: `[V]` keys (`group_keys`) of the image-level labels; classes with objects are verified anyway.
    """
    detections = _valid(detections)
    if protocol.verified_classes_only:
        keys = np.union1d(group_keys(objects, classes), verified if verified is not None else [])
        detections = detections[np.flatnonzero(np.isin(group_keys(detections, classes), keys))]
    detections = detections[np.argsort(-detections.scores, kind="stable")]
    is_group = objects.is_group_of if protocol.skips_groups else np.zeros(len(objects), bool)
    is_difficult = objects.is_difficult if protocol.skips_difficult else np.zeros(len(objects), bool)
    pairs = overlapping_pairs(detections, objects, is_group, min_overlap=MATCHING_IOU, classes=classes)

    is_true, is_counted = _match_objects(pairs, is_group, is_difficult, len(detections))
    group_rows, group_objects = _match_groups(pairs, is_group, is_counted & ~is_true)
    is_counted[group_rows] = False

    weights = np.where(is_group, protocol.group_weight, 1.0) * ~is_difficult
    positives = np.bincount(objects.classes, weights, minlength=classes)
    found_groups, first = np.unique(group_objects, return_index=True)  # the first is the best, since rows are ordered
    counts = (protocol.group_weight > 0) & (detections.scores[group_rows[first]] > 0)
    found_groups, group_scores = found_groups[counts], detections.scores[group_rows[first]][counts]
    curves: list[Curve | None] = []
    for index in range(classes):
        rows = np.flatnonzero(is_counted & (detections.classes == index))
        groups = objects.classes[found_groups] == index
        scores = np.concatenate([detections.scores[rows], group_scores[groups]])
        hits = np.concatenate([is_true[rows], np.full(groups.sum(), protocol.group_weight)])
        curves.append(Curve.of(scores, hits, positives[index]) if positives[index] else None)
    return AveragePrecisions(tuple(curves))


def _valid(detections: Detections) -> Detections:
    """Returns the detections whose boxes have an area."""
    return detections[np.flatnonzero((detections.boxes[:, 2] > 0) & (detections.boxes[:, 3] > 0))]


def _match_objects(
    pairs: Pairs, is_group: np.ndarray, is_difficult: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which detections are true positives, and which count: those of difficult objects do not.

    A detection is compared with the object that it overlaps most, even if a better detection has taken that.
    """
    rows, objects = _largest_overlaps(pairs, ~is_group[pairs.objects])
    is_counted = np.ones(count, bool)
    is_counted[rows[is_difficult[objects]]] = False
    rows, objects = rows[~is_difficult[objects]], objects[~is_difficult[objects]]
    _, first = np.unique(objects, return_index=True)  # the best detection of each object, since rows are ordered
    is_true = np.zeros(count, bool)
    is_true[rows[first]] = True
    return is_true, is_counted


def _match_groups(pairs: Pairs, is_group: np.ndarray, is_false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the false positives that lie inside a group-of box, and the group of each."""
    return _largest_overlaps(pairs, is_group[pairs.objects] & is_false[pairs.detections])


def _largest_overlaps(pairs: Pairs, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of the detections among the chosen pairs, and the object that each overlaps most."""
    rows, objects, overlaps = pairs.detections[chosen], pairs.objects[chosen], pairs.overlaps[chosen]
    order = np.lexsort((-overlaps, rows))  # stable: of equal overlaps the first object
    rows, first = np.unique(rows[order], return_index=True)
    return rows, objects[order][first]
