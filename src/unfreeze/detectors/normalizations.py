"""Pixels 0..255 to what a network was trained on.

Source: `preprocess` of object_detection/models/*_feature_extractor.py.
"""

from __future__ import annotations

import tensorflow as tf

# Red, green, blue of ImageNet: the means of 0..255, and the means and deviations of 0..1.
CHANNEL_MEANS = (123.68, 116.779, 103.939)

CHANNEL_OFFSETS = (0.485, 0.456, 0.406)
CHANNEL_SCALES = (0.229, 0.224, 0.225)


def unit_range(x: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: 0..255 -> -1..1."""
    return (2.0 / 255.0) * x - 1.0


def mean_subtracted(x: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: less ImageNet's mean color; gray pixels stay as they are."""
    return x - tf.constant(CHANNEL_MEANS) if x.shape[3] == 3 else x


def standardized(x: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: ImageNet's mean color to 0, its deviation to 1; gray pixels stay as they are."""
    if x.shape[3] != 3:
        return x
    return (x / 255.0 - tf.constant(CHANNEL_OFFSETS)) / tf.constant(CHANNEL_SCALES)
