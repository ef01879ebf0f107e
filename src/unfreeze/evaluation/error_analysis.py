"""Says what goes wrong at the best score thresholds: which classes are confused, and in which images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.boxes import Detections, Objects, overlapping_pairs
from unfreeze.evaluation.curves import OperatingPoint

MATCHING_IOU = 0.5
DEFAULT_THRESHOLD = 0.5  # of a class of which no detection is right


@dataclass(frozen=True)
class Findings:
    """The detections above the thresholds, and what each found."""

    detections: Detections
    objects: Objects
    object_of: np.ndarray  # [N] row of the object that a detection found, -1 if none
    found_by: np.ndarray  # [M] row of the detection that found an object, -1 if none
    is_counted: np.ndarray  # [N] False for detections of crowds, groups and difficult objects

    @property
    def missed(self) -> np.ndarray:
        """The rows of the objects that no detection found."""
        return np.flatnonzero((self.found_by < 0) & is_regular(self.objects))

    @property
    def false(self) -> np.ndarray:
        """The rows of the detections that found no object."""
        return np.flatnonzero((self.object_of < 0) & self.is_counted)

    @property
    def confused(self) -> np.ndarray:
        """The rows of the detections that found an object and gave it another class."""
        rows = np.flatnonzero(self.object_of >= 0)
        is_other_class = self.detections.classes[rows] != self.objects.classes[self.object_of[rows]]
        wrong: np.ndarray = rows[is_other_class]
        return wrong

    def confusion(self, classes: int) -> np.ndarray:
        """Returns `[K + 1, K + 1]` counts: the annotated class, last: unmatched, by the detected one, last: missed."""
        counts = np.zeros((classes + 1, classes + 1), np.int64)
        rows = np.flatnonzero(self.object_of >= 0)
        np.add.at(counts, (self.objects.classes[self.object_of[rows]], self.detections.classes[rows]), 1)
        np.add.at(counts, (self.objects.classes[self.missed], classes), 1)
        np.add.at(counts, (classes, self.detections.classes[self.false]), 1)
        return counts

    def errors(self, images: int) -> np.ndarray:
        """Returns `[I]` the number of errors of each image: missed objects, false and confused detections."""
        wrong = np.concatenate([self.false, self.confused])
        total: np.ndarray = np.bincount(self.detections.images[wrong], minlength=images)
        total += np.bincount(self.objects.images[self.missed], minlength=images)
        return total


def is_regular(objects: Objects) -> np.ndarray:
    """Returns which objects a detector must find: those that are no crowd, no group and not difficult."""
    regular: np.ndarray = ~(objects.is_crowd | objects.is_group_of | objects.is_difficult)
    return regular


def find_errors(detections: Detections, objects: Objects, points: tuple[OperatingPoint | None, ...]) -> Findings:
    """Returns what the detections at the best score thresholds (`points` of each class) find.

    Detections are matched with objects of their class first, the highest scores first, as for precision and recall;
    what is left over is matched with other classes, the largest overlaps first.
    """
    thresholds = np.array([point.threshold if point else DEFAULT_THRESHOLD for point in points])
    kept = detections[np.flatnonzero(detections.scores >= thresholds[detections.classes])]
    regions = objects.is_crowd | objects.is_group_of
    pairs = overlapping_pairs(kept, objects, regions, min_overlap=MATCHING_IOU)
    regular = is_regular(objects)
    object_of, found_by = np.full(len(kept), -1), np.full(len(objects), -1)
    same_class = kept.classes[pairs.detections] == objects.classes[pairs.objects]
    order = np.lexsort((-pairs.overlaps, np.where(same_class, -kept.scores[pairs.detections], 0.0), ~same_class))
    for row, column in zip(pairs.detections[order].tolist(), pairs.objects[order].tolist(), strict=True):
        if regular[column] and object_of[row] < 0 and found_by[column] < 0:
            object_of[row], found_by[column] = column, row
    is_counted = np.ones(len(kept), bool)
    is_counted[pairs.detections[~regular[pairs.objects] & same_class]] = False
    return Findings(kept, objects, object_of, found_by, is_counted)
