"""Detections as COCO's results say them, and the twelve numbers that pycocotools makes of them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from unfreeze.errors import UnfreezeError
from unfreeze.evaluation.annotations import Annotations
from unfreeze.evaluation.asking import Answer
from unfreeze.images import WHOLE_IMAGE, Detection

# What pycocotools calls its twelve numbers nowhere but in print: area, then how many detections count.
METRICS = (
    "AP", "AP at IoU 0.5", "AP at IoU 0.75", "AP small", "AP medium", "AP large",
    "AR at 1", "AR at 10", "AR at 100", "AR small", "AR medium", "AR large",
)  # fmt: skip
MATCH_IOU = 0.5  # two models found the same thing in a picture

Result = dict[str, Any]


def results(answer: Answer, size: tuple[int, int], masks: bool) -> Iterator[Result]:
    height, width = size
    count = int(answer.get("num_detections", len(answer["detection_scores"])))
    for i in range(count):
        ymin, xmin, ymax, xmax = map(float, answer["detection_boxes"][i])
        result = {
            "category_id": round(float(answer["detection_classes"][i])),
            "bbox": [xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height],
            "score": float(answer["detection_scores"][i]),
        }
        if masks and "detection_masks" in answer:
            result["segmentation"] = _run_lengths(answer["detection_masks"][i], (ymin, xmin, ymax, xmax), size)
        yield result


def _run_lengths(mask: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> Result:
    from pycocotools import mask as coco_mask

    detection = Detection(0, "", 0.0, box, mask, WHOLE_IMAGE if mask.shape == size else box)
    return dict(coco_mask.encode(np.asfortranarray(detection.mask_px(size[1], size[0]).astype(np.uint8))))


def scorer() -> Callable[[Annotations, list[Result]], dict[str, dict[str, float]]]:
    """The function that scores results; pycocotools prints, and what it prints is dropped."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UnfreezeError("evaluate needs pycocotools: pip install 'unfreeze[evaluate]'") from None

    def score(truth: Annotations, results: list[Result]) -> dict[str, dict[str, float]]:
        kinds = ["bbox", *(["segm"] if truth.has_masks and results and "segmentation" in results[0] else [])]
        metrics = {}
        with contextlib.redirect_stdout(io.StringIO()):
            held = COCO()
            held.dataset = {"info": {}, **truth.truth}
            held.createIndex()
            if not results:
                return {kind: dict.fromkeys(METRICS, 0.0) for kind in kinds}
            for kind in kinds:
                # loadRes takes areas from masks where there are some, which boxes are not to have.
                given = [{k: v for k, v in each.items() if kind == "segm" or k != "segmentation"} for each in results]
                counted = COCOeval(held, held.loadRes(given), kind)
                counted.evaluate()
                counted.accumulate()
                counted.summarize()
                metrics[kind] = {
                    name: float(value) if value >= 0 else float("nan")
                    for name, value in zip(METRICS, counted.stats, strict=True)
                }
        return metrics

    return score


def distance(ours: Sequence[Result], theirs: Sequence[Result]) -> float:
    """How far two models differ on a picture: the scores of what only one found, and the differences of the others."""
    left, total = list(theirs), 0.0
    for result in sorted(ours, key=lambda each: -each["score"]):
        same = [each for each in left if each["category_id"] == result["category_id"]]
        best = max(same, key=lambda each: _iou(each["bbox"], result["bbox"]), default=None)
        if best is None or _iou(best["bbox"], result["bbox"]) < MATCH_IOU:
            total += result["score"]
            continue
        left.remove(best)
        total += abs(best["score"] - result["score"])
    return total + sum(each["score"] for each in left)


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two boxes (left, top, width, height)."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0
