"""Operations on boxes `(ymin, xmin, ymax, xmax)` and windows of the same form.

Source: object_detection/core/box_list_ops.py, keypoint_ops.py. Every formula keeps the order of operations of the
Object Detection API, so that it rounds alike.
"""

import tensorflow as tf


def area(boxes: tf.Tensor) -> tf.Tensor:
    """`[..., 4] -> [...]`: the areas; negative for a box whose corners are swapped along one axis."""
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    return (ymax - ymin) * (xmax - xmin)


def center_sizes(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`[..., 4] -> [..., 2], [..., 2]`: the centers (y, x) and the sizes (height, width)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    sizes = high - low
    return low + sizes / 2.0, sizes


def clipped(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """`[N, A, 4], [N, 4] -> [N, A, 4]`: each corner moved into the window of its image."""
    ymin, xmin, ymax, xmax = tf.unstack(window, axis=-1)
    low = tf.stack([ymin, xmin, ymin, xmin], -1)[:, tf.newaxis]
    high = tf.stack([ymax, xmax, ymax, xmax], -1)[:, tf.newaxis]
    return tf.maximum(tf.minimum(boxes, high), low)


def intersected(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """`[N, A, 4], [N, 4] -> [N, A, 4]`: the intersection with the window; with swapped corners where it is empty."""
    low = tf.maximum(boxes[..., :2], window[:, tf.newaxis, :2])
    high = tf.minimum(boxes[..., 2:], window[:, tf.newaxis, 2:])
    return tf.concat([low, high], -1)


def in_frame(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """`[N, A, 4], [N, 4] -> [N, A, 4]`: boxes relative to the window, whose corners become (0, 0) and (1, 1)."""
    low, high = window[:, tf.newaxis, :2], window[:, tf.newaxis, 2:]
    scale = 1.0 / (high - low)
    return tf.concat([scale, scale], -1) * (boxes - tf.concat([low, low], -1))


def keypoints_in_frame(keypoints: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """`[N, A, P, 2], [N, 4] -> [N, A, P, 2]`: points (y, x) relative to the window."""
    low, high = window[:, tf.newaxis, tf.newaxis, :2], window[:, tf.newaxis, tf.newaxis, 2:]
    return (keypoints - low) * (1.0 / (high - low))
