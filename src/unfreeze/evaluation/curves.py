"""Precision and recall of one class as the score threshold falls, and the threshold with the best balance of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OperatingPoint:
    """What a score threshold gives: detections that score at least `threshold` have this precision and recall."""

    threshold: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class after each detection, the highest score first."""

    scores: np.ndarray  # [N] falling
    precision: np.ndarray  # [N]
    recall: np.ndarray  # [N]

    @classmethod
    def of(cls, scores: np.ndarray, hits: np.ndarray, positives: float) -> Curve:
        """Returns the curve of detections, of which `hits` says how much each found: 1 for an object, 0 for nothing."""
        order = np.argsort(-scores, kind="stable")
        hits = hits[order].astype(float)
        found, wrong = np.cumsum(hits), np.cumsum(hits <= 0)
        return cls(scores[order], found / (found + wrong), found / positives)

    def average_precision(self) -> float:
        """Returns the area under the curve, whose precision is made to fall with the recall.

        Source: compute_average_precision of object_detection/utils/metrics.py.
        """
        recall = np.concatenate([[0.0], self.recall, [1.0]])
        precision = np.concatenate([[0.0], self.precision, [0.0]])
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        return float(np.sum(np.diff(recall) * precision[1:]))

    def best_point(self) -> OperatingPoint | None:
        """Returns the score threshold with the highest F1; None if no detection is right.

        The threshold is halfway to the next lower score, so that rounding it changes nothing.
        """
        if not len(self.scores) or not self.recall[-1]:
            return None
        total = self.precision + self.recall
        f1 = np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)
        f1[:-1][self.scores[:-1] == self.scores[1:]] = -1  # no threshold separates equal scores
        best = int(np.argmax(f1))
        following = float(self.scores[best + 1]) if best + 1 < len(self.scores) else 0.0
        threshold = (float(self.scores[best]) + following) / 2
        return OperatingPoint(threshold, float(self.precision[best]), float(self.recall[best]))
