"""Finds the images on which the detections of two models differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.boxes import Detections, Objects, group_keys, overlapping_pairs
from unfreeze.evaluation.matching import greedy_matches

MATCH_IOU = 0.5  # above it, two models detected the same object


@dataclass(frozen=True)
class ImageDifference:
    """An image on which two models differ, and by what sum of scores."""

    image: str
    difference: float


def differences(ours: Detections, theirs: Detections, images: int, classes: int) -> np.ndarray:
    """Returns `[I]` how far the detections of two models differ on each image.

    It is the sum of the scores of what only one detected, and of the score differences of what both detected.
    """
    ours = ours[np.lexsort((-ours.scores, group_keys(ours, classes)))]
    nothing = np.zeros(len(theirs), bool)
    as_objects = Objects(theirs.images, theirs.classes, theirs.boxes, theirs.scores, nothing, nothing, nothing)
    pairs = overlapping_pairs(ours, as_objects, nothing, min_overlap=MATCH_IOU, classes=classes)
    matches = greedy_matches(
        pairs, group_keys(ours, classes), np.array([MATCH_IOU]), is_ignored=nothing[None], is_shared=nothing
    )
    objects = matches.objects[0, 0]
    rows, partners = matches.rows[objects >= 0], objects[objects >= 0]
    our_difference, their_difference = ours.scores.copy(), theirs.scores.copy()
    our_difference[rows] = np.abs(ours.scores[rows] - theirs.scores[partners])
    their_difference[partners] = 0
    total: np.ndarray = np.bincount(ours.images, our_difference, minlength=images)
    total += np.bincount(theirs.images, their_difference, minlength=images)
    return total
