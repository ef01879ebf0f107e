"""Computes the mean average precision of a model, alone or beside another, and what the model gets wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import ConfigError, ImageError, OutputError
from unfreeze.evaluation.annotations import Annotations, Example, SkippedImage, read_annotations
from unfreeze.evaluation.boxes import Detections
from unfreeze.evaluation.class_matching import match_classes
from unfreeze.evaluation.coco import CocoMetrics, Metrics, coco_metrics, require_pycocotools
from unfreeze.evaluation.error_analysis import find_errors, is_regular
from unfreeze.evaluation.evaluation import ClassScores, Evaluation, Scores
from unfreeze.evaluation.inference import run_on_examples
from unfreeze.evaluation.metric_sets import METRIC_SETS, MetricSet
from unfreeze.evaluation.model_comparison import ImageDifference, differences
from unfreeze.evaluation.od_api_metrics import (
    OPEN_IMAGES,
    OPEN_IMAGES_CHALLENGE,
    PASCAL_VOC,
    AveragePrecisions,
    average_precisions,
)
from unfreeze.evaluation.tables import DetectionColumns, Truth, truth_of
from unfreeze.prediction.class_names import find_label_map
from unfreeze.runtimes import find_model, load_model
from unfreeze.runtimes.model import Model
from unfreeze.staging import require_absent, require_writable_file

MIN_DIFFERENCE = 1e-3  # a smaller sum of score differences in an image is floating-point noise
PROTOCOLS = {
    MetricSet.PASCAL_VOC: PASCAL_VOC,
    MetricSet.OPEN_IMAGES: OPEN_IMAGES,
    MetricSet.OPEN_IMAGES_CHALLENGE: OPEN_IMAGES_CHALLENGE,
}


def evaluate(
    model: str | Path,
    annotations: str | Path,
    *,
    against: str | Path | None = None,
    images: str | Path | None = None,
    label_map: str | Path | None = None,
    metrics: MetricSet | str | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    strict: bool = False,
    report_path: str | Path | None = None,
    output_directory: str | Path | None = None,
    overwrite: bool = False,
    on_progress: OnMessage | None = None,
    on_warning: OnMessage | None = None,
) -> Evaluation:
    """Runs a model on annotated images, and returns its metrics and errors.

    Images are decoded as the Object Detection API's evaluation decodes them: by TensorFlow, which ignores EXIF.

    Args:
        model: a SavedModel folder or the export's folder above it, a frozen graph (.pb), or a file of another runtime.
        annotations: COCO's JSON, the TFRecord files of the training (a file or a pattern), a folder of Pascal VOC's XML
            files, or Open Images' CSV files (a file, a pattern or a folder).
        against: another model to evaluate on the same images.
        images: the folder of the images; by default where the annotations say, or beside them.
        label_map: class id -> name; by default the one in the SavedModel's assets/. If it has names of the
            annotations, classes are matched by name, else by id.
        metrics: coco, pascal_voc, open_images or open_images_challenge; by default that of the annotations' format.
        batch_size: how many images of one size go into one call of the model.
        limit: evaluate only this many images.
        strict: raise an error for the first image that is missing or unreadable, and for classes that the label map
            lacks. Otherwise they do not count, and the result names them.
        report_path: also write a self-contained HTML page with charts, and the images with the most errors.
        output_directory: also write the page, the charts, drawings of the errors, and the result as JSON and CSV.
        overwrite: replace files of an earlier evaluation.
        on_warning: receives a line for the images and the classes that do not count.

    Raises: SavedModelError, ImageError, ConfigError, OutputError, MissingExtraError.
    """
    on_progress, on_warning = on_progress or ignore, on_warning or ignore
    started = time.perf_counter()
    chosen = parse_metric_set(metrics) if metrics is not None else None
    output = Output.checked(report_path, output_directory, overwrite=overwrite)
    files = [(str(path), find_model(path)) for path in (model, against) if path is not None]
    labels = find_label_map(Path(label_map) if label_map is not None else None, files[0][1].path)
    on_progress(f"reading {annotations}")
    source = read_annotations(
        annotations, labels.display_names if labels else {}, images=images, limit=limit, strict=strict
    )
    metric_set = chosen or source.metrics
    matching = match_classes(labels, source, strict=strict)
    run = InferenceRun(source, matching.categories, metric_set, batch_size, strict, on_progress)
    detections = []
    for path, file in files:
        on_progress(f"loading {path}")
        detections.append(run.detections_of(load_model(file)))
    on_progress("computing the metrics")
    truth = truth_of(
        source,
        set(matching.categories.values()),
        masks=any(table.masks is not None for table in detections),
        without=run.unreadable,
    )
    evaluation = Evaluation(
        annotations=source.path,
        images=len(truth.image_ids) - len(run.unreadable),
        objects=len(truth.objects),
        scores=tuple(
            scores_of(path, table, truth, metric_set) for (path, _), table in zip(files, detections, strict=True)
        ),
        differing=tuple(_differing_images(source, truth, *detections)) if len(detections) == 2 else (),
        metrics=metric_set,
        skipped=(*source.skipped, *run.unreadable.values()),
        unknown_classes=matching.unknown,
        seconds=time.perf_counter() - started,
        inference_s=run.seconds,
    )
    if output:
        on_progress("writing the report")
        output.write(evaluation, truth, source)
    for line in evaluation.warnings():
        on_warning(line)
    return evaluation


@dataclass(frozen=True)
class Output:
    """Where the report of an evaluation is written."""

    report: Path | None
    folder: Path | None
    overwrite: bool

    @classmethod
    def checked(cls, report: str | Path | None, folder: str | Path | None, *, overwrite: bool) -> Output | None:
        """Returns where to write, or None for nowhere. Raises: OutputError before hours of inference are lost."""
        if report is not None:
            require_writable_file(Path(report), "--report", overwrite=overwrite)
        if folder is not None:
            from unfreeze.evaluation.report import ENTRIES

            require_absent(Path(folder), ENTRIES, overwrite=overwrite)
            existing = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
            if not existing.is_dir() or not os.access(existing, os.W_OK):
                raise OutputError(f"--output-directory {folder}: {existing} is not a writable folder. Choose another.")
        if report is None and folder is None:
            return None
        return cls(Path(report) if report else None, Path(folder) if folder else None, overwrite)

    def write(self, evaluation: Evaluation, truth: Truth, source: Annotations) -> None:
        """Writes the report. Raises: OutputError."""
        from unfreeze.evaluation.report import model_pages, write_files, write_report

        file_names = {image["id"]: str(image["file_name"]) for image in source.dataset["images"]}
        names = [file_names[image_id] for image_id in truth.image_ids.tolist()]
        pages = model_pages(evaluation, truth, source)
        if self.folder is not None:
            write_files(self.folder, evaluation, pages, names, overwrite=self.overwrite)
        if self.report is not None:
            write_report(self.report, evaluation, pages, names)


def parse_metric_set(name: MetricSet | str) -> MetricSet:
    """Returns the metric set of a name. Raises: ConfigError."""
    try:
        return MetricSet(name)
    except ValueError:
        raise ConfigError(f"--metrics {name}: not a set of metrics. Choose from {', '.join(METRIC_SETS)}.") from None


@dataclass
class InferenceRun:
    """The runs of models on annotated images: images that cannot be read are collected, and time is measured."""

    annotations: Annotations
    categories: Mapping[int, int]
    metrics: MetricSet
    batch_size: int
    strict: bool
    on_progress: OnMessage
    unreadable: dict[int, SkippedImage] = field(default_factory=dict)
    seconds: float = 0.0

    def detections_of(self, model: Model) -> Detections:
        """Returns every detection of a model whose class is a category of the annotations."""
        images = sorted(image["id"] for image in self.annotations.dataset["images"])
        index = {image_id: number for number, image_id in enumerate(images)}
        class_ids = sorted(set(self.categories.values()))
        class_index = {class_id: class_ids.index(category) for class_id, category in self.categories.items()}
        masks = (
            self.metrics is MetricSet.COCO and self.annotations.has_masks and "detection_masks" in model.output_names
        )
        if masks:
            require_pycocotools()
        columns = DetectionColumns(class_index, masks)
        examples = run_on_examples(model, self.annotations.examples(), self.batch_size, self.skip)
        for number, example in enumerate(examples, start=1):
            self.on_progress(f"{model.title}: image {number:,} of {len(images):,}")
            self.seconds += example.seconds
            columns.add(index[example.example.image_id], example.size, example.outputs)
        if len(self.unreadable) == len(images):
            raise ImageError(f"{self.annotations.path}: none of its {len(images)} images can be decoded. Check them.")
        return columns.detections()

    def skip(self, example: Example, error: ImageError) -> None:
        """Notes an image that cannot be read. Raises: ImageError with `strict`."""
        if self.strict:
            raise error
        self.unreadable[example.image_id] = SkippedImage(example.name, str(error))


def scores_of(model: str, detections: Detections, truth: Truth, metric_set: MetricSet) -> Scores:
    """Returns the metrics of a model and what it gets wrong, from its detections.

    Masks are evaluated if both the detections and the objects have them.
    """
    boxes: CocoMetrics | AveragePrecisions
    metrics: Metrics
    if metric_set is MetricSet.COCO:
        boxes = coco_metrics(detections, truth.objects, truth.classes)
        metrics = {"bbox": boxes.summary()}
        if detections.masks is not None and truth.objects.masks is not None:
            of_masks = coco_metrics(detections, truth.objects, truth.classes, masks=True)
            metrics = {**metrics, "segm": of_masks.summary()}
    else:
        protocol = PROTOCOLS[metric_set]
        boxes = average_precisions(detections, truth.objects, truth.classes, protocol, truth.labels)
        metrics = {"bbox": boxes.summary()}
    points = tuple(curve.best_point() if curve is not None else None for curve in boxes.curves)
    findings = find_errors(detections, truth.objects, points)
    counts = np.bincount(truth.objects.classes[is_regular(truth.objects)], minlength=truth.classes)
    classes = tuple(
        ClassScores(name, int(counts[index]), boxes.summary(index), points[index], boxes.curves[index])
        for index, name in enumerate(truth.class_names)
        if counts[index] or boxes.curves[index] is not None
    )
    return Scores(model, metrics, classes, findings.confusion(truth.classes), truth.class_names, findings)


def _differing_images(
    source: Annotations, truth: Truth, ours: Detections, theirs: Detections
) -> Sequence[ImageDifference]:
    """Returns the images on which two models differ, the largest difference first."""
    names = {image["id"]: image["file_name"] for image in source.dataset["images"]}
    values = differences(ours, theirs, len(truth.image_ids), truth.classes)
    order = np.argsort(-values, kind="stable")
    return [
        ImageDifference(names[truth.image_ids[index].item()], float(values[index]))
        for index in order
        if values[index] > MIN_DIFFERENCE
    ]
