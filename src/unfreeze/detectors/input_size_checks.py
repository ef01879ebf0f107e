"""What an extractor demands of the pictures that the image_resizer gives it. Source: utils/shape_utils.py."""

from __future__ import annotations

import tensorflow as tf

from unfreeze.errors import ConfigError


def check_min_image_dim(x: tf.Tensor, min_dim: int = 33) -> None:
    """Raises ConfigError when `x` `[N, H, W, C]` is known to be smaller than `min_dim` on a side."""
    height, width = x.shape[1:3]
    if min(height or min_dim, width or min_dim) < min_dim:
        raise ConfigError(
            f"image_resizer: the feature extractor takes pictures of at least {min_dim} x {min_dim}, and gets "
            f"{height} x {width}; give it larger ones, as the original demands too"
        )


def check_known_size(x: tf.Tensor, extractor: str) -> None:
    """Raises ConfigError unless height and width of `x` `[N, H, W, C]` are known before a picture is."""
    if None in x.shape[1:3]:
        raise ConfigError(
            f"image_resizer: {extractor} takes pictures of one size only; use fixed_shape_resizer, or "
            "pad_to_max_dimension, as the original demands too"
        )
