"""The second stage of R-FCN: score maps for each part of an object, pooled at the position of that part.

Source: object_detection/predictors/rfcn_box_predictor.py; paper arXiv:1605.06409.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.crops import position_sensitive_crops
from unfreeze.ops.layers import Style, conv


@dataclass(frozen=True)
class PositionSensitive:
    """The options of an `rfcn_box_predictor`; `crop_size` and `num_spatial_bins` are (height, width)."""

    num_classes: int
    style: Style
    num_spatial_bins: tuple[int, int] = (3, 3)
    depth: int = 1024
    box_code_size: int = 4
    crop_size: tuple[int, int] = (12, 12)


def position_sensitive(
    x: tf.Tensor, boxes: tf.Tensor, images: tf.Tensor, p: Branch, options: PositionSensitive
) -> dict[str, tf.Tensor]:
    """Features `[N, H, W, C]`, boxes `[R, 4]` of images `[R]` -> box codes and class predictions.

    The outputs are `refined_box_encodings` [R, K, code] and `class_predictions_with_background` [R, K + 1].
    """
    x = conv(x, p["reduce_depth"], options.depth, 1, style=options.style)
    linear = replace(options.style, activation=None)

    def crops(scope: str, channels: int) -> tf.Tensor:
        bins = options.num_spatial_bins[0] * options.num_spatial_bins[1]
        maps = conv(x, p[scope], bins * channels, 1, style=linear)
        return position_sensitive_crops(maps, boxes, images, options.crop_size, options.num_spatial_bins)

    codes = crops("refined_locations", options.num_classes * options.box_code_size)
    return {
        "refined_box_encodings": tf.reshape(codes, [-1, options.num_classes, options.box_code_size]),
        "class_predictions_with_background": crops("class_predictions", options.num_classes + 1),
    }
