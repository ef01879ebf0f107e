"""Writes the report of an evaluation: a self-contained HTML page, charts, drawings of errors, and the JSON.

The page has no script and loads nothing: its images are in it, and its Content-Security-Policy forbids all else. Class
and file names may contain any text, so the template escapes everything.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from unfreeze.errors import ImageError
from unfreeze.evaluation.advice import advice
from unfreeze.evaluation.annotations import Annotations, decode_image
from unfreeze.evaluation.charts import confusion_chart, precision_recall_chart
from unfreeze.evaluation.coco import METRICS
from unfreeze.evaluation.error_images import ErrorImage, LoadImages, error_count, error_images
from unfreeze.evaluation.evaluation import Evaluation, Scores, format_metric
from unfreeze.evaluation.tables import Truth
from unfreeze.html_page import page_template
from unfreeze.images import data_uri
from unfreeze.images.files import PAGE_QUALITY
from unfreeze.staging import staged, write_page
from unfreeze.version import __version__

TEMPLATE = Path(__file__).with_suffix(".html.jinja")
STYLE = Path(__file__).with_suffix(".css")
REPORT, RESULT = "report.html", "evaluation.json"
ENTRIES = (REPORT, RESULT, "precision_recall.png", "confusion_matrix.png", "class_scores.csv", "errors")
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class ModelPage:
    """The part of the report about one model."""

    scores: Scores
    precision_recall: Image.Image
    confusion: Image.Image
    errors: list[ErrorImage]

    @property
    def advice(self) -> list[str]:
        """What to look at first."""
        return list(advice(self.scores))

    @property
    def error_count(self) -> str:
        """How many errors there are at the best thresholds."""
        return error_count(self.scores.findings) if self.scores.findings else ""


def model_pages(evaluation: Evaluation, truth: Truth, source: Annotations) -> list[ModelPage]:
    """Returns the charts and drawings of each model."""
    pages = []
    for scores in evaluation.scores:
        assert scores.findings is not None
        pages.append(
            ModelPage(
                scores,
                precision_recall_chart(scores.classes),
                confusion_chart(truth.class_names, scores.confusion),
                error_images(scores.findings, truth.class_names, len(truth.image_ids), image_loader(source, truth)),
            )
        )
    return pages


def image_loader(source: Annotations, truth: Truth) -> LoadImages:
    """Returns a function that reads images by their indexes, with the pixels that the model got."""
    index_of = {image_id: index for index, image_id in enumerate(truth.image_ids.tolist())}

    def load(indexes: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        wanted = set(indexes)
        for example in source.examples():
            if not wanted:
                return
            index = index_of[example.image_id]
            if index in wanted:
                wanted.remove(index)
                try:
                    yield index, Image.fromarray(decode_image(example.read(), example.name))
                except (ImageError, OSError):
                    continue  # removed since it was evaluated

    return load


def write_report(path: Path, evaluation: Evaluation, pages: Sequence[ModelPage], names: Sequence[str]) -> None:
    """Writes the HTML page atomically; `names` are those of the images. Raises: OutputError."""
    write_page(path, html_report(evaluation, pages, names), "--report")


def write_files(
    folder: Path, evaluation: Evaluation, pages: Sequence[ModelPage], names: Sequence[str], *, overwrite: bool
) -> None:
    """Writes the page, the charts, the drawings and the result as JSON and CSV to a folder. Raises: OutputError.

    The charts and drawings are those of the first model; the page and the JSON have both.
    """
    first = pages[0]
    with staged(folder, ENTRIES, overwrite=overwrite) as staging:
        (staging / REPORT).write_text(html_report(evaluation, pages, names), encoding="utf-8")
        (staging / RESULT).write_text(json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False), encoding="utf-8")
        (staging / "class_scores.csv").write_text(class_csv(evaluation), encoding="utf-8")
        first.precision_recall.save(staging / "precision_recall.png")
        first.confusion.save(staging / "confusion_matrix.png")
        (staging / "errors").mkdir()
        for number, image in enumerate(first.errors, start=1):
            stem = re.sub(r"[^\w.-]+", "_", Path(names[image.index]).stem)
            image.drawing.save(staging / "errors" / f"{number:02d}_{stem}.jpg", quality=PAGE_QUALITY)


def class_csv(evaluation: Evaluation) -> str:
    """Returns a row for each model and class: its metrics and its best score threshold."""
    import csv

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(evaluation.scores[0].classes[0].metrics) if evaluation.scores[0].classes else []
    writer.writerow(["model", "class", "objects", *names, "threshold", "precision", "recall", "F1"])
    for scores in evaluation.scores:
        for item in scores.classes:
            metrics = ["" if value != value else f"{value:.6f}" for value in item.metrics.values()]
            best = item.best
            point = (
                [f"{value:.6f}" for value in (best.threshold, best.precision, best.recall, best.f1)]
                if best
                else [""] * 4
            )
            writer.writerow([scores.model, item.name, item.objects, *metrics, *point])
    return text.getvalue()


def html_report(evaluation: Evaluation, pages: Sequence[ModelPage], names: Sequence[str]) -> str:
    """Returns the page as HTML."""
    first = evaluation.scores[0]
    class_metrics = list(first.classes[0].metrics) if first.classes else []
    return page_template(TEMPLATE).render(
        evaluation=evaluation,
        pages=pages,
        names=names,
        headline=format_metric(first.mean_average_precision),
        metric_rows=metric_rows(evaluation),
        class_metrics=[name for name in class_metrics if not name.startswith("AR") or name == "AR at 100"],
        has_sizes=class_metrics == list(METRICS),
        format=format_metric,
        data_uri=data_uri,
        style=STYLE.read_text(encoding="utf-8"),
        version=__version__,
    )


def metric_rows(evaluation: Evaluation) -> list[tuple[str, str, list[str]]]:
    """Returns kind, name and the values of all models, for each metric."""
    return [
        (
            "boxes" if kind == "bbox" else "masks",
            name,
            [format_metric(scores.metrics.get(kind, {}).get(name)) for scores in evaluation.scores],
        )
        for kind, values in evaluation.scores[0].metrics.items()
        for name in values
    ]
