"""Matches detections with objects: each detection in the order of its score takes the object that it overlaps most.

Source: evaluateImg of pycocotools' COCOeval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.boxes import Pairs, ranks


@dataclass(frozen=True)
class Matches:
    """The object of each detection that overlaps one, for each set of ignored objects and each threshold; else -1."""

    rows: np.ndarray  # [R] of the detections
    objects: np.ndarray  # [A, T, R] row of the object


def greedy_matches(
    pairs: Pairs, keys: np.ndarray, thresholds: np.ndarray, *, is_ignored: np.ndarray, is_shared: np.ndarray
) -> Matches:
    """Returns the matches of all images, for several thresholds and several sets of ignored objects at once.

    A detection takes, of the objects that no better detection took, the one with the highest overlap; an ignored
    object only if there is no other.

    Args:
        pairs: of detections that are ordered by key, the highest scores of each first.
        keys: `[N]` what detections compete in: a number for each image and class.
        thresholds: `[T]` the least overlap of a match.
        is_ignored: `[A, M]` the sets of ignored objects.
        is_shared: `[M]` objects that any number of detections may take.
    """
    rows = np.unique(pairs.detections)
    matches = np.full((len(is_ignored), len(thresholds), len(rows)), -1, np.int32)
    limits = np.minimum(thresholds, 1 - 1e-10)[:, None]
    is_taken = np.zeros((*matches.shape[:2], is_ignored.shape[1]), bool)
    for columns, starts, objects, overlaps in _rounds(pairs, keys):
        segments = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(objects))))
        is_free = (~is_taken[:, :, objects] | is_shared[objects]) & (overlaps >= limits)
        ignored = np.broadcast_to(is_ignored[:, None, objects], is_free.shape)
        preferred, fallback = (np.where(is_free & wanted, overlaps, -1.0) for wanted in (~ignored, ignored))
        best_preferred, best_fallback = (np.maximum.reduceat(side, starts, axis=-1) for side in (preferred, fallback))
        prefers = best_preferred >= 0
        best = np.where(prefers, best_preferred, best_fallback)
        values = np.where(prefers[..., segments], preferred, fallback)
        # Of equal overlaps, pycocotools takes the last.
        is_best = (values == best[..., segments]) & (best >= 0)[..., segments]
        last = np.maximum.reduceat(np.where(is_best, np.arange(len(objects)), -1), starts, axis=-1)
        area, threshold, segment = np.nonzero(last >= 0)
        chosen = objects[last[area, threshold, segment]]
        is_taken[area, threshold, chosen] = True
        matches[area, threshold, columns[segment]] = chosen
    return Matches(rows, matches)


def _rounds(pairs: Pairs, keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields rounds of detections of which no two have one key, the best of each key first.

    A round is: the numbers of its detections among those of `pairs`, where the pairs of each begin, and the objects and
    the overlaps of these pairs.
    """
    if not len(pairs.detections):
        return
    rows, starts, counts = np.unique(pairs.detections, return_index=True, return_counts=True)
    number = ranks(keys[rows])
    for current in range(int(number.max()) + 1):
        columns = np.flatnonzero(number == current)
        part = counts[columns]
        ends = np.cumsum(part)
        within = np.arange(int(part.sum())) - np.repeat(ends - part, part)
        chosen = np.repeat(starts[columns], part) + within
        yield columns, ends - part, pairs.objects[chosen], pairs.overlaps[chosen]
