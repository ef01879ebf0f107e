"""Inception v3. Source: slim's nets/inception_v3.py; paper arXiv:1512.00567."""

from __future__ import annotations

import tensorflow as tf

from unfreeze.backbones.inception_towers import Conv, Fork, Pool, Row, Towers, layer, mixed, scaled_depth
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style

STEM: dict[str, Row] = {
    "Conv2d_1a_3x3": Conv("Conv2d_1a_3x3", 32, 3, stride=2, padding="VALID"),
    "Conv2d_2a_3x3": Conv("Conv2d_2a_3x3", 32, 3, padding="VALID"),
    "Conv2d_2b_3x3": Conv("Conv2d_2b_3x3", 64, 3),
    "MaxPool_3a_3x3": Pool(tf.nn.max_pool2d, stride=2, padding="VALID"),
    "Conv2d_3b_1x1": Conv("Conv2d_3b_1x1", 80),
    "Conv2d_4a_3x3": Conv("Conv2d_4a_3x3", 192, 3, padding="VALID"),
    "MaxPool_5a_3x3": Pool(tf.nn.max_pool2d, stride=2, padding="VALID"),
}
HALVED = Pool(tf.nn.max_pool2d, stride=2, padding="VALID")


def _mixed_5(pooled: int, names: tuple[str, str] = ("Conv2d_0a_1x1", "Conv2d_0b_5x5")) -> Towers:
    """Returns a block at 35 x 35 of a 299 x 299 image. Arguments: filters after its pool, names in its Branch_1."""
    return (
        (Conv("Conv2d_0a_1x1", 64),),
        (Conv(names[0], 48), Conv(names[1], 64, 5)),
        (Conv("Conv2d_0a_1x1", 64), Conv("Conv2d_0b_3x3", 96, 3), Conv("Conv2d_0c_3x3", 96, 3)),
        (Pool(tf.nn.avg_pool2d), Conv("Conv2d_0b_1x1", pooled)),
    )


def _mixed_6(narrow: int) -> Towers:
    """Returns a block at 17 x 17, with so many filters inside its towers."""
    return (
        (Conv("Conv2d_0a_1x1", 192),),
        (
            Conv("Conv2d_0a_1x1", narrow),
            Conv("Conv2d_0b_1x7", narrow, (1, 7)),
            Conv("Conv2d_0c_7x1", 192, (7, 1)),
        ),
        (
            Conv("Conv2d_0a_1x1", narrow),
            Conv("Conv2d_0b_7x1", narrow, (7, 1)),
            Conv("Conv2d_0c_1x7", narrow, (1, 7)),
            Conv("Conv2d_0d_7x1", narrow, (7, 1)),
            Conv("Conv2d_0e_1x7", 192, (1, 7)),
        ),
        (Pool(tf.nn.avg_pool2d), Conv("Conv2d_0b_1x1", 192)),
    )


def _mixed_7(tall: str) -> Towers:
    """Returns a block at 8 x 8, with this name of the 3 x 1 convolution in its Branch_1."""
    return (
        (Conv("Conv2d_0a_1x1", 320),),
        (
            Conv("Conv2d_0a_1x1", 384),
            Fork((Conv("Conv2d_0b_1x3", 384, (1, 3)), Conv(tall, 384, (3, 1)))),
        ),
        (
            Conv("Conv2d_0a_1x1", 448),
            Conv("Conv2d_0b_3x3", 384, 3),
            Fork((Conv("Conv2d_0c_1x3", 384, (1, 3)), Conv("Conv2d_0d_3x1", 384, (3, 1)))),
        ),
        (Pool(tf.nn.avg_pool2d), Conv("Conv2d_0b_1x1", 192)),
    )


# The odd names are slim's and are in every checkpoint: those of Mixed_5c, the 3 x 3 kernels named Conv2d_1a_1x1 in
# Mixed_6a, and Conv2d_0b_3x1 in Mixed_7b but Conv2d_0c_3x1 in Mixed_7c.
BLOCKS: dict[str, Towers] = {
    "Mixed_5b": _mixed_5(32),
    "Mixed_5c": _mixed_5(64, names=("Conv2d_0b_1x1", "Conv_1_0c_5x5")),
    "Mixed_5d": _mixed_5(64),
    "Mixed_6a": (
        (Conv("Conv2d_1a_1x1", 384, 3, stride=2, padding="VALID"),),
        (
            Conv("Conv2d_0a_1x1", 64),
            Conv("Conv2d_0b_3x3", 96, 3),
            Conv("Conv2d_1a_1x1", 96, 3, stride=2, padding="VALID"),
        ),
        (HALVED,),
    ),
    "Mixed_6b": _mixed_6(128),
    "Mixed_6c": _mixed_6(160),
    "Mixed_6d": _mixed_6(160),
    "Mixed_6e": _mixed_6(192),
    "Mixed_7a": (
        (Conv("Conv2d_0a_1x1", 192), Conv("Conv2d_1a_3x3", 320, 3, stride=2, padding="VALID")),
        (
            Conv("Conv2d_0a_1x1", 192),
            Conv("Conv2d_0b_1x7", 192, (1, 7)),
            Conv("Conv2d_0c_7x1", 192, (7, 1)),
            Conv("Conv2d_1a_3x3", 192, 3, stride=2, padding="VALID"),
        ),
        (HALVED,),
    ),
    "Mixed_7b": _mixed_7("Conv2d_0b_3x1"),
    "Mixed_7c": _mixed_7("Conv2d_0c_3x1"),
}


def inception_v3(
    x: tf.Tensor,
    p: Branch,
    *,
    style: Style,
    depth_multiplier: float = 1.0,
    min_depth: int = 16,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `Conv2d_1a_3x3` to `Mixed_7c`. SSD passes the style of its conv_hyperparams."""
    depth = scaled_depth(depth_multiplier, min_depth)
    stages = {}
    for name, row in STEM.items():
        x = stages[name] = layer(x, p, row, style, depth)
    for name, towers in BLOCKS.items():
        x = stages[name] = mixed(x, p[name], towers, style, depth)
    return stages
