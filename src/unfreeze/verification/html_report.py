"""Writes a verification report as one self-contained HTML file: what was exported, the checks, images and hashes.

The page has no script and loads nothing: the images are in it, and its Content-Security-Policy forbids all else. Names
in checkpoints and label maps may contain any text, so the template (html_report.html.jinja) escapes everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from unfreeze.export_record import ExportRecord, WeightRecord
from unfreeze.formatting import megabytes
from unfreeze.html_page import page_template
from unfreeze.images import Detection, data_uri, draw_detections
from unfreeze.prediction.class_names import Names, class_names
from unfreeze.prediction.detections import parse_detections
from unfreeze.staging import write_page
from unfreeze.verification.report import ImageResult, Kind, Report, Status
from unfreeze.verification.weight_digests import CONSTANT, VALUE
from unfreeze.version import __version__

TEMPLATE = Path(__file__).with_suffix(".html.jinja")
STYLE = Path(__file__).with_suffix(".css")
MOVING_AVERAGE = "/ExponentialMovingAverage"
MIN_SCORE = 0.3  # detections below it are neither drawn nor listed
ROWS = 20  # detections of an image that are listed
TIMINGS = {"load_s", "first_s", "last_s"}


def write_html_report(path: Path, report: Report, record: ExportRecord | None, *, place: Path) -> None:
    """Writes the report atomically.

    Args:
        record: the record of the export, if there is one.
        place: where the SavedModel is, or would have been put.

    Raises: OutputError if it cannot be written.
    """
    page = html_report(report, record, class_names(None, _saved_model(report)), place)
    write_page(path, page, "--report")


def html_report(report: Report, record: ExportRecord | None, names: Names, place: Path) -> str:
    """Returns the page as HTML."""
    template = page_template(
        TEMPLATE,
        json=lambda numbers: json.dumps(numbers, indent=1, ensure_ascii=False, default=str),
        decimals=lambda box: ", ".join(f"{edge:.4f}" for edge in box),
        seconds=lambda seconds: f"{seconds:.2f} s",
        megabytes=megabytes,
    )
    return template.render(
        report=report,
        verdict="Verified" if report.passed else "Verification failed",
        place=place,
        summary=summary(report),
        facts=list(facts(record or ExportRecord())),
        parts=[(report.title_of(part), part, figures(part, names)) for part in report.parts],
        figures=figures(report, names),
        timings=[(check.title, check.numbers) for check in report.checks if set(check.numbers) >= TIMINGS],
        weights=[weight_row(key, weight) for key, weight in report.record.weights.items()],
        files=report.record.files,
        rows=ROWS,
        style=STYLE.read_text(encoding="utf-8"),
        version=__version__,
    )


def summary(report: Report) -> str:
    """Returns how many checks passed, failed and were skipped, as a sentence."""
    counts = {status: sum(check.status is status for check in report.all_checks) for status in Status}
    text = f"{counts[Status.PASSED]} of {len(report.all_checks)} checks passed"
    text += f", {counts[Status.FAILED]} failed" if counts[Status.FAILED] else ""
    return text + (f", {counts[Status.SKIPPED]} skipped." if counts[Status.SKIPPED] else ".")


def facts(record: ExportRecord) -> Iterator[tuple[str, str]]:
    """Yields name and value of each fact about an export that its record has."""
    if checkpoint := record.checkpoint:
        step = f", step {checkpoint.step:,}" if checkpoint.step is not None else ""
        yield "checkpoint", f"{checkpoint.prefix}{step} ({checkpoint.format})"
        for name, file in checkpoint.files.items():
            yield f"sha256 of {name}", file.sha256
    if config := record.pipeline_config:
        yield "pipeline.config", config.path
        yield "sha256 of pipeline.config", config.sha256
    optional = {
        "architecture": record.model,
        "feature extractor": record.feature_extractor,
        "classes": record.num_classes,
        "input types": record.input_types,
        "config override": record.config_override,
        "exported at": record.exported_at,
        "unused tensors of the checkpoint": record.unused,
    }
    for name, value in optional.items():
        if value not in (None, "", (), []):
            yield name, joined(value)
    if record.moving_averages and record.moving_averages.used:
        yield "moving averages", f"used for {record.moving_averages.used} variables"
    if record.unfreeze:
        yield "exported with", f"unfreeze {record.unfreeze}, TensorFlow {record.tensorflow}"


def joined(value: Any) -> str:
    """Returns a value, or the values of a list, as text."""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@dataclass(frozen=True)
class Drawing:
    """An image with the detections of one model."""

    model: str
    caption: str
    data_uri: str
    width: int
    height: int
    detections: Sequence[Detection]


@dataclass(frozen=True)
class Figure:
    """An image as the models see it, side by side."""

    name: str
    title: str
    drawings: Sequence[Drawing]


def figures(report: Report, names: Names) -> list[Figure]:
    """Returns the drawings of each image."""
    model = "this SavedModel" if report.kind is Kind.SAVED_MODEL else "this model"
    return [figure(result, names, model) for result in report.image_results]


def figure(result: ImageResult, names: Names, model: str) -> Figure:
    """Returns the drawings of an image for each model that returned detections."""
    models = {model: result.outputs, "reference": result.reference_outputs}
    drawings = [
        drawing(model, result.image, outputs, names)
        for model, outputs in models.items()
        if outputs is not None and {"detection_boxes", "detection_scores", "detection_classes"} <= set(outputs)
    ]
    suffix = " (a test pattern without objects)" if result.generated else ""
    return Figure(result.name, f"{result.name}{suffix}", drawings)


def drawing(model: str, pixels: Any, outputs: Mapping[str, Any], names: Names) -> Drawing:
    """Draws the detections of one model on an image."""
    image = Image.fromarray(pixels)
    detections = list(parse_detections(outputs, image, names, MIN_SCORE))
    total = len(outputs["detection_scores"])
    caption = f"{model}: {len(detections)} of {total} detections score {MIN_SCORE:.0%} or more"
    drawn = draw_detections(image, detections)
    return Drawing(model, caption, data_uri(drawn, ".jpg"), drawn.width, drawn.height, detections)


def weight_row(key: str, weight: WeightRecord) -> Mapping[str, str]:
    """Returns a weight of the report's record as the table shows it."""
    return {
        "name": key if weight.variable.startswith(CONSTANT) else weight.variable.removesuffix(VALUE),
        "source": "moving average" if key.endswith(MOVING_AVERAGE) else "variable",
        "dtype": weight.dtype,
        "shape": " x ".join(map(str, weight.shape)) or "scalar",
        "sha256": weight.sha256,
    }


def _saved_model(report: Report) -> Path:
    """Returns the SavedModel of an export, whose assets may have the names of the classes."""
    if report.kind is Kind.SAVED_MODEL:
        return report.path
    folders = (report.path, report.path.parent, report.path.parent.parent)
    return next((path for folder in folders if (path := folder / "saved_model").is_dir()), report.path)
