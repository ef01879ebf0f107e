"""The result of an evaluation: its records, its JSON and its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from unfreeze.evaluation.advice import advice
from unfreeze.evaluation.annotations import SkippedImage
from unfreeze.evaluation.class_matching import UnknownClass, unknown_classes_line
from unfreeze.evaluation.curves import Curve, OperatingPoint
from unfreeze.evaluation.metric_sets import MetricSet
from unfreeze.evaluation.model_comparison import ImageDifference
from unfreeze.formatting import aligned, amount, first_few

if TYPE_CHECKING:
    from unfreeze.evaluation.error_analysis import Findings

MAX_SHOWN = 10  # images on which the models differ, in the text report
MAX_SKIPPED = 5  # images that are named
SHORT_NAMES = {"AP": "AP", "AP at IoU 0.5": "AP50", "AR at 100": "AR100"}  # the metrics of a class in the text report


@dataclass(frozen=True)
class ClassScores:
    """The metrics of one class, and the score threshold with its best F1."""

    name: str
    objects: int
    metrics: Mapping[str, float]  # NaN if undefined
    best: OperatingPoint | None  # None if no detection is right
    curve: Curve | None = None  # None without objects

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as JSON."""
        point = self.best
        best = (
            {"threshold": point.threshold, "precision": point.precision, "recall": point.recall, "f1": point.f1}
            if point
            else None
        )
        return {"name": self.name, "objects": self.objects, "metrics": _as_json(self.metrics), "best_threshold": best}


@dataclass(frozen=True)
class Scores:
    """The metrics of one model: boxes ("bbox"), and masks ("segm") if there are any; NaN if undefined.

    `confusion` is `[K + 1, K + 1]`: the annotated class, last: unmatched, by the detected one, last: missed.
    """

    model: str
    metrics: Mapping[str, Mapping[str, float]]
    classes: tuple[ClassScores, ...] = ()
    confusion: np.ndarray = field(default_factory=lambda: np.zeros((1, 1), np.int64))
    class_names: tuple[str, ...] = ()  # of the rows of `confusion`
    findings: Findings | None = None

    @property
    def mean_average_precision(self) -> float:
        """The first metric of the boxes: COCO's AP, or the AP at IoU 0.5 of Pascal VOC or Open Images."""
        return next(iter(self.metrics["bbox"].values()))

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as JSON, with null for undefined metrics."""
        return {
            "model": self.model,
            "metrics": {kind: _as_json(values) for kind, values in self.metrics.items()},
            "classes": [scores.to_dict() for scores in self.classes],
            "confusion": {"classes": list(self.class_names), "counts": self.confusion.tolist()},
        }


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one model, or of two and the images on which they differ, the largest difference first.

    Images that could not be read (`skipped`) and classes that the label map lacks do not count.
    """

    annotations: str  # the path
    images: int
    objects: int
    scores: tuple[Scores, ...]
    differing: tuple[ImageDifference, ...] = ()
    metrics: MetricSet = MetricSet.COCO
    skipped: tuple[SkippedImage, ...] = ()
    unknown_classes: tuple[UnknownClass, ...] = ()
    seconds: float = 0.0
    inference_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the evaluation as JSON, with null for undefined metrics."""
        return {
            "annotations": self.annotations,
            "metrics": self.metrics.value,
            "images": self.images,
            "objects": self.objects,
            "models": [scores.to_dict() for scores in self.scores],
            "differing": [{"image": image.image, "score": image.difference} for image in self.differing],
            "skipped": [{"image": image.name, "reason": image.reason} for image in self.skipped],
            "unknown_classes": [{"name": item.name, "objects": item.objects} for item in self.unknown_classes],
            "seconds": round(self.seconds, 3),
            "inference_s": round(self.inference_s, 3),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def warnings(self) -> Iterator[str]:
        """Yields a line for the images, and one for the classes that do not count."""
        if self.skipped:
            names = first_few([image.reason for image in self.skipped], MAX_SKIPPED)
            yield f"{amount(len(self.skipped), 'image')} not evaluated: {names}"
        if self.unknown_classes:
            yield unknown_classes_line(self.unknown_classes)

    def _lines(self) -> Iterator[str]:
        counts = f"{amount(self.images, 'image')}, {amount(self.objects, 'object')}"
        yield f"{self.annotations}: {counts}, {self.metrics.description}"
        for number, scores in enumerate(self.scores, start=1):
            yield f"  {number}: {scores.model}" if len(self.scores) > 1 else f"  {scores.model}"
        for kind in self.scores[0].metrics:
            yield f"  {'boxes' if kind == 'bbox' else 'masks'}"
            rows = [
                (name, "  ".join(format_metric(scores.metrics.get(kind, {}).get(name)) for scores in self.scores))
                for name in self.scores[0].metrics[kind]
            ]
            yield from (f"  {line}" for line in aligned(rows))
        for scores in self.scores:
            if not scores.classes:
                continue
            yield "  classes" + (f" of {scores.model}" if len(self.scores) > 1 else "")
            yield from (f"    {line}" for line in class_table(scores.classes))
            lines = list(advice(scores))
            yield from ["  what to look at first"] * bool(lines)
            yield from (f"    {line}" for line in lines)
        if len(self.scores) > 1:
            yield "  images that differ most" if self.differing else "  no image differs"
            rows = [(image.image, f"{image.difference:.2f}") for image in self.differing[:MAX_SHOWN]]
            yield from (f"  {line}" for line in aligned(rows))


def class_table(classes: tuple[ClassScores, ...]) -> Iterator[str]:
    """Yields the lines of a table: a row for each class, with its metrics and its best score threshold."""
    if not classes:
        return
    names = [name for name in SHORT_NAMES if name in classes[0].metrics]
    heading = ["", "objects", *(SHORT_NAMES[name] for name in names), "threshold", "precision", "recall", "F1"]
    rows = [heading]
    for scores in classes:
        best = scores.best
        point = (best.threshold, best.precision, best.recall, best.f1) if best else (None,) * 4
        metrics = [format_metric(scores.metrics[name]) for name in names]
        rows.append([scores.name, f"{scores.objects:,}", *metrics, *map(format_metric, point)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip()


def format_metric(value: float | None) -> str:
    """Returns a metric with three decimals, or a dash if it is undefined."""
    return "    -" if value is None or np.isnan(value) else f"{value:.3f}"


def _as_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in metrics.items()}
