"""Normalizations of pixels 0..255, as the networks were trained with them.

Source: `preprocess` of object_detection/models/*_feature_extractor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

# Red, green, blue of ImageNet: means of values 0..255, and means and standard deviations of values 0..1.
CHANNEL_MEANS = (123.68, 116.779, 103.939)

CHANNEL_OFFSETS = (0.485, 0.456, 0.406)
CHANNEL_SCALES = (0.229, 0.224, 0.225)


def unit_range(x: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: 0..255 -> -1..1."""
    return (2.0 / 255.0) * x - 1.0


def mean_subtracted(x: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: minus ImageNet's mean color; grayscale images are not changed."""
    return x - tf.constant(CHANNEL_MEANS) if x.shape[3] == 3 else x


def standardized(x: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: ImageNet's mean becomes 0, its deviation 1; grayscale images are not changed."""
    if x.shape[3] != 3:
        return x
    return (x / 255.0 - tf.constant(CHANNEL_OFFSETS)) / tf.constant(CHANNEL_SCALES)


# The same as numbers, for the metadata of models whose runtime normalizes: (x - mean) / deviation, with one number or
# one for each channel.
MEANS_AND_DEVIATIONS: Mapping[Callable[[tf.Tensor], tf.Tensor], tuple[tuple[float, ...], tuple[float, ...]]] = {
    unit_range: ((127.5,), (127.5,)),
    mean_subtracted: (CHANNEL_MEANS, (1.0, 1.0, 1.0)),
    standardized: (
        tuple(255.0 * offset for offset in CHANNEL_OFFSETS),
        tuple(255.0 * scale for scale in CHANNEL_SCALES),
    ),
}
