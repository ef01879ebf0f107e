"""Inception v2. Source: slim's nets/inception_v2.py; paper arXiv:1502.03167.

The second stage is the Mixed_5 part that models/faster_rcnn_inception_v2_feature_extractor.py builds after the crop.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from unfreeze.backbones.inception_towers import Conv, Pool, Row, Towers, layer, mixed, scaled_depth
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, separable_conv
from unfreeze.ops.normalization import BatchNorm

# Faster R-CNN's; SSD takes its style from the config's conv_hyperparams, for the base network too.
STYLE = Style(BatchNorm(scale=True, decay=0.9997), tf.nn.relu)

STEM_FILTERS = 64
STEM: dict[str, Row] = {
    "MaxPool_2a_3x3": Pool(tf.nn.max_pool2d, stride=2),
    "Conv2d_2b_1x1": Conv("Conv2d_2b_1x1", 64),
    "Conv2d_2c_3x3": Conv("Conv2d_2c_3x3", 192, 3),
    "MaxPool_3a_3x3": Pool(tf.nn.max_pool2d, stride=2),
}


def _mixed(
    branch_0: int,
    branch_1: tuple[int, int],
    branch_2: tuple[int, int],
    branch_3: int,
    pool: Callable[..., tf.Tensor] = tf.nn.avg_pool2d,
) -> Towers:
    """Returns the block that keeps height and width. The arguments are filters of its branches: 1 x 1, then 3 x 3."""
    return (
        (Conv("Conv2d_0a_1x1", branch_0),),
        (Conv("Conv2d_0a_1x1", branch_1[0]), Conv("Conv2d_0b_3x3", branch_1[1], 3)),
        (
            Conv("Conv2d_0a_1x1", branch_2[0]),
            Conv("Conv2d_0b_3x3", branch_2[1], 3),
            Conv("Conv2d_0c_3x3", branch_2[1], 3),
        ),
        (Pool(pool), Conv("Conv2d_0b_1x1", branch_3)),
    )


def _reduction(branch_0: tuple[int, int], branch_1: tuple[int, int]) -> Towers:
    """Returns the block that halves height and width. The arguments are filters of its branches: (1 x 1, 3 x 3)."""
    return (
        (Conv("Conv2d_0a_1x1", branch_0[0]), Conv("Conv2d_1a_3x3", branch_0[1], 3, stride=2)),
        (
            Conv("Conv2d_0a_1x1", branch_1[0]),
            Conv("Conv2d_0b_3x3", branch_1[1], 3),
            Conv("Conv2d_1a_3x3", branch_1[1], 3, stride=2),
        ),
        (Pool(tf.nn.max_pool2d, stride=2),),
    )


BLOCKS: dict[str, Towers] = {
    "Mixed_3b": _mixed(64, (64, 64), (64, 96), 32),
    "Mixed_3c": _mixed(64, (64, 96), (64, 96), 64),
    "Mixed_4a": _reduction((128, 160), (64, 96)),
    "Mixed_4b": _mixed(224, (64, 96), (96, 128), 128),
    "Mixed_4c": _mixed(192, (96, 128), (96, 128), 128),
    "Mixed_4d": _mixed(160, (128, 160), (128, 160), 96),
    "Mixed_4e": _mixed(96, (128, 192), (160, 192), 96),
}
LAST_BLOCKS: dict[str, Towers] = {
    "Mixed_5a": _reduction((128, 192), (192, 256)),
    "Mixed_5b": _mixed(352, (192, 320), (160, 224), 128),
    "Mixed_5c": _mixed(352, (192, 320), (192, 224), 128, tf.nn.max_pool2d),
}


def inception_v2(
    x: tf.Tensor,
    p: Branch,
    *,
    depth_multiplier: float = 1.0,
    min_depth: int = 16,
    style: Style = STYLE,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `Conv2d_1a_7x7` to `Mixed_5c`, the whole network."""
    stages = inception_v2_first_stage(x, p, depth_multiplier=depth_multiplier, min_depth=min_depth, style=style)
    last = inception_v2_second_stage(
        stages["Mixed_4e"], p, depth_multiplier=depth_multiplier, min_depth=min_depth, style=style
    )
    return stages | last


def inception_v2_first_stage(
    x: tf.Tensor,
    p: Branch,
    *,
    depth_multiplier: float = 1.0,
    min_depth: int = 16,
    style: Style = STYLE,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `Conv2d_1a_7x7` to `Mixed_4e`."""
    depth = scaled_depth(depth_multiplier, min_depth)
    x = _stem_conv(x, p["Conv2d_1a_7x7"], depth(STEM_FILTERS), style)
    stages = {"Conv2d_1a_7x7": x}
    for name, row in STEM.items():
        x = stages[name] = layer(x, p, row, style, depth)
    for name, towers in BLOCKS.items():
        x = stages[name] = mixed(x, p[name], towers, style, depth)
    return stages


def inception_v2_second_stage(
    x: tf.Tensor,
    p: Branch,
    *,
    depth_multiplier: float = 1.0,
    min_depth: int = 16,
    style: Style = STYLE,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, C] -> stages`: `Mixed_5a` to `Mixed_5c`, of features cropped from `Mixed_4e`."""
    depth = scaled_depth(depth_multiplier, min_depth)
    stages = {}
    for name, towers in LAST_BLOCKS.items():
        x = stages[name] = mixed(x, p[name], towers, style, depth)
    return stages


def _stem_conv(x: tf.Tensor, p: Branch, filters: int, style: Style) -> tf.Tensor:
    """`[N, H, W, 3] -> [N, h, w, filters]`: a separable convolution, up to 8 depthwise filters per color channel."""
    return separable_conv(x, p, filters, 7, stride=2, depth_multiplier=min(filters // 3, 8), style=style)
