"""Rows of the tables that describe Inception networks: convolutions and pools in towers, and towers in parallel.

Source: slim's nets/inception_v2.py, nets/inception_v3.py and nets/inception_resnet_v2.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, conv


@dataclass(frozen=True)
class Conv:
    """A convolution called `name`. The name often contains the kernel size, and is sometimes wrong about it."""

    name: str
    filters: int
    kernel_size: int | tuple[int, int] = 1
    stride: int = 1
    padding: str = "SAME"
    rate: int = 1


@dataclass(frozen=True)
class Pool:
    """A 3 x 3 pool, `tf.nn.max_pool2d` or `tf.nn.avg_pool2d`."""

    pool: Callable[..., tf.Tensor]
    stride: int = 1
    padding: str = "SAME"


@dataclass(frozen=True)
class Fork:
    """Convolutions of the same input, concatenated."""

    convs: tuple[Conv, ...]


Row = Conv | Pool | Fork
Towers = tuple[tuple[Row, ...], ...]


def layer(x: tf.Tensor, p: Branch, row: Row, style: Style, depth: Callable[[int], int] = int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, c]`: the layer of one row, with `depth(filters)` instead of its filters."""
    if isinstance(row, Pool):
        return row.pool(x, 3, row.stride, row.padding)
    if isinstance(row, Fork):
        return tf.concat([layer(x, p, prong, style, depth) for prong in row.convs], 3)
    return conv(
        x,
        p[row.name],
        depth(row.filters),
        row.kernel_size,
        stride=row.stride,
        rate=row.rate,
        padding=row.padding,
        style=style,
    )


def mixed(x: tf.Tensor, p: Branch, towers: Towers, style: Style, depth: Callable[[int], int] = int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, c]`: the towers `Branch_0`, `Branch_1`, ... of one input, concatenated."""
    tops = []
    for i, rows in enumerate(towers):
        y = x
        for row in rows:
            y = layer(y, p[f"Branch_{i}"], row, style, depth)
        tops.append(y)
    return tf.concat(tops, 3)


def scaled_depth(depth_multiplier: float, min_depth: int) -> Callable[[int], int]:
    """Returns a function that scales filters: rounded down, at least `min_depth`."""
    return lambda filters: max(int(filters * depth_multiplier), min_depth)
