"""The report of an evaluation: charts, drawings of errors, and a page that is self-contained."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unfreeze.errors import OutputError
from unfreeze.evaluation.advice import advice
from unfreeze.evaluation.annotations import Annotations, SkippedImage, read_annotations
from unfreeze.evaluation.charts import MAX_CLASSES, confusion_chart, precision_recall_chart, worst_classes
from unfreeze.evaluation.class_matching import UnknownClass
from unfreeze.evaluation.curves import Curve, OperatingPoint
from unfreeze.evaluation.error_images import GREEN, RED, error_images
from unfreeze.evaluation.evaluate import Output, scores_of
from unfreeze.evaluation.evaluation import ClassScores, Evaluation, Scores
from unfreeze.evaluation.metric_sets import MetricSet
from unfreeze.evaluation.report import ENTRIES, ModelPage, class_csv, html_report, write_files, write_report
from unfreeze.evaluation.tables import DetectionColumns, Truth, truth_of

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
HOSTILE = '<script>alert("1")</script>&'


def load_scenes(indexes: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    for index in indexes:
        yield index, Image.open(DIGITS / "scenes" / f"scene_{index:02d}.png").convert("RGB")


@pytest.fixture(scope="module")
def digits() -> tuple[Evaluation, Truth]:
    """The evaluation of the recorded outputs of the OD API."""
    source = read_annotations(DIGITS / "scenes" / "annotations.json", {})
    recorded = np.load(DIGITS / "answers.npz")
    columns = DetectionColumns({number: number - 1 for number in range(1, 11)}, masks=False)
    for index in range(12):
        names = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
        columns.add(index, (160, 160), {name: np.squeeze(recorded[f"{index:02d}/{name}"]) for name in names})
    truth = truth_of(source, set(range(1, 11)), masks=False)
    scores = scores_of("digits", columns.detections(), truth, MetricSet.COCO)
    return Evaluation("annotations.json", 12, 32, (scores,)), truth


@pytest.fixture(scope="module")
def page(digits: tuple[Evaluation, Truth]) -> ModelPage:
    (scores,), truth = digits[0].scores, digits[1]
    assert scores.findings is not None
    return ModelPage(
        scores,
        precision_recall_chart(scores.classes),
        confusion_chart(truth.class_names, scores.confusion),
        error_images(scores.findings, truth.class_names, 12, load_scenes),
    )


class Page(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def test_digits_have_the_map_that_they_have_on_other_scenes(digits: tuple[Evaluation, Truth]) -> None:
    """The annotations of the example are right: 300 other scenes, annotated when they were made, have 0.469."""
    assert digits[0].scores[0].mean_average_precision == pytest.approx(0.469, abs=0.05)


def test_page_is_self_contained_and_escapes_names(digits: tuple[Evaluation, Truth], page: ModelPage) -> None:
    evaluation, _ = digits
    hostile = Evaluation(
        HOSTILE,
        12,
        32,
        evaluation.scores,
        (),
        MetricSet.COCO,
        (SkippedImage(HOSTILE, "gone"),),
        (UnknownClass(HOSTILE, 3),),
    )
    html = html_report(hostile, [page], [HOSTILE] * 12)
    tags = Page(html).tags
    names = [tag for tag, _ in tags]
    assert "script" not in names
    assert html.count("&lt;script&gt;") > 5
    sources = [attributes["src"] or "" for tag, attributes in tags if tag == "img"]
    assert len(sources) == 2 + 11  # one image has no errors
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in sources)
    assert "https:" not in html
    assert any(attributes.get("http-equiv") == "Content-Security-Policy" for _, attributes in tags)
    for text in ("mAP 0.468", "Not evaluated", "What to look at first", "the label map lacks it", "gone"):
        assert text in html


def test_files_are_written_together_and_not_over_others(
    digits: tuple[Evaluation, Truth], page: ModelPage, tmp_path: Path
) -> None:
    evaluation, _ = digits
    names = [f"{HOSTILE}/scene_{number:02d}.png" for number in range(12)]
    write_files(tmp_path, evaluation, [page], names, overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ENTRIES)
    assert sorted(path.name for path in (tmp_path / "errors").iterdir())[0] == "01_scene_00.jpg"
    assert json.loads((tmp_path / "evaluation.json").read_text())["models"][0]["confusion"]["classes"][9] == "nine"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "class_scores.csv").read_text())))
    assert (rows[7]["class"], rows[7]["objects"], rows[7]["AP large"]) == ("seven", "7", "")
    assert float(rows[7]["threshold"]) == pytest.approx(evaluation.scores[0].classes[7].best.threshold, abs=1e-6)
    with pytest.raises(OutputError, match="exists already"):
        Output.checked(None, tmp_path, overwrite=False)
    with pytest.raises(OutputError, match="the file exists already"):
        Output.checked(tmp_path / "report.html", None, overwrite=False)
    with pytest.raises(OutputError, match=r"report\.html is not a writable folder"):
        Output.checked(None, tmp_path / "report.html" / "new", overwrite=False)
    write_report(tmp_path / "report.html", evaluation, [page], names)
    with pytest.raises(OutputError, match=r"--report .*: cannot be written"):
        write_report(tmp_path / "none" / "report.html", evaluation, [page], names)


def test_drawings_show_correct_and_wrong_boxes_in_two_panels(page: ModelPage) -> None:
    findings, images = page.scores.findings, page.errors
    assert findings is not None
    errors = findings.errors(12)
    assert [errors[image.index] for image in images] == sorted(errors[errors > 0], reverse=True)
    first = images[0]
    assert first.caption == "7 false (seven, 2 x nine, 2 x three, 2 x zero)"
    pixels = np.asarray(first.drawing)
    left, right = pixels[:, :480], pixels[:, 488:]
    assert left.shape == right.shape == (480, 480, 3)
    assert (left == GREEN).all(axis=-1).any()
    assert not (left == RED).all(axis=-1).any()
    assert (right == RED).all(axis=-1).any()


def test_charts_of_many_classes_show_those_that_matter() -> None:
    rng = np.random.default_rng(1)
    classes = [
        ClassScores(f"class {number}", 9, {}, None, Curve.of(rng.random(30), rng.random(30) < number / 60, 30))
        for number in range(60)
    ]
    assert precision_recall_chart(classes).size == precision_recall_chart(classes[:1]).size
    precision_recall_chart([replace(item, name="same") for item in classes])  # COCO's JSON may name classes alike
    counts = np.diag(np.arange(61))
    counts[7, 3] = 50
    assert {3, 7} <= set(worst_classes(counts, 5))
    chart = confusion_chart([item.name for item in classes], counts)
    assert max(chart.size) < 1200
    assert MAX_CLASSES < 60
    confusion_chart([], np.zeros((1, 1), int))  # no class of the annotations has objects
    precision_recall_chart([])


def scores(metrics: dict[str, float], classes: Sequence[ClassScores], confusion: np.ndarray) -> Scores:
    return Scores("model", {"bbox": metrics}, tuple(classes), confusion, tuple(item.name for item in classes))


def test_advice_names_weak_sizes_classes_confusions_and_thresholds() -> None:
    cat = ClassScores("cat", 100, {"AP": 0.8}, OperatingPoint(0.7, 1, 1))
    dog = ClassScores("dog", 20, {"AP": 0.2}, OperatingPoint(0.3, 1, 1))
    metrics = {"AP": 0.5, "AP small": 0.1, "AP medium": 0.5, "AP large": 0.6}
    lines = list(advice(scores(metrics, [cat, dog], np.array([[90, 8, 2], [0, 20, 0], [1, 1, 0]]))))
    assert lines == [
        "Objects of small size have AP 0.100, those of large size 0.600. "
        "Larger input images help, or --tile-size of unfreeze predict.",
        "dog has the lowest AP, 0.200, with 20 objects here (few to measure it by).",
        "8 of 100 objects of class cat are detected as dog.",
        "The best score thresholds range from 0.30 (dog) to 0.70 (cat): use one for each class.",
    ]
    assert list(advice(scores({"AP": 0.5}, [cat], np.zeros((2, 2), int)))) == []


def test_csv_without_classes_has_a_heading() -> None:
    empty = Evaluation("a.json", 1, 0, (scores({"AP": float("nan")}, [], np.zeros((1, 1), int)),))
    assert class_csv(empty) == "model,class,objects,threshold,precision,recall,F1\n"
    assert str(empty).splitlines()[1:] == ["  model", "  boxes", "    AP      -"]


def test_polygons_and_run_lengths_are_compared_with_masks_over_boxes() -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    pixels = np.zeros((60, 80), np.uint8, order="F")
    pixels[10:30, 40:70] = 1
    encoded = coco_mask.encode(pixels)
    inside = np.flatnonzero(np.diff(np.concatenate([[0], pixels.flatten(order="F"), [0]])))
    counts = np.diff(np.concatenate([[0], inside, [pixels.size]])).tolist()
    segmentations = [[[40, 10, 70, 10, 70, 30, 40, 30]], {"size": [60, 80], "counts": counts}, encoded]
    objects = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [40, 10, 30, 20], "area": 600, "segmentation": segmentation}
        for n, segmentation in enumerate(segmentations, start=1)
    ]
    images = [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 60} for n in (1, 2, 3)]
    dataset = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "box"}]}
    source = Annotations("a.json", dataset, lambda: iter(()))
    truth = truth_of(source, {1}, masks=True)
    columns = DetectionColumns({1: 0}, masks=True)
    box = np.array([[10 / 60, 40 / 80, 30 / 60, 70 / 80]], np.float32)
    for index, mask in enumerate((np.ones([1, 15, 15]), np.ones([1, 15, 15]), pixels[np.newaxis])):
        outputs = {"detection_boxes": box, "detection_scores": np.array([0.9]), "detection_classes": np.array([1.0])}
        columns.add(index, (60, 80), {**outputs, "detection_masks": mask.astype(np.float32)})
    metrics = scores_of("model", columns.detections(), truth, MetricSet.COCO).metrics
    assert metrics["segm"]["AP"] == metrics["bbox"]["AP"] == pytest.approx(1.0)
