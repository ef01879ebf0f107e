"""Compares the outputs of two detectors for the same images: output by output, and detection by detection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Outputs = Mapping[str, np.ndarray]

DETECTION = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")
ROWS_TO_SORT = 512  # raw rows that differ and are looked for at other places; with more, the order is not searched


@dataclass(frozen=True)
class Tolerances:
    """The largest allowed differences between the outputs of two models.

    `boxes` is for coordinates of boxes and keypoints, `scores` for scores, both absolute. `other` is for every other
    output, relative to the largest value of that output where this is above 1.
    """

    boxes: float = 1e-4
    scores: float = 1e-4
    other: float = 1e-4

    def of(self, output: str, values: np.ndarray) -> float:
        """Returns the tolerance for an output with these values."""
        if (
            output in ("num_detections", "detection_classes", "detection_anchor_indices")
            or values.dtype.kind not in "fiu"
        ):
            return 0.0
        if output.endswith(("boxes", "keypoints")) and output != "proposal_boxes":  # proposals are in pixels
            return self.boxes
        if output in ("detection_scores", "detection_multiclass_scores"):
            return self.scores
        return self.other * max(1.0, float(np.abs(values).max(initial=0)))


@dataclass(frozen=True)
class Difference:
    """The difference of one output of two models, and the tolerance."""

    output: str
    largest: float
    mean: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Returns whether the difference is within the tolerance; NaN is not."""
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        """Returns `detection_boxes differs by 0.2 (allowed: 0.0001)`."""
        return f"{self.output} differs by {self.largest:.2g} (allowed: {self.tolerance:.2g})"


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_detections`.

    Of the `detections` of all images, `matched` have a match, `swapped` of these at another place (near-ties), and
    `cut` have none because their score ties with the last one kept. `only_ours` and `only_theirs` name the outputs
    that only one of the models has, which is not a problem. `problems` has one line for each.
    """

    differences: tuple[Difference, ...]
    detections: int
    matched: int
    swapped: int
    cut: int
    only_ours: tuple[str, ...]
    only_theirs: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Returns whether the outputs are equal within the tolerances."""
        return not self.problems

    def largest(self, *outputs: str) -> float:
        """Returns the largest difference of these outputs; without a name, of all."""
        return max((d.largest for d in self.differences if not outputs or d.output in outputs), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the problems as JSON data."""
        return {
            "detections": self.detections,
            "matched": self.matched,
            "swapped": self.swapped,
            "cut": self.cut,
            "only_ours": list(self.only_ours),
            "only_theirs": list(self.only_theirs),
            "outputs": {
                difference.output: {
                    "largest": difference.largest if np.isfinite(difference.largest) else None,
                    "mean": difference.mean if np.isfinite(difference.mean) else None,
                    "tolerance": difference.tolerance,
                }
                for difference in self.differences
            },
        }


def compare_detections(ours: Outputs, theirs: Outputs, tolerances: Tolerances | None = None) -> Comparison:
    """Compares the outputs of two models for the same N images; every array has N as its first dimension.

    The first `num_detections` rows of each image are matched one to one: same class, score and box within tolerance,
    at any place (which can differ only between near-ties). Where both models return the maximum number of detections, a
    detection whose score ties with the last one kept may be missing. Of the rows after the detections only the scores
    are compared. `raw_*` outputs are compared row by row, and as sets of rows where their order differs (near-tied
    proposals).
    """
    tolerances = tolerances or Tolerances()
    matching = all(name in ours and name in theirs for name in DETECTION)
    comparable = [
        name
        for name in ours
        if name in theirs and _have_comparable_shapes(ours[name], theirs[name], matching and _is_per_detection(name))
    ]
    problems = [
        f"{name} is {_dtype_and_shape(ours[name])} in one model, {_dtype_and_shape(theirs[name])} in the other"
        for name in ours
        if name in theirs and name not in comparable
    ]
    if not comparable:
        problems.append("the two models have no output in common")
    if matching and all(name in comparable for name in DETECTION):
        per_detection = [name for name in comparable if _is_per_detection(name)]
        matches = [_match(ours, theirs, image, tolerances) for image in range(len(ours["num_detections"]))]
    else:
        per_detection, matches = [], []
    differences = [
        _difference_of_matches(name, ours[name], theirs[name], matches, tolerances) for name in per_detection
    ]
    others = [name for name in comparable if name not in per_detection]
    differences += _differences_of_rows(others, ours, theirs, tolerances)
    unmatched = [problem for match in matches for problem in match.problems]
    problems += unmatched
    problems += [
        str(difference)
        for difference in differences
        if not difference.ok and not (unmatched and difference.output in DETECTION)
    ]
    return Comparison(
        differences=tuple(differences),
        detections=int(sum(match.count for match in matches)),
        matched=sum(len(match.pairs) for match in matches),
        swapped=int(sum(i != j for match in matches for i, j in match.pairs)),
        cut=int(sum(match.cut for match in matches)),
        only_ours=tuple(sorted(set(ours) - set(theirs))),
        only_theirs=tuple(sorted(set(theirs) - set(ours))),
        problems=tuple(problems),
    )


@dataclass
class _Match:
    """The pairs of equal detections of two models in one image; `nearest` pairs those that have no match."""

    count: int
    pairs: list[tuple[int, int]] = field(default_factory=list)
    nearest: list[tuple[int, int]] = field(default_factory=list)
    cut: int = 0
    problems: list[str] = field(default_factory=list)


def _match(ours: Outputs, theirs: Outputs, image: int, tolerances: Tolerances) -> _Match:
    boxes, scores, classes = (ours[name][image] for name in DETECTION[1:])
    their_boxes, their_scores, their_classes = (theirs[name][image] for name in DETECTION[1:])
    count, their_count = (int(outputs["num_detections"][image]) for outputs in (ours, theirs))
    match = _Match(count)
    if count != their_count:
        match.problems.append(f"image {image} has {count} detections in one model, {their_count} in the other")
    gaps = _gaps(boxes[:count], their_boxes[:their_count]) / tolerances.boxes
    gaps = np.maximum(gaps, np.abs(scores[:count, None] - their_scores[None, :their_count]) / tolerances.scores)
    gaps[classes[:count, None] != their_classes[None, :their_count]] = np.inf
    match.pairs = _pairs(gaps, limit=1.0)
    left = sorted(set(range(count)) - {i for i, _ in match.pairs})
    their_left = sorted(set(range(their_count)) - {j for _, j in match.pairs})
    if count == their_count == len(boxes) == len(their_boxes) and count:
        tied = float(min(scores[:count].min(), their_scores[:count].min())) + tolerances.scores
        match.cut = sum(scores[i] <= tied for i in left)
        left = [i for i in left if scores[i] > tied]
        their_left = [j for j in their_left if their_scores[j] > tied]
    match.nearest = [(left[i], their_left[j]) for i, j in _pairs(gaps[np.ix_(left, their_left)], limit=np.inf)]
    for i in left:
        near = [j for k, j in match.nearest if k == i]
        nearest = (
            f"the nearest has score {their_scores[near[0]]:.5f} and box {_box(their_boxes[near[0]])}"
            if near
            else "no other one of its class is left"
        )
        detection = f"class {classes[i]:g}, score {scores[i]:.5f}, box {_box(boxes[i])}"
        match.problems.append(f"image {image}: detection {i} ({detection}) has no match: {nearest}")
    if len(their_left) > len(left):
        match.problems.append(
            f"image {image}: {len(their_left) - len(left)} detections of the other model have no match"
        )
    rest = min(len(scores), len(their_scores))
    if (
        count == their_count
        and not np.abs(scores[count:rest] - their_scores[count:rest]).max(initial=0) <= tolerances.scores
    ):
        match.problems.append(f"image {image}: scores differ after the last detection")
    return match


def _gaps(boxes: np.ndarray, their_boxes: np.ndarray) -> np.ndarray:
    """`[I, 4], [J, 4] -> [I, J]`: the largest difference of a coordinate."""
    gaps: np.ndarray = np.abs(boxes[:, None].astype(np.float64) - their_boxes[None]).max(-1, initial=0)
    return gaps


def _pairs(gaps: np.ndarray, limit: float) -> list[tuple[int, int]]:
    """Pairs rows with columns of `[I, J]`: the same index first, then the nearest; no pair is farther than `limit`."""
    same = [i for i in range(min(gaps.shape)) if gaps[i, i] <= min(limit, 1.0)]
    pairs = [(i, i) for i in same]
    gaps = gaps.copy()
    gaps[same, :] = gaps[:, same] = np.nan
    for _ in range(min(gaps.shape) - len(same)):
        if not np.isfinite(gaps).any():
            break
        i, j = np.unravel_index(int(np.nanargmin(gaps)), gaps.shape)
        if gaps[i, j] > limit:
            break
        pairs.append((int(i), int(j)))
        gaps[i, :] = gaps[:, j] = np.nan
    return sorted(pairs)


def _difference_of_matches(
    name: str, ours: np.ndarray, theirs: np.ndarray, matches: Sequence[_Match], tolerances: Tolerances
) -> Difference:
    gaps = [
        _distance(ours[image][i], theirs[image][j]).ravel()
        for image, match in enumerate(matches)
        for i, j in match.pairs + match.nearest
    ]
    return _difference(name, np.concatenate(gaps) if gaps else np.zeros(0), tolerances.of(name, theirs))


def _differences_of_rows(
    names: Sequence[str], ours: Outputs, theirs: Outputs, tolerances: Tolerances
) -> list[Difference]:
    """Compares other outputs element by element, and `raw_*` outputs that then differ as sets of rows."""
    allowed = {name: tolerances.of(name, theirs[name]) for name in names}
    differences = {name: _difference(name, _distance(ours[name], theirs[name]), allowed[name]) for name in names}
    raw = [name for name in names if name.startswith("raw_detection_") and ours[name].ndim >= 3]
    if len({ours[name].shape[:2] for name in raw}) == 1 and not all(differences[name].ok for name in raw):
        scale = {name: max(allowed[name], np.finfo(np.float64).tiny) for name in raw}
        rows, their_rows = (
            np.concatenate([outputs[name].reshape(*outputs[name].shape[:2], -1) / scale[name] for name in raw], -1)
            for outputs in (ours, theirs)
        )
        orders = [_order(rows[image], their_rows[image]) for image in range(len(rows))]
        for name in raw:
            moved = np.stack([theirs[name][image][order] for image, order in enumerate(orders)])
            differences[name] = _difference(name, _distance(ours[name], moved), allowed[name])
    return list(differences.values())


def _order(rows: np.ndarray, their_rows: np.ndarray) -> np.ndarray:
    """`[R, F], [R, F] -> [R]`: the order of their rows that matches ours; the order that they have, if none does."""
    order = np.arange(len(rows))
    wrong = np.flatnonzero(~(np.abs(rows - their_rows).max(-1, initial=0) <= 1))
    if not 0 < len(wrong) <= ROWS_TO_SORT:
        return order
    gaps = np.stack([np.abs(rows[i] - their_rows[wrong]).max(-1) for i in wrong])
    pairs = _pairs(np.where(np.isnan(gaps), np.inf, gaps), limit=1.0)
    if len(pairs) == len(wrong):
        order[wrong] = wrong[[j for _, j in pairs]]
    return order


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest difference of two arrays, element by element; infinity if it is NaN or the shapes differ."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf")
    if ours.tobytes() == theirs.tobytes() and ours.dtype != object:
        return 0.0
    largest = float(_distance(ours, theirs).max(initial=0))
    return float("inf") if np.isnan(largest) else largest


def _distance(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    if ours.dtype.kind not in "fiub" or theirs.dtype.kind not in "fiub":
        distances: np.ndarray = (np.asarray(ours) != np.asarray(theirs)).astype(np.float64)
    else:
        distances = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return distances


def _difference(name: str, distances: np.ndarray, tolerance: float) -> Difference:
    if not distances.size:
        return Difference(name, 0.0, 0.0, tolerance)
    return Difference(name, float(distances.max()), float(distances.mean()), tolerance)


def _is_per_detection(name: str) -> bool:
    """Returns whether an output has a row for each detection."""
    return name.startswith("detection_")


def _have_comparable_shapes(ours: np.ndarray, theirs: np.ndarray, per_detection: bool) -> bool:
    """Returns whether the shapes are equal; the number of rows of detections may differ, since it is only padding."""
    if per_detection and min(ours.ndim, theirs.ndim) >= 2:
        return (*ours.shape[:1], *ours.shape[2:]) == (*theirs.shape[:1], *theirs.shape[2:])
    return ours.shape == theirs.shape


def _dtype_and_shape(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _box(box: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in box) + ")"
