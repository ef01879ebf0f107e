"""The fast suppression of TFLite_Detection_PostProcess in NumPy, with which files that contain it are verified.

Each box has one class, its best one, and suppresses every other box, whatever its class.
Source: tensorflow/lite/kernels/detection_postprocess.cc (NonMaxSuppressionMultiClassFastHelper).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def fast_detections(
    encodings: np.ndarray, scores: np.ndarray, anchors: np.ndarray, max_detections: int, numbers: Mapping[str, float]
) -> Mapping[str, np.ndarray]:
    """Returns the detections of an image by the names of the Object Detection API, the best first, classes from 1.

    Args:
        encodings: [A, 4]: y, x, height, width.
        scores: [A, C]; column 0 is the background.
        anchors: [A, 4]: center y, center x, height, width.
        max_detections: D, the number of rows; those without a detection are zero.
        numbers: the attributes of the operation: thresholds and scales.
    """
    best = scores[:, 1:].argmax(axis=1)
    best_scores = scores[:, 1:].max(axis=1)
    boxes = _decoded(encodings, anchors, numbers)
    kept = _kept(boxes, best_scores, max_detections, numbers)
    detections = {
        "detection_boxes": np.zeros([max_detections, 4], np.float32),
        "detection_classes": np.ones([max_detections], np.float32),
        "detection_scores": np.zeros([max_detections], np.float32),
        "num_detections": np.array(len(kept), np.float32),
    }
    detections["detection_boxes"][: len(kept)] = boxes[kept]
    detections["detection_classes"][: len(kept)] += best[kept]
    detections["detection_scores"][: len(kept)] = best_scores[kept]
    return detections


def _decoded(encodings: np.ndarray, anchors: np.ndarray, numbers: Mapping[str, float]) -> np.ndarray:
    """`[A, 4], [A, 4] -> [A, 4]`: ymin, xmin, ymax, xmax."""
    scales = np.array([numbers[name] for name in ("y_scale", "x_scale", "h_scale", "w_scale")], np.float32)
    moves = encodings / scales
    centers = moves[:, :2] * anchors[:, 2:] + anchors[:, :2]
    halves = np.float32(0.5) * np.exp(moves[:, 2:]) * anchors[:, 2:]
    return np.concatenate([centers - halves, centers + halves], axis=1)


def _kept(boxes: np.ndarray, scores: np.ndarray, max_detections: int, numbers: Mapping[str, float]) -> list[int]:
    """`[A, 4], [A] ->` the rows that are kept, in the order of their scores."""
    waiting = np.argsort(-scores, kind="stable")
    waiting = waiting[scores[waiting] >= numbers["nms_score_threshold"]]
    kept: list[int] = []
    while len(waiting) and len(kept) < max_detections:
        row, others = waiting[0], waiting[1:]
        kept.append(int(row))
        waiting = others[_overlaps(boxes[row], boxes[others]) <= numbers["nms_iou_threshold"]]
    return kept


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """`[4], [B, 4] -> [B]`: the area of the intersection over that of the union; 0 for boxes without an area."""
    lengths = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersections = np.maximum(lengths, 0).prod(axis=1)
    area, areas = (box[2:] - box[:2]).prod(), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    overlaps: np.ndarray = np.where((area > 0) & (areas > 0), intersections / (area + areas - intersections), 0)
    return overlaps
