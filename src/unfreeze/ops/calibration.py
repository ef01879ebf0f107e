"""Calibration of scores by piecewise linear functions. Source: object_detection/builders/calibration_builder.py."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

Points = Sequence[tuple[float, float]]  # (x, y) in ascending order of x


def calibrated(scores: tf.Tensor, points: Points) -> tf.Tensor:
    """`[...] -> [...]`: the same function for all scores."""
    return tf.reshape(_interpolated(tf.reshape(scores, [1, -1]), [points]), tf.shape(scores))


def calibrated_by_class(scores: tf.Tensor, points_of_class: Mapping[int, Points]) -> tf.Tensor:
    """`[N, A, C] -> [N, A, C]`: columns (0 is the background, if there is one) that have a function are calibrated."""
    columns = sorted(set(points_of_class) & set(range(scores.shape[2])))
    if not columns:
        return scores
    by_class = tf.transpose(scores, [2, 0, 1])
    values = tf.gather(by_class, columns)
    new = _interpolated(tf.reshape(values, [len(columns), -1]), [points_of_class[column] for column in columns])
    new = tf.reshape(new, tf.shape(values))
    by_class = tf.tensor_scatter_nd_update(by_class, [[column] for column in columns], new)
    return tf.transpose(by_class, [1, 2, 0])


def _interpolated(values: tf.Tensor, functions: Sequence[Points]) -> tf.Tensor:
    """`[F, V] -> [F, V]`: one function per row, constant before its first point and for a distance of 1 after its last.

    Values beyond that are treated as if before the first point: the Object Detection API does not find their interval.
    """
    longest = max(map(len, functions))
    xs = np.full([len(functions), longest + 2], np.inf, np.float32)
    ys = np.zeros_like(xs)
    for row, points in enumerate(functions):
        x, y = np.array(points, np.float32).T
        xs[row, : len(x) + 2] = [x[0] - np.float32(1), *x, x[-1] + np.float32(1)]
        ys[row, : len(x) + 2] = [y[0], *y, y[-1]]
    interval = tf.searchsorted(xs, values, side="right") - 1
    num_intervals = np.array([[len(points) + 1] for points in functions])
    interval = tf.where((interval < 0) | (interval >= num_intervals), 0, interval)
    x, next_x = tf.gather(xs, interval, batch_dims=1), tf.gather(xs, interval + 1, batch_dims=1)
    y, next_y = tf.gather(ys, interval, batch_dims=1), tf.gather(ys, interval + 1, batch_dims=1)
    alpha = (values - x) / (next_x - x)
    return (1 - alpha) * y + alpha * next_y
