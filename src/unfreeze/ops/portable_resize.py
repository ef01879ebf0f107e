"""Resizing by gathers and products, for runtimes whose own resize operations round differently or do not exist.

The results are those of TensorFlow 1's kernels, which `ops/images.py` calls, within the rounding of one float32
operation. ONNX, OpenVINO and TFLite have no AREA, two of them no BICUBIC, and the scales of their BILINEAR are rounded
otherwise, which moves raw scores by more than 1e-4.

Source: TensorFlow's tensorflow/core/kernels/image/resize_{bilinear,nearest_neighbor,bicubic,area}_op.cc, with
half_pixel_centers = false, and core/util/image_resizer_state.h (the scale).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.ops.sizes import Length, Size, float32, image_size, larger, quotient

CUBIC_COEFFICIENT = -0.75
CUBIC_TABLE_SIZE = 1024


def resize_bilinear(images: tf.Tensor, size: Size, align_corners: bool) -> tf.Tensor:
    """[N, H, W, C] uint8 or float32 -> [N, *size, C] float32: between the four neighbors, columns first."""
    height, width = image_size(images)
    top, bottom, y_part = _neighbors(size[0], height, align_corners)
    left, right, x_part = _neighbors(size[1], width, align_corners)
    x_part = x_part[:, tf.newaxis]

    def between_columns(rows: tf.Tensor) -> tf.Tensor:
        at_left, at_right = (tf.cast(tf.gather(rows, columns, axis=2), tf.float32) for columns in (left, right))
        return at_left + (at_right - at_left) * x_part

    above, below = (between_columns(tf.gather(images, rows, axis=1)) for rows in (top, bottom))
    return above + (below - above) * y_part[:, tf.newaxis, tf.newaxis]


def resize_nearest_neighbor(images: tf.Tensor, size: Size, align_corners: bool) -> tf.Tensor:
    """[N, H, W, C] -> [N, *size, C] float32: the pixel at the position, rounded down (corners: to the nearest)."""
    for axis, (new, old) in enumerate(zip(size, image_size(images), strict=True), start=1):
        positions = _positions(new, old, align_corners)
        # roundf rounds halves away from zero.
        indices = tf.cast(tf.floor(positions + 0.5 if align_corners else positions), tf.int32)
        images = tf.gather(images, tf.minimum(indices, old - 1), axis=axis)
    return tf.cast(images, tf.float32)


def resize_bicubic(images: tf.Tensor, size: Size, align_corners: bool) -> tf.Tensor:
    """[N, H, W, C] -> [N, *size, C] float32: from the 16 neighbors, with weights of a table of 1024 steps."""
    resized = tf.cast(images, tf.float32)
    for axis, (new, old) in enumerate(zip(size, image_size(images), strict=True), start=1):
        positions = _positions(new, old, align_corners)
        first = tf.floor(positions)
        steps = tf.cast(tf.round((positions - first) * float(CUBIC_TABLE_SIZE)), tf.int32)
        weights = tf.gather(tf.constant(_cubic_weights()), steps)
        first = tf.cast(first, tf.int32)
        parts = []
        for tap in range(4):
            indices = tf.clip_by_value(first + (tap - 1), 0, old - 1)
            shape = [-1, 1, 1] if axis == 1 else [-1, 1]
            parts.append(tf.gather(resized, indices, axis=axis) * tf.reshape(weights[:, tap], shape))
        resized = parts[0] + parts[1] + parts[2] + parts[3]
    return resized


def resize_area(images: tf.Tensor, size: Size, align_corners: bool) -> tf.Tensor:
    """[N, H, W, C] -> [N, *size, C] float32: the mean of the pixels under each new pixel, by two matrix products."""
    height, width = image_size(images)
    images = tf.cast(images, tf.float32)
    rows = _area_weights(size[0], height, align_corners)
    columns = _area_weights(size[1], width, align_corners)
    channels = images.shape[3]
    resized = tf.matmul(rows, tf.reshape(images, tf.stack([-1, height, width * channels])))
    by_column = tf.transpose(tf.reshape(resized, tf.stack([-1, size[0], width, channels])), [0, 1, 3, 2])
    return tf.transpose(tf.matmul(by_column, columns, transpose_b=True), [0, 1, 3, 2])


PORTABLE_RESIZE_METHODS: dict[str, Callable[[tf.Tensor, Size, bool], tf.Tensor]] = {
    "BILINEAR": resize_bilinear,
    "NEAREST_NEIGHBOR": resize_nearest_neighbor,
    "BICUBIC": resize_bicubic,
    "AREA": resize_area,
}


def _scale(new: Length, old: Length, align_corners: bool) -> tf.Tensor:
    """Returns how many old pixels a new pixel stands for, as CalculateResizeScale does."""
    if not align_corners:
        return quotient(old, new)
    with_corners = quotient(old - 1, larger(new - 1, 1))
    if tf.is_tensor(new):
        return tf.where(new > 1, with_corners, quotient(old, new))
    return with_corners if new > 1 else quotient(old, new)


def _positions(new: Length, old: Length, align_corners: bool) -> tf.Tensor:
    """Returns `[new]` float32: the position of each new pixel among the old ones."""
    return tf.cast(tf.range(new), tf.float32) * _scale(new, old, align_corners)


def _neighbors(new: Length, old: Length, align_corners: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns `[new]` each: the old pixel before and after each new one, and the distance from the one before."""
    positions = _positions(new, old, align_corners)
    before = tf.floor(positions)
    first = tf.cast(before, tf.int32)
    return tf.minimum(first, old - 1), tf.minimum(first + 1, old - 1), positions - before


def _cubic_weights() -> np.ndarray:
    """Returns `[1025, 4]` float32: the weights of the four neighbors at each step between the middle two."""
    a = CUBIC_COEFFICIENT
    near = np.arange(CUBIC_TABLE_SIZE + 1) / CUBIC_TABLE_SIZE

    def inner(x: Any) -> Any:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def outer(x: Any) -> Any:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return np.stack([outer(near + 1), inner(near), inner(1 - near), outer(2 - near)], axis=1).astype(np.float32)


def _area_weights(new: Length, old: Length, align_corners: bool) -> tf.Tensor:
    """Returns `[new, old]`: how much of each old pixel is under each new one, divided by the scale.

    With align_corners the last new pixel reaches beyond the image; the kernel then repeats the last old pixel.
    """
    scale = _scale(new, old, align_corners)
    starts, ends = (tf.cast(tf.range(n, n + new), tf.float32)[:, tf.newaxis] * scale for n in (0, 1))
    pixels = tf.cast(tf.range(old), tf.float32)
    overlaps = tf.maximum(tf.minimum(ends, pixels + 1.0) - tf.maximum(starts, pixels), 0.0)
    beyond = tf.maximum(ends - tf.maximum(starts, float32(old)), 0.0)
    is_last = tf.cast(tf.equal(tf.range(old), old - 1), tf.float32)
    return (overlaps + beyond * is_last) / scale
