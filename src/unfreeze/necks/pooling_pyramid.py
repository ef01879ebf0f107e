"""The pooling pyramid: one feature map, pooled repeatedly to half its size.

Source: object_detection/models/feature_map_generators.py, pooling_pyramid_feature_maps.
"""

from __future__ import annotations

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, conv


def pooling_pyramid_feature_maps(
    x: tf.Tensor, p: Branch, *, base_feature_map_depth: int, num_layers: int, style: Style
) -> list[tf.Tensor]:
    """`[N, H, W, C] -> num_layers x [N, h, w, C]`; with a `base_feature_map_depth` of 0 the map is not projected."""
    if base_feature_map_depth > 0:
        x = conv(x, p[f"Base_Conv2d_1x1_{base_feature_map_depth}"], base_feature_map_depth, 1, style=style)
    feature_maps = [x]
    for _ in range(num_layers - 1):
        feature_maps.append(tf.nn.max_pool2d(feature_maps[-1], 2, 2, "SAME"))
    return feature_maps
