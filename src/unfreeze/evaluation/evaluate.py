"""Computes COCO's mean average precision of a model, alone or beside another, such as the one it was exported from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config import LabelMap
from unfreeze.evaluation.annotations import Annotations, read_annotations
from unfreeze.evaluation.coco import (
    METRICS,
    Metrics,
    Result,
    coco_metrics,
    coco_results,
    difference,
    require_pycocotools,
)
from unfreeze.evaluation.inference import run_on_examples
from unfreeze.formatting import aligned, amount
from unfreeze.prediction.class_names import find_label_map
from unfreeze.runtimes import ModelFile, find_model, load_model

MAX_SHOWN = 10  # images on which the models differ, in the text report
MIN_DIFFERENCE = 1e-3  # a smaller sum of score differences in an image is floating-point noise


@dataclass(frozen=True)
class Scores:
    """The metrics of one model: boxes ("bbox"), and masks ("segm") if there are any; NaN if undefined."""

    model: str
    metrics: Metrics


@dataclass(frozen=True)
class ImageDifference:
    """An image on which two models differ, and by what sum of scores."""

    image: str
    difference: float


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one model, or of two and the images on which they differ, the largest difference first."""

    annotations: str  # the path
    images: int
    objects: int
    scores: tuple[Scores, ...]
    differing: tuple[ImageDifference, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the evaluation as JSON, with null for undefined metrics."""
        return {
            "annotations": self.annotations,
            "images": self.images,
            "objects": self.objects,
            "models": [{"model": scores.model, "metrics": _metrics_as_json(scores.metrics)} for scores in self.scores],
            "differing": [{"image": image.image, "score": image.difference} for image in self.differing],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.annotations}: {amount(self.images, 'image')}, {amount(self.objects, 'object')}"
        for number, scores in enumerate(self.scores, start=1):
            yield f"  {number}: {scores.model}" if len(self.scores) > 1 else f"  {scores.model}"
        for kind in self.scores[0].metrics:
            yield f"  {'boxes' if kind == 'bbox' else 'masks'}"
            rows = [
                (name, "  ".join(_format_metric(scores.metrics.get(kind, {}).get(name)) for scores in self.scores))
                for name in METRICS
            ]
            yield from (f"  {line}" for line in aligned(rows))
        if len(self.scores) > 1:
            yield "  images that differ most" if self.differing else "  no image differs"
            rows = [(image.image, f"{image.difference:.2f}") for image in self.differing[:MAX_SHOWN]]
            yield from (f"  {line}" for line in aligned(rows))


def evaluate(
    model: str | Path,
    annotations: str | Path,
    *,
    against: str | Path | None = None,
    images: str | Path | None = None,
    label_map: str | Path | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    on_progress: OnMessage | None = None,
) -> Evaluation:
    """Runs a model on annotated images, and returns the metrics of COCO (pycocotools).

    Images are decoded as the Object Detection API's evaluation decodes them: by TensorFlow, which ignores EXIF.

    Args:
        model: a SavedModel folder or the export's folder above it, or a frozen graph (.pb).
        annotations: COCO's JSON, or the TFRecord files of the training (a file or a pattern).
        against: another model to evaluate on the same images.
        images: the folder of the JSON's images; by default the JSON's own.
        label_map: class id -> name; by default the one in the SavedModel's assets/. If its names are those of the
            annotations, classes are matched by name, else by id.
        batch_size: how many images of one size go into one call of the model.
        limit: evaluate only this many images.

    Raises: SavedModelError, ImageError, ConfigError, MissingExtraError.
    """
    on_progress = on_progress or ignore
    require_pycocotools()
    models = [(str(path), find_model(path)) for path in (model, against) if path is not None]
    labels = find_label_map(Path(label_map) if label_map is not None else None, models[0][1].path)
    on_progress(f"reading {annotations}")
    truth = read_annotations(annotations, labels.display_names if labels else {}, images=images, limit=limit)
    categories = _categories_by_class(labels, truth)
    results: list[list[Result]] = []
    scores = []
    for path, file in models:
        on_progress(f"loading {path}")
        results.append(list(_results_of(file, truth, categories, batch_size, on_progress)))
        on_progress(f"computing the metrics of {path}")
        scores.append(Scores(path, coco_metrics(truth, results[-1])))
    differing = _differing_images(truth, *results) if len(results) == 2 else ()
    image_count, object_count = len(truth.dataset["images"]), len(truth.dataset["annotations"])
    return Evaluation(truth.path, image_count, object_count, tuple(scores), tuple(differing))


def _categories_by_class(labels: LabelMap | None, truth: Annotations) -> Mapping[int, int]:
    """Returns the category of the annotations for each class id of the model; empty to match by id.

    Classes are matched by name if the label map has every name of the annotations.
    """
    categories = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    for names in (labels.names, labels.display_names) if labels else ():
        if set(categories) <= set(names.values()):
            return {class_id: categories[name] for class_id, name in names.items() if name in categories}
    return {}


def _results_of(
    file: ModelFile, truth: Annotations, categories: Mapping[int, int], batch_size: int, on_progress: OnMessage
) -> Iterator[Result]:
    """Yields every detection of a model whose class is a category of the annotations."""
    category_ids = {category["id"] for category in truth.dataset["categories"]}
    total = len(truth.dataset["images"])
    examples = run_on_examples(load_model(file), truth.examples(), batch_size)
    for number, example in enumerate(examples, start=1):
        on_progress(f"{file.path}: image {number:,} of {total:,}")
        for result in coco_results(example.outputs, example.size, truth.has_masks):
            class_id = result["category_id"]
            category = categories.get(class_id) if categories else class_id
            if category in category_ids:
                yield {**result, "image_id": example.example.image_id, "category_id": category}


def _differing_images(truth: Annotations, ours: list[Result], theirs: list[Result]) -> list[ImageDifference]:
    """Returns the images on which two models differ, the largest difference first."""
    images = truth.dataset["images"]
    by_image: dict[int, tuple[list[Result], list[Result]]] = {image["id"]: ([], []) for image in images}
    for side, results in enumerate((ours, theirs)):
        for result in results:
            by_image[result["image_id"]][side].append(result)
    differences = [ImageDifference(image["file_name"], difference(*by_image[image["id"]])) for image in images]
    differing = [image for image in differences if image.difference > MIN_DIFFERENCE]
    return sorted(differing, key=lambda image: -image.difference)


def _metrics_as_json(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    return {
        kind: {name: None if np.isnan(value) else value for name, value in values.items()}
        for kind, values in metrics.items()
    }


def _format_metric(value: float | None) -> str:
    return "    -" if value is None or np.isnan(value) else f"{value:.3f}"
