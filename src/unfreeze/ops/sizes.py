"""Sizes that may be known when the graph is built, and arithmetic that stays in NumPy while they are known."""

from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

Length: TypeAlias = Any  # an int where it is known, an int32 scalar tensor where it is not
Size: TypeAlias = tuple[Length, Length]  # height, width

SPLIT = np.float32(2**13 + 1)  # splits the 24 bits of a float32 into 11 and 13


def image_size(images: tf.Tensor) -> Size:
    """[N, H, W, C] -> (H, W)."""
    static, dynamic = images.shape, tf.shape(images)
    height, width = (dynamic[axis] if static[axis] is None else static[axis] for axis in (1, 2))
    return height, width


def arithmetic(*numbers: Any) -> Any:
    """Returns NumPy if all numbers are known, else TensorFlow. Both round float32 operations as IEEE 754 requires."""
    return tf if any(tf.is_tensor(number) for number in numbers) else np


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) of a size that may be one number for both."""
    return size if isinstance(size, tuple) else (size, size)


def smaller(a: Length, b: Length) -> Length:
    """Returns the minimum of two lengths: an int if both are known, else a tensor."""
    return tf.minimum(a, b) if tf.is_tensor(a) or tf.is_tensor(b) else min(a, b)


def larger(a: Length, b: Length) -> Length:
    """Returns the maximum of two lengths: an int if both are known, else a tensor."""
    return tf.maximum(a, b) if tf.is_tensor(a) or tf.is_tensor(b) else max(a, b)


def float32(number: Any) -> Any:
    """Returns the number as float32."""
    return tf.cast(number, tf.float32) if tf.is_tensor(number) else np.float32(number)


def int32(number: Any) -> Any:
    """Returns the number as int32, truncated."""
    return tf.cast(number, tf.int32) if tf.is_tensor(number) else int(number)


def quotient(a: Length, b: Length) -> Any:
    """Returns a / b in float32, rounded once, for a divisor up to 4096.

    Graph optimizers replace a division by a constant with a product, and OpenVINO every division, which rounds twice:
    a size could differ by a pixel, and resized pixels by more than 1e-3. The remainder corrects a quotient of tensors.
    """
    a, b = float32(a), float32(b)
    ratio = a / b
    if not tf.is_tensor(ratio):
        return ratio
    shifted = ratio * SPLIT
    leading = shifted - (shifted - ratio)  # with 11 bits, so that its product with b is exact
    remainder = (a - leading * b) - (ratio - leading) * b
    return ratio + remainder / b
