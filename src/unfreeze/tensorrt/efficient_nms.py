"""The attributes of TensorRT's plugin EfficientNMS_TRT, and its rules in NumPy, with which exports are verified.

Source: plugin/efficientNMSPlugin of TensorRT's open-source repository (efficientNMSInference.cu, README.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

PLUGIN = "EfficientNMS_TRT"
INPUTS = ("boxes", "scores")  # [N, A, 4] and [N, A, C]
OUTPUTS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")

CANDIDATES = 4096  # of an image: the pairs of a box and a class with the highest scores; TensorRT takes 2000 to 5000
# Below this threshold every pair is sorted. Those that do not count get a score that sorts them last, but they still
# fill the rows that are left.
DENSE_BELOW = 0.007
NOT_COUNTED = -(1 << 15)

Arrays = Mapping[str, np.ndarray]
Attributes = Mapping[str, Any]
ATTRIBUTES = "efficient_nms.json"


@dataclass(frozen=True)
class EfficientNms:
    """The attributes of the plugin, under its names.

    A pair of a box and a class is a candidate if its score is at least `score_threshold`, and is dropped if it overlaps
    a better one by at least `iou_threshold`. `score_activation`: the plugin applies the sigmoid function to the scores.
    `box_coding` 0: boxes are corners, ymin, xmin, ymax, xmax.
    """

    score_threshold: float
    iou_threshold: float
    max_output_boxes: int
    score_activation: bool
    class_agnostic: bool
    background_class: int = 0
    box_coding: int = 0

    def to_attributes(self) -> Attributes:
        """Returns the attributes of the node; what is true or false there is 1 or 0."""
        values = {name: int(value) if isinstance(value, bool) else value for name, value in asdict(self).items()}
        return {**values, "plugin_version": "1"}


def write_attributes(nms: EfficientNms, folder: Path) -> None:
    """Writes the attributes of the plugin into a folder, for the process of the converter."""
    (folder / ATTRIBUTES).write_text(json.dumps(nms.to_attributes()), encoding="utf-8")


def read_attributes(folder: Path) -> Attributes:
    """Returns the attributes that were written into a folder."""
    attributes: Attributes = json.loads((folder / ATTRIBUTES).read_text(encoding="utf-8"))
    return attributes


def plugin_outputs(nms: EfficientNms, inputs: Arrays) -> Arrays:
    """Returns what the plugin makes of `boxes` [N, A, 4] and `scores` [N, A, C], by its rules, on the CPU."""
    images = [_of_image(nms, boxes, scores) for boxes, scores in zip(*(inputs[name] for name in INPUTS), strict=True)]
    return {name: np.stack([image[name] for image in images]) for name in OUTPUTS}


def detections(nms: EfficientNms, outputs: Arrays) -> Arrays:
    """Returns outputs of the plugin as those of the Object Detection API: without rows that do not count, clipped.

    With a `score_threshold` below DENSE_BELOW the plugin fills its rows with pairs below the threshold.
    """
    scores, counts = outputs["detection_scores"], outputs["num_detections"].reshape(-1, 1)
    counted = (np.arange(scores.shape[1]) < counts) & (scores >= nms.score_threshold)
    counted &= outputs["detection_classes"] != nms.background_class
    return {
        "num_detections": counted.sum(axis=1).astype(np.float32),
        "detection_boxes": np.where(counted[..., np.newaxis], outputs["detection_boxes"].clip(0, 1), 0),
        "detection_scores": np.where(counted, scores, 0),
        "detection_classes": np.where(counted, outputs["detection_classes"], 1).astype(np.float32),
    }


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Returns the sigmoid function of float32 scores."""
    activated: np.ndarray = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return activated.astype(np.float32)


def _of_image(nms: EfficientNms, boxes: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """`[A, 4], [A, C] ->` the outputs for one image."""
    num_classes = scores.shape[1]
    values = scores.ravel()
    pairs = np.arange(values.size)
    counted = (values >= _before_activation(nms, nms.score_threshold)) & (pairs % num_classes != nms.background_class)
    if nms.score_threshold < DENSE_BELOW:
        values = np.where(counted, values, np.float32(NOT_COUNTED))
    else:
        pairs = pairs[counted]
    waiting = pairs[np.argsort(-values[pairs], kind="stable")][:CANDIDATES]
    kept: list[int] = []
    while len(waiting) and len(kept) < nms.max_output_boxes:
        best, others = waiting[0], waiting[1:]
        kept.append(int(best))
        overlaps = _overlaps(boxes[best // num_classes], boxes[others // num_classes])
        competes = nms.class_agnostic | (others % num_classes == best % num_classes)
        waiting = others[~(competes & (overlaps >= np.float32(nms.iou_threshold)))]
    outputs = {
        "num_detections": np.array([len(kept)], np.int32),
        "detection_boxes": np.zeros([nms.max_output_boxes, 4], np.float32),
        "detection_scores": np.zeros([nms.max_output_boxes], np.float32),
        "detection_classes": np.zeros([nms.max_output_boxes], np.int32),
    }
    rows = np.array(kept, int)
    outputs["detection_boxes"][: len(rows)] = boxes[rows // num_classes]
    outputs["detection_scores"][: len(rows)] = sigmoid(values[rows]) if nms.score_activation else values[rows]
    outputs["detection_classes"][: len(rows)] = rows % num_classes
    return outputs


def _before_activation(nms: EfficientNms, score: float) -> float:
    """Returns the input that the sigmoid function, if the plugin applies it, turns into a score."""
    if not nms.score_activation:
        return score
    if not 0 < score < 1:
        return NOT_COUNTED if score <= 0 else np.inf
    return float(np.log(score / (1 - score)))


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """`[4], [B, 4] -> [B]`: the area of the intersection over that of the union; 0 where there is none."""
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    lows, highs = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    common = np.maximum(np.minimum(high, highs) - np.maximum(low, lows), 0).prod(axis=1)
    union = (high - low).prod() + (highs - lows).prod(axis=1) - common
    overlaps: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=(common > 0) & (union > 0))
    return overlaps
