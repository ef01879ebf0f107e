"""Checks of the image size that the image_resizer gives to a feature extractor. Source: utils/shape_utils.py."""

from __future__ import annotations

import tensorflow as tf

from unfreeze.errors import ConfigError


def check_min_image_dim(x: tf.Tensor, min_dim: int = 33) -> None:
    """Raises ConfigError if a side of `x` `[N, H, W, C]` is known to be smaller than `min_dim`."""
    height, width = x.shape[1:3]
    if min(height or min_dim, width or min_dim) < min_dim:
        raise ConfigError(
            f"image_resizer: images of {height} x {width} are too small for the feature extractor (at least "
            f"{min_dim} x {min_dim}); increase the size (the Object Detection API rejects it too)"
        )


def check_known_size(x: tf.Tensor, extractor: str) -> None:
    """Raises ConfigError unless the height and width of `x` `[N, H, W, C]` are fixed."""
    if None in x.shape[1:3]:
        raise ConfigError(
            f"image_resizer: {extractor} needs a fixed image size; use fixed_shape_resizer or pad_to_max_dimension "
            "(the Object Detection API requires it too)"
        )
