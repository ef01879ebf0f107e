"""The metrics equal those of pycocotools and of the OD API's evaluators, and the error analysis counts as it says."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unfreeze.evaluation.boxes import Detections, Objects
from unfreeze.evaluation.coco import METRICS, coco_metrics
from unfreeze.evaluation.curves import Curve, OperatingPoint
from unfreeze.evaluation.error_analysis import find_errors
from unfreeze.evaluation.model_comparison import differences
from unfreeze.evaluation.od_api_metrics import (
    OPEN_IMAGES,
    OPEN_IMAGES_CHALLENGE,
    PASCAL_VOC,
    Protocol,
    average_precisions,
)

RECORDED = Path(__file__).parent / "data" / "detection_metrics.json"  # scripts/recording/record_detection_metrics.py


def table(rows: list[tuple[int, int, list[float], float]]) -> Detections:
    """Returns detections from rows of image, class, (left, top, width, height) and score."""
    images, classes, boxes, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        np.array(images, int), np.array(classes, int), np.array(boxes, float).reshape(-1, 4), np.array(scores, float)
    )


def objects_of(rows: list[tuple[int, int, list[float]]], **flags: list[bool]) -> Objects:
    columns = table([(*row, 0.0) for row in rows])
    is_set = {name: np.array(flags.get(name, [False] * len(rows)), bool) for name in ("crowd", "difficult", "group_of")}
    areas = columns.boxes[:, 2] * columns.boxes[:, 3]
    named = {f"is_{name}": values for name, values in is_set.items()}
    return Objects(columns.images, columns.classes, columns.boxes, areas, **named)


def random_case(images: int, classes: int, objects: int, detections: int) -> tuple[Objects, Detections]:
    """Returns objects, some of them crowds, and detections near some of them, with equal scores among them."""
    rng = np.random.default_rng(images * detections)
    boxes = np.concatenate([rng.uniform(0, 400, (objects, 2)), rng.uniform(5, 150, (objects, 2))], axis=1)
    of_image, of_class = np.sort(rng.integers(0, images, objects)), rng.integers(0, classes, objects)
    source = rng.integers(0, objects, detections)
    near = rng.random(detections) < 0.7
    detected = np.where(near[:, None], boxes[source] + rng.normal(0, 6, (detections, 4)), boxes[source][:, ::-1])
    detected[:, 2:] = np.abs(detected[:, 2:]) + 0.1
    nothing = np.zeros(objects, bool)
    areas = boxes[:, 2] * boxes[:, 3] * rng.uniform(0.6, 1, objects)
    truth = Objects(of_image, of_class, boxes, areas, rng.random(objects) < 0.05, nothing, nothing)
    scores = rng.random(detections).round(2)
    return truth, Detections(of_image[source], of_class[source], detected, scores)


def pycocotools_evaluation(
    truth: Objects, detections: Detections, images: int, classes: int, kind: str = "bbox", **segmentations: Any
) -> Any:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    annotations = [
        {
            "id": row + 1,
            "image_id": int(truth.images[row]),
            "category_id": int(truth.classes[row]),
            "bbox": truth.boxes[row].tolist(),
            "area": float(truth.areas[row]),
            "iscrowd": int(truth.is_crowd[row]),
            **({"segmentation": truth.masks[row]} if truth.masks else {}),
        }
        for row in range(len(truth))
    ]
    results = [
        {
            "image_id": int(detections.images[row]),
            "category_id": int(detections.classes[row]),
            "score": float(detections.scores[row]),
            **(
                {"segmentation": detections.masks[row]}
                if detections.masks
                else {"bbox": detections.boxes[row].tolist()}
            ),
        }
        for row in range(len(detections))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco.COCO()
        entries = [{"id": number, "height": 60, "width": 80} for number in range(images)]
        categories = [{"id": number, "name": str(number)} for number in range(classes)]
        dataset.dataset = {"info": {}, "images": entries, "categories": categories, "annotations": annotations}
        dataset.createIndex()
        evaluation = cocoeval.COCOeval(dataset, dataset.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize(("images", "classes", "objects", "count"), [(15, 3, 90, 300), (6, 1, 200, 900)])
def test_coco_metrics_equal_those_of_pycocotools(images: int, classes: int, objects: int, count: int) -> None:
    truth, detections = random_case(images, classes, objects, count)
    expected = pycocotools_evaluation(truth, detections, images, classes)
    metrics = coco_metrics(detections, truth, classes)
    assert 0.05 < expected.stats[0] < 0.95
    np.testing.assert_allclose(metrics.precision, expected.eval["precision"][..., -1], atol=1e-12)
    np.testing.assert_allclose(metrics.recall, expected.eval["recall"], atol=1e-12)
    np.testing.assert_allclose(list(metrics.summary().values()), expected.stats, atol=1e-12)


def test_metrics_of_masks_equal_those_of_pycocotools() -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(3)

    def encoded(rows: list[tuple[int, int, list[float]]]) -> list[dict[str, Any]]:
        masks = []
        for _, _, (left, top, width, height) in rows:
            pixels = np.zeros((60, 80), np.uint8, order="F")
            pixels[int(top) : int(top + height), int(left) : int(left + width)] = 1
            pixels[int(top) : int(top + 3), int(left) : int(left + 3)] = 0
            masks.append(coco_mask.encode(pixels))
        return masks

    rows = [
        (image, rng.integers(2), [*rng.integers(0, 40, 2), *rng.integers(8, 20, 2)])
        for image in range(4)
        for _ in range(4)
    ]
    moved = [(image, kind, [box[0] + 2, box[1] + 1, *box[2:]]) for image, kind, box in rows[:12]]
    truth = objects_of(rows, crowd=[row == 2 for row in range(16)])
    truth = Objects(*(getattr(truth, name) for name in list(truth.__dataclass_fields__)[:7]), masks=encoded(rows))
    found = table([(*row, 0.9 - number / 20) for number, row in enumerate(moved)])
    found = Detections(found.images, found.classes, found.boxes, found.scores, encoded(moved))
    expected = pycocotools_evaluation(truth, found, 4, 2, "segm")
    values = np.array(list(coco_metrics(found, truth, 2, masks=True).summary().values()))
    assert 0.1 < expected.stats[0] < 0.95
    np.testing.assert_allclose(np.where(np.isnan(values), -1, values), expected.stats, atol=1e-12)


def test_model_without_detections_has_no_precision_and_undefined_metrics_of_missing_sizes() -> None:
    metrics = coco_metrics(table([]), objects_of([(0, 0, [0, 0, 50, 50])]), 2).summary()
    assert (metrics["AP"], metrics["AR at 100"], metrics["AP medium"]) == (0.0, 0.0, 0.0)
    assert np.isnan(metrics["AP small"])
    assert tuple(metrics) == METRICS


def recorded_tables(images: list[dict[str, Any]]) -> tuple[Objects, Detections, np.ndarray]:
    def box(corners: list[float]) -> list[float]:
        ymin, xmin, ymax, xmax = corners
        return [xmin, ymin, xmax - xmin, ymax - ymin]

    objects = [
        (number, kind - 1, box(corners))
        for number, image in enumerate(images)
        for kind, corners in zip(image["classes"], image["boxes"], strict=True)
    ]
    flags = {name: [flag for image in images for flag in image[name]] for name in ("difficult", "group_of")}
    detections = [
        (number, kind - 1, box(corners), score)
        for number, image in enumerate(images)
        for kind, corners, score in zip(
            image["detected_classes"], image["detected_boxes"], image["scores"], strict=True
        )
    ]
    verified = [number * 6 + kind - 1 for number, image in enumerate(images) for kind in image["image_classes"]]
    return objects_of(objects, **flags), table(detections), np.array(verified)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [("pascal_voc", PASCAL_VOC), ("open_images", OPEN_IMAGES), ("open_images_challenge", OPEN_IMAGES_CHALLENGE)],
)
def test_metrics_equal_the_recorded_ones_of_the_od_api(name: str, protocol: Protocol) -> None:
    recorded = json.loads(RECORDED.read_text())
    objects, detections, verified = recorded_tables(recorded["images"])
    expected = recorded["metrics"][name]
    metrics = average_precisions(detections, objects, 6, protocol, verified)
    for index, category in enumerate(recorded["categories"]):
        [value] = [value for key, value in expected.items() if key.endswith(f"AP@0.5IOU/{category['name']}")]
        [ours] = metrics.summary(index).values()
        assert ours == pytest.approx(np.nan if value is None else value, abs=1e-12, nan_ok=True)
    [mean] = [value for key, value in expected.items() if key.endswith("mAP@0.5IOU")]
    assert metrics.summary() == {"AP at IoU 0.5": pytest.approx(mean, abs=1e-12)}


def test_recorded_metrics_of_the_evaluators_differ() -> None:
    metrics = json.loads(RECORDED.read_text())["metrics"].values()
    means = [value for values in metrics for name, value in values.items() if name.endswith("mAP@0.5IOU")]
    assert len(set(means)) == 3


def test_best_threshold_has_the_highest_f1_and_lies_between_two_scores() -> None:
    curve = Curve.of(np.array([0.9, 0.8, 0.6, 0.6, 0.1]), np.array([1, 1, 0, 1, 0]), 4)
    np.testing.assert_allclose(curve.precision, [1, 1, 2 / 3, 3 / 4, 3 / 5])
    best = curve.best_point()
    assert best is not None
    assert best.threshold == pytest.approx(0.35)  # not between the two detections that score 0.6
    assert (best.precision, best.recall, best.f1) == pytest.approx((0.75, 0.75, 0.75))
    assert Curve.of(np.array([0.9]), np.array([0]), 4).best_point() is None
    assert Curve.of(np.zeros(0), np.zeros(0), 4).best_point() is None


def test_errors_are_misses_false_detections_and_confusions() -> None:
    box, other, far = [0, 0, 10, 10], [20, 0, 10, 10], [50, 50, 10, 10]
    truth = objects_of(
        [(0, 0, box), (0, 1, other), (1, 0, box), (1, 1, far), (2, 0, box)],
        difficult=[False, False, False, False, True],
    )
    detections = table(
        [
            (0, 0, box, 0.9),  # right
            (0, 0, other, 0.8),  # of the other class
            (1, 1, other, 0.7),  # nothing is there
            (1, 0, box, 0.2),  # below the threshold
            (2, 0, box, 0.9),  # difficult: does not count
        ]
    )
    point = OperatingPoint(0.5, 1.0, 1.0)
    findings = find_errors(detections, truth, (point, point))
    np.testing.assert_array_equal(findings.confusion(2), [[1, 0, 1], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(findings.errors(3), [1, 3, 0])


def test_difference_of_two_models_is_a_sum_of_scores() -> None:
    ours = table([(0, 0, [0, 0, 10, 10], 0.9), (1, 0, [0, 0, 10, 10], 0.5), (1, 1, [0, 0, 10, 10], 0.25)])
    theirs = table([(0, 0, [1, 0, 10, 10], 0.8), (1, 0, [40, 0, 10, 10], 0.125)])
    np.testing.assert_allclose(differences(ours, theirs, 3, 2), [0.1, 0.875, 0])
