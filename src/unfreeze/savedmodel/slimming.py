"""Removes outputs and rows inside the graph: sending the response is most of the cost of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.detectors import Detector
from unfreeze.errors import UnsupportedError

Tensors = dict[str, tf.Tensor]

# The outputs that every model keeps.
KEPT = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


@dataclass(frozen=True)
class Slimming:
    """The outputs and detections to keep; an empty field or None keeps all."""

    kept_outputs: Sequence[str] = ()
    score_threshold: float | None = None
    max_detections: int | None = None

    def __post_init__(self) -> None:
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise UnsupportedError(f"--score-threshold {self.score_threshold}: expected a number from 0 to 1")
        if self.max_detections is not None and self.max_detections < 1:
            raise UnsupportedError(f"--max-detections {self.max_detections}: expected at least 1")


def slimmed(detector: Detector, slimming: Slimming) -> Detector:
    """Returns the detector with fewer outputs and rows."""
    if slimming == Slimming():
        return detector
    masks_of_boxes = detector.masks_of_boxes
    # Its rows are the boxes of the request, each of which keeps its mask.
    outputs_only = Slimming(slimming.kept_outputs)
    return replace(
        detector,
        postprocess=lambda *stages: slim(detector.postprocess(*stages), slimming),
        masks_of_boxes=masks_of_boxes and (lambda *stages: slim(masks_of_boxes(*stages), outputs_only)),
    )


def slim(outputs: Tensors, slimming: Slimming) -> Tensors:
    """Outputs by name, `detection_*` `[N, D, …]` -> those that are kept, `[N, min(D, max_detections), …]`.

    Rows below `score_threshold` are removed, the others move up in order, and the rows after them are zero, as they are
    in the Object Detection API. `num_detections` counts the rows that are kept.

    Raises:
        UnsupportedError: the model has no output of that name.
    """
    absent = [name for name in slimming.kept_outputs if name not in outputs]
    if absent:
        raise UnsupportedError(
            f"--kept-outputs {absent[0]}: this model has {', '.join(sorted(outputs))}; choose from these"
        )
    if slimming.kept_outputs:
        outputs = {name: tensor for name, tensor in outputs.items() if name in (*slimming.kept_outputs, *KEPT)}
    if slimming.score_threshold is None and slimming.max_detections is None:
        return outputs
    is_kept, rows = _kept_rows(outputs, slimming)
    count = tf.reduce_sum(tf.cast(is_kept, tf.float32), axis=1)
    slim_outputs = dict(outputs)
    for name, tensor in outputs.items():
        if name.startswith("detection_"):
            gathered = tf.gather(tensor, rows, axis=1, batch_dims=1)
            mask = tf.reshape(
                is_kept, tf.concat([tf.shape(is_kept), tf.ones([tensor.shape.rank - 2], tf.int32)], axis=0)
            )
            slim_outputs[name] = tf.where(mask, gathered, tf.zeros([], tensor.dtype))
    return slim_outputs | {"num_detections": tf.cast(count, outputs["num_detections"].dtype)}


def _kept_rows(outputs: Tensors, slimming: Slimming) -> tuple[tf.Tensor, tf.Tensor]:
    """-> `[N, K]`: whether this row is a detection, and which row of the input it is."""
    scores = outputs["detection_scores"]
    depth = scores.shape[1] if scores.shape[1] is not None else tf.shape(scores)[1]
    is_kept = tf.range(depth)[tf.newaxis] < tf.cast(outputs["num_detections"], tf.int32)[:, tf.newaxis]
    if slimming.score_threshold is not None:
        is_kept &= scores >= slimming.score_threshold
    # The sort is stable: kept rows come first, in order.
    rows = tf.argsort(tf.cast(is_kept, tf.int32), axis=1, direction="DESCENDING", stable=True)
    rows = rows[:, : slimming.max_detections]
    return tf.gather(is_kept, rows, axis=1, batch_dims=1), rows
