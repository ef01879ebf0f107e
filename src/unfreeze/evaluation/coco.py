"""Detections in COCO's results format, and the twelve metrics that pycocotools computes from them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unfreeze.errors import MissingExtraError
from unfreeze.evaluation.annotations import Annotations
from unfreeze.images import WHOLE_IMAGE, Detection
from unfreeze.images.detections import Box
from unfreeze.runtimes.model import Outputs

# In pycocotools' order, which names them only where it prints them.
METRICS = (
    "AP", "AP at IoU 0.5", "AP at IoU 0.75", "AP small", "AP medium", "AP large",
    "AR at 1", "AR at 10", "AR at 100", "AR small", "AR medium", "AR large",
)  # fmt: skip
MATCH_IOU = 0.5  # above it, two models detected the same object

Result = dict[str, Any]  # one detection in COCO's results format
Metrics = Mapping[str, Mapping[str, float]]  # "bbox" or "segm" -> name of METRICS -> value, NaN if undefined


def coco_results(outputs: Outputs, size: tuple[int, int], masks: bool) -> Iterator[Result]:
    """Yields the detections of an image of `size` (height, width), without `image_id`."""
    height, width = size
    count = int(outputs.get("num_detections", len(outputs["detection_scores"])))
    for i in range(count):
        ymin, xmin, ymax, xmax = map(float, outputs["detection_boxes"][i])
        result = {
            "category_id": round(float(outputs["detection_classes"][i])),
            "bbox": [xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height],
            "score": float(outputs["detection_scores"][i]),
        }
        if masks and "detection_masks" in outputs:
            result["segmentation"] = _encode_mask(outputs["detection_masks"][i], (ymin, xmin, ymax, xmax), size)
        yield result


def _encode_mask(mask: np.ndarray, box: Box, size: tuple[int, int]) -> Result:
    """Returns a mask over a box, or over the whole image, as COCO's compressed run lengths."""
    from pycocotools import mask as coco_mask

    detection = Detection(0, "", 0.0, box, mask, WHOLE_IMAGE if mask.shape == size else box)
    return dict(coco_mask.encode(np.asfortranarray(detection.mask_px(size[1], size[0]).astype(np.uint8))))


def require_pycocotools() -> None:
    """Raises MissingExtraError if pycocotools is not installed."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise MissingExtraError("evaluate needs pycocotools: pip install 'unfreeze[evaluate]'") from None


def coco_metrics(annotations: Annotations, results: list[Result]) -> Metrics:
    """Returns the metrics of results, by kind of match: boxes, and masks if both sides have them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kinds = ["bbox", *(["segm"] if annotations.has_masks and results and "segmentation" in results[0] else [])]
    if not results:
        return {kind: dict.fromkeys(METRICS, 0.0) for kind in kinds}
    metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        dataset = COCO()
        dataset.dataset = {"info": {}, **annotations.dataset}
        dataset.createIndex()
        for kind in kinds:
            # loadRes takes the areas from masks if there are any, but boxes are to have the areas of boxes.
            of_kind = results if kind == "segm" else list(map(without_segmentation, results))
            evaluation = COCOeval(dataset, dataset.loadRes(of_kind), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            metrics[kind] = {
                name: float(value) if value >= 0 else float("nan")
                for name, value in zip(METRICS, evaluation.stats, strict=True)
            }
    return metrics


def without_segmentation(result: Result) -> Result:
    """Returns a result without its mask."""
    return {name: value for name, value in result.items() if name != "segmentation"}


def difference(ours: Sequence[Result], theirs: Sequence[Result]) -> float:
    """Returns how far the detections of two models differ on an image.

    It is the sum of the scores of what only one detected, and of the score differences of what both detected.
    """
    unmatched, total = list(theirs), 0.0
    for result in sorted(ours, key=by_score, reverse=True):
        same_class = [candidate for candidate in unmatched if candidate["category_id"] == result["category_id"]]
        best = max(same_class, key=lambda candidate: _iou(candidate["bbox"], result["bbox"]), default=None)
        if best is None or _iou(best["bbox"], result["bbox"]) < MATCH_IOU:
            total += by_score(result)
            continue
        unmatched.remove(best)
        total += abs(by_score(best) - by_score(result))
    return total + sum(map(by_score, unmatched))


def by_score(result: Result) -> float:
    """Returns the score of a result, as a key to sort by."""
    return float(result["score"])


def _iou(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the intersection over union of two boxes (left, top, width, height)."""
    width = min(ours[0] + ours[2], theirs[0] + theirs[2]) - max(ours[0], theirs[0])
    height = min(ours[1] + ours[3], theirs[1] + theirs[3]) - max(ours[1], theirs[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = ours[2] * ours[3] + theirs[2] * theirs[3] - shared
    return shared / union if union > 0 else 0.0
