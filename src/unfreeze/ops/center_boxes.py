"""Boxes around the peaks of a heatmap, in pixels of the map ("strided") and normalized.

Source: object_detection/meta_architectures/center_net_meta_arch.py. Every formula keeps the order of operations of the
Object Detection API, so that it rounds alike.
"""

from __future__ import annotations

import tensorflow as tf

from unfreeze.ops.boxes import center_sizes
from unfreeze.ops.heatmaps import FeatureMap, Peaks, map_size


def boxes_of_peaks(peaks: Peaks, box_scale: FeatureMap, box_offset: FeatureMap) -> tf.Tensor:
    """`peaks of D, [N, H, W, 2], [N, H, W, 2] -> [N, D, 4]`: strided boxes within the map.

    `box_scale` is the (height, width) of the box at each pixel, `box_offset` the offset (y, x) of its center.
    """
    size = tf.cast(tf.stack(map_size(box_scale)), tf.float32)
    half = tf.maximum(peaks.of(box_scale), 0) / 2.0
    center = peaks.centers + peaks.of(box_offset)
    corners = [tf.minimum(tf.maximum(corner, 0.0), size) for corner in (center - half, center + half)]
    return tf.concat(corners, axis=-1)


def normalized_boxes(strided: tf.Tensor, stride: int, true_shapes: tf.Tensor) -> tf.Tensor:
    """`[N, D, 4], [N, 3] -> [N, D, 4]`: boxes relative to the true image, clipped to it."""
    image_sizes = tf.cast(tf.tile(true_shapes[:, tf.newaxis, :2], [1, 1, 2]), tf.float32)
    return tf.clip_by_value(strided * float(stride) / image_sizes, 0.0, 1.0)


def scaled_boxes(boxes: tf.Tensor, scale: float) -> tf.Tensor:
    """`[N, D, 4] -> [N, D, 4]`: boxes scaled around their centers."""
    centers, sizes = center_sizes(boxes)
    half = 0.5 * scale * sizes
    return tf.concat([centers - half, centers + half], axis=-1)


def enclosing_boxes(keypoints: tf.Tensor) -> tf.Tensor:
    """`[N, D, P, 2] -> [N, D, 4]`: the smallest box around the points of each object."""
    return tf.concat([tf.reduce_min(keypoints, axis=2), tf.reduce_max(keypoints, axis=2)], axis=-1)


def overlap_radius(sizes: tf.Tensor, min_iou: float) -> tf.Tensor:
    """`[N, D, 2] (height, width) -> [N, D]`: how far the corners of a box may move while its overlap stays `min_iou`.

    The smallest of three cases: the other box is shifted, inside, or around this one. Source: core/target_assigner.py
    (max_distance_for_overlap).
    """
    height, width = tf.unstack(sizes, axis=-1)
    around, area = height + width, width * height
    shifted = _smallest_positive_root(1.0, -around, area * ((1 - min_iou) / (1 + min_iou)))
    inside = _smallest_positive_root(4.0, -2 * around, (1 - min_iou) * width * height)
    outside = _smallest_positive_root(4.0 * min_iou, (2.0 * min_iou) * around, (min_iou - 1.0) * width * height)
    return tf.minimum(tf.minimum(shifted, inside), outside)


def _smallest_positive_root(a: float, b: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
    """Does not divide by `a`: a mistake of the Object Detection API, with which its models were trained."""
    return (tf.sqrt(b * b - 4 * a * c) - b) / 2.0
