"""Fewer outputs and fewer rows, in the graph: what a server sends back is most of what a request costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.detectors import Detector
from unfreeze.errors import UnsupportedError

Tensors = dict[str, tf.Tensor]

# What a detection is made of: these stay, whatever is asked for.
KEPT = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


@dataclass(frozen=True)
class Slimming:
    """What stays of the answers; an empty or absent field leaves them as they are."""

    kept_outputs: Sequence[str] = ()
    score_threshold: float | None = None
    max_detections: int | None = None

    def __post_init__(self) -> None:
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise UnsupportedError(f"--score-threshold {self.score_threshold}: a number from 0 to 1")
        if self.max_detections is not None and self.max_detections < 1:
            raise UnsupportedError(f"--max-detections {self.max_detections}: at least 1")


def slimmed(detector: Detector, slimming: Slimming) -> Detector:
    """The same detector, whose answers are slim."""
    if slimming == Slimming():
        return detector
    masks_of_boxes = detector.masks_of_boxes
    # Its rows are the boxes that it was given: each of them keeps its mask.
    outputs_only = Slimming(slimming.kept_outputs)
    return replace(
        detector,
        postprocess=lambda *stages: slim(detector.postprocess(*stages), slimming),
        masks_of_boxes=masks_of_boxes and (lambda *stages: slim(masks_of_boxes(*stages), outputs_only)),
    )


def slim(outputs: Tensors, slimming: Slimming) -> Tensors:
    """Outputs by name, `detection_*` with rows `[N, D, …]` -> those that stay, `[N, min(D, max_detections), …]`.

    Rows below `score_threshold` are taken out, the others move up in their order, and what is left at the end is zero,
    as in the original where it found fewer. `num_detections` counts what stayed.

    Raises: UnsupportedError for an output that there is not.
    """
    absent = [name for name in slimming.kept_outputs if name not in outputs]
    if absent:
        raise UnsupportedError(f"--kept-outputs {absent[0]}: this model has {', '.join(sorted(outputs))}")
    if slimming.kept_outputs:
        outputs = {name: tensor for name, tensor in outputs.items() if name in (*slimming.kept_outputs, *KEPT)}
    if slimming.score_threshold is None and slimming.max_detections is None:
        return outputs
    stay, rows = _rows_that_stay(outputs, slimming)
    found = tf.reduce_sum(tf.cast(stay, tf.float32), axis=1)
    slim_outputs = dict(outputs)
    for name, tensor in outputs.items():
        if name.startswith("detection_"):
            taken = tf.gather(tensor, rows, axis=1, batch_dims=1)
            held = tf.reshape(stay, tf.concat([tf.shape(stay), tf.ones([tensor.shape.rank - 2], tf.int32)], axis=0))
            slim_outputs[name] = tf.where(held, taken, tf.zeros([], tensor.dtype))
    return slim_outputs | {"num_detections": tf.cast(found, outputs["num_detections"].dtype)}


def _rows_that_stay(outputs: Tensors, slimming: Slimming) -> tuple[tf.Tensor, tf.Tensor]:
    """`[N, K]`: whether there is a detection in this row, and which row it was."""
    scores = outputs["detection_scores"]
    depth = scores.shape[1] if scores.shape[1] is not None else tf.shape(scores)[1]
    stay = tf.range(depth)[tf.newaxis] < tf.cast(outputs["num_detections"], tf.int32)[:, tf.newaxis]
    if slimming.score_threshold is not None:
        stay &= scores >= slimming.score_threshold
    # Sorting is stable: those that stay come first, in their order.
    rows = tf.argsort(tf.cast(stay, tf.int32), axis=1, direction="DESCENDING", stable=True)
    rows = rows[:, : slimming.max_detections]
    return tf.gather(stay, rows, axis=1, batch_dims=1), rows
