"""How many detections of a model another one has too, where the two compute in different precisions.

Scores and boxes then differ by more than the rounding of sums, and detections near the score threshold come and go. So
only clear detections count, and one matches if it is clearly the same object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Outputs = Mapping[str, np.ndarray]

MIN_SCORE = 0.3  # of a detection that counts; half of the best score of the image, if that is less
MIN_IOU = 0.5
MIN_SCORE_RATIO = 0.5  # a detection of half the score would be filtered out by most clients
RULE = f"same class, IoU at least {MIN_IOU}, at least half of the score"


@dataclass(frozen=True)
class DetectionAgreement:
    """How many clear detections of a model there are on some images, and how many of them the other model has."""

    matched: int
    detections: int
    images: int

    @property
    def share(self) -> float:
        """Returns the matched share, from 0 to 1."""
        return self.matched / self.detections if self.detections else 1.0

    def __str__(self) -> str:
        """Returns `58 of 60 detections match on 12 images (same class, …)`."""
        images = "1 image" if self.images == 1 else f"{self.images} images"
        return f"{self.matched} of {self.detections} detections match on {images} ({RULE})"


def detection_agreement(pairs: Iterable[tuple[Outputs, Outputs]]) -> DetectionAgreement:
    """Returns how many detections of the first model the second has too.

    Args:
        pairs: for each image, the outputs of both models, each with a first dimension of 1. Without
            `detection_boxes`, the rows of `raw_detection_boxes` are compared one by one.
    """
    matched = detections = images = 0
    for first, second in pairs:
        count = _matched_detections if "detection_boxes" in first else _matched_rows
        matched_here, detections_here = count(first, second)
        matched, detections, images = matched + matched_here, detections + detections_here, images + 1
    return DetectionAgreement(matched, detections, images)


def _matched_detections(first: Outputs, second: Outputs) -> tuple[int, int]:
    boxes, scores, classes = _rows(first)
    their_boxes, their_scores, their_classes = _rows(second)
    clear = np.flatnonzero(scores >= _least_score(scores))
    overlaps = _overlaps(boxes, their_boxes)
    free = np.ones(len(their_scores), bool)
    matched = 0
    for i in clear[np.argsort(-scores[clear], kind="stable")]:
        same = free & (their_classes == classes[i]) & (their_scores >= MIN_SCORE_RATIO * scores[i])
        overlap = np.where(same, overlaps[i], -1.0)
        if overlap.max(initial=-1.0) >= MIN_IOU:
            free[int(overlap.argmax())] = False
            matched += 1
    return matched, len(clear)


def _matched_rows(first: Outputs, second: Outputs) -> tuple[int, int]:
    """Compares raw boxes and scores row by row: without suppression, every row is there in both models."""
    boxes, scores = first["raw_detection_boxes"][0], _without_background(first["raw_detection_scores"][0])
    their_boxes, their_scores = second["raw_detection_boxes"][0], _without_background(second["raw_detection_scores"][0])
    best = scores.max(-1)
    clear = np.flatnonzero(best >= _least_score(best))
    labels = scores[clear].argmax(-1)
    overlaps = np.array([_overlaps(boxes[i : i + 1], their_boxes[i : i + 1])[0, 0] for i in clear])
    same = their_scores[clear, labels] >= MIN_SCORE_RATIO * best[clear]
    return int((same & (overlaps >= MIN_IOU)).sum()), len(clear)


def _without_background(scores: np.ndarray) -> np.ndarray:
    """`[A, C] -> [A, C - 1]`: without column 0, which is the background in almost all models."""
    return scores[:, 1:] if scores.shape[1] > 1 else scores


def _rows(outputs: Outputs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = outputs["detection_scores"][0]
    count = int(outputs["num_detections"][0]) if "num_detections" in outputs else len(scores)
    return outputs["detection_boxes"][0][:count], scores[:count], np.round(outputs["detection_classes"][0][:count])


def _least_score(scores: np.ndarray) -> float:
    return min(MIN_SCORE, float(scores.max(initial=MIN_SCORE)) / 2) if len(scores) else MIN_SCORE


def _overlaps(boxes: np.ndarray, their_boxes: np.ndarray) -> np.ndarray:
    """`[I, 4], [J, 4] -> [I, J]`: intersection over union."""
    low = np.maximum(boxes[:, np.newaxis, :2], their_boxes[np.newaxis, :, :2])
    high = np.minimum(boxes[:, np.newaxis, 2:], their_boxes[np.newaxis, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), -1)
    areas, their_areas = (np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), -1) for b in (boxes, their_boxes))
    union = areas[:, np.newaxis] + their_areas - shared
    overlaps: np.ndarray = np.where(union > 0, shared / np.where(union > 0, union, 1), 0)
    return overlaps
