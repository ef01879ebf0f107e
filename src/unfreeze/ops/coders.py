"""Decodes the box codes of a network, which are relative to anchors.

Every function broadcasts: codes `[..., code_size]`, anchors `[..., 4]`, for example `[N, A, 4]` with `[A, 4]` or
`[N, P, q, 4]` with `[N, P, 1, 4]`. The order of operations is that of the Object Detection API, so that they round
alike.

Source: object_detection/box_coders/{faster_rcnn,keypoint,mean_stddev,square}_box_coder.py.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from unfreeze.ops.boxes import center_sizes


def center_size_boxes(codes: tf.Tensor, anchors: tf.Tensor, scales: Sequence[float]) -> tf.Tensor:
    """`[..., 4 or more], [..., 4] -> [..., 4]`: codes (y, x, height, width), each times its scale."""
    centers, sizes = center_sizes(anchors)
    center = codes[..., :2] / np.array(scales[:2], np.float32) * sizes + centers
    half = tf.exp(codes[..., 2:4] / np.array(scales[2:], np.float32)) * sizes / 2.0
    return tf.concat([center - half, center + half], -1)


def square_boxes(codes: tf.Tensor, anchors: tf.Tensor, scales: Sequence[float]) -> tf.Tensor:
    """`[..., 3], [..., 4] -> [..., 4]`: codes (y, x, length) of squares, each times its scale."""
    centers, sizes = center_sizes(anchors)
    length = tf.sqrt(sizes[..., :1] * sizes[..., 1:])
    center = codes[..., :2] / np.array(scales[:2], np.float32) * length + centers
    half = tf.exp(codes[..., 2:] / np.float32(scales[2])) * length / 2.0
    return tf.concat([center - half, center + half], -1)


def mean_stddev_boxes(codes: tf.Tensor, anchors: tf.Tensor, stddev: float) -> tf.Tensor:
    """`[..., 4], [..., 4] -> [..., 4]`: codes (ymin, xmin, ymax, xmax) in standard deviations from the anchor."""
    return codes * np.float32(stddev) + anchors


def keypoints(codes: tf.Tensor, anchors: tf.Tensor, scales: Sequence[float]) -> tf.Tensor:
    """`[..., 2 * P], [..., 4] -> [..., P, 2]`: codes (y, x) of each of P points, each times its scale."""
    centers, sizes = center_sizes(anchors)
    points = tf.reshape(codes, tf.concat([tf.shape(codes)[:-1], [codes.shape[-1] // 2, 2]], 0))
    return points / np.array(scales, np.float32) * sizes[..., tf.newaxis, :] + centers[..., tf.newaxis, :]
