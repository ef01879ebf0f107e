"""Says what to look at first: the sizes, classes and confusions that cost a model most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from unfreeze.formatting import amount

if TYPE_CHECKING:
    from unfreeze.evaluation.evaluation import ClassScores, Scores

WEAK = 0.6  # a class or size is weak if its AP is below this share of the others'
MIN_CONFUSED = 3  # objects, and
MIN_CONFUSED_SHARE = 0.05  # of the objects of a class
MIN_THRESHOLD_RANGE = 0.15
FEW_OBJECTS = 50


def advice(scores: Scores) -> Iterator[str]:
    """Yields sentences about one model, each of which is a reason to act."""
    yield from _about_sizes(scores)
    yield from _about_weak_classes(scores)
    yield from _about_confusions(scores)
    yield from _about_thresholds(scores)


def _about_sizes(scores: Scores) -> Iterator[str]:
    metrics = scores.metrics["bbox"]
    sizes = {size: metrics.get(f"AP {size}", np.nan) for size in ("small", "medium", "large")}
    defined = {size: value for size, value in sizes.items() if not np.isnan(value)}
    if len(defined) < 2:
        return
    weakest, best = min(defined, key=lambda size: defined[size]), max(defined, key=lambda size: defined[size])
    if defined[weakest] < WEAK * defined[best]:
        line = f"Objects of {weakest} size have AP {defined[weakest]:.3f}, those of {best} size {defined[best]:.3f}."
        yield line + (" Larger input images help, or --tile-size of unfreeze predict." if weakest == "small" else "")


def _about_weak_classes(scores: Scores) -> Iterator[str]:
    values = [(_first_metric(item), item) for item in scores.classes]
    values = [(value, item) for value, item in values if not np.isnan(value)]
    if len(values) < 2:
        return
    value, weakest = min(values, key=lambda pair: pair[0])
    if value < WEAK * scores.mean_average_precision:
        few = " (few to measure it by)" if weakest.objects < FEW_OBJECTS else ""
        yield f"{weakest.name} has the lowest AP, {value:.3f}, with {amount(weakest.objects, 'object')} here{few}."


def _first_metric(scores: ClassScores) -> float:
    return next(iter(scores.metrics.values()))


def _about_confusions(scores: Scores) -> Iterator[str]:
    counts = scores.confusion[:-1, :-1].copy()
    if not counts.size:
        return
    np.fill_diagonal(counts, 0)
    row, column = np.unravel_index(int(np.argmax(counts)), counts.shape)
    confused, total = int(counts[row, column]), int(scores.confusion[row].sum())
    if confused >= max(MIN_CONFUSED, MIN_CONFUSED_SHARE * total):
        names = scores.class_names
        yield f"{confused} of {total} objects of class {names[row]} are detected as {names[column]}."


def _about_thresholds(scores: Scores) -> Iterator[str]:
    points = {item.name: item.best.threshold for item in scores.classes if item.best is not None}
    if len(points) < 2:
        return
    lowest, highest = min(points, key=lambda name: points[name]), max(points, key=lambda name: points[name])
    if points[highest] - points[lowest] > MIN_THRESHOLD_RANGE:
        yield (
            f"The best score thresholds range from {points[lowest]:.2f} ({lowest}) to {points[highest]:.2f} "
            f"({highest}): use one for each class."
        )
