"""PNASNet-5 large. Source: slim's nets/nasnet/pnasnet.py; paper arXiv:1712.00559."""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from unfreeze.backbones.nasnet import (
    LAYERS,
    MAX_POOL,
    NONE,
    SEPARABLE_3X3,
    SEPARABLE_5X5,
    SEPARABLE_7X7,
    Cell,
    Layers,
    cell,
    scaled,
    stem,
)
from unfreeze.ops.branch import Branch

# Slim's large_imagenet_config.
FILTERS = 216
CELLS = 12
REDUCTIONS = (4, 8)  # these cells have a stride of 2

# PNasNetNormalCell.
CELL = Cell(
    (
        (1, SEPARABLE_5X5, 1, MAX_POOL),
        (0, SEPARABLE_7X7, 0, MAX_POOL),
        (0, SEPARABLE_5X5, 0, SEPARABLE_3X3),
        (4, SEPARABLE_3X3, 0, MAX_POOL),
        (1, SEPARABLE_3X3, 0, NONE),
    ),
    outputs=(2, 3, 4, 5, 6),
)


def pnasnet_large(
    x: tf.Tensor, p: Branch, *, last_cell: int = CELLS - 1, layers: Layers = LAYERS
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `Cell_0` to the last, of strides 8, 16 and 32."""
    previous, x = stem(x, p, CELL, FILTERS, layers)
    return _cells(previous, x, p, range(last_cell + 1), layers)


def pnasnet_large_rest(previous: tf.Tensor, x: tf.Tensor, p: Branch, *, first_cell: int) -> tf.Tensor:
    """Outputs `[N, H, W, C]` of the two cells before `first_cell`, or crops `-> [N, h, w, c]` of the last cell."""
    return tf.nn.relu(_cells(previous, x, p, range(first_cell, CELLS), LAYERS)[f"Cell_{CELLS - 1}"])


def _cells(
    previous: tf.Tensor, x: tf.Tensor, p: Branch, numbers: Iterable[int], layers: Layers
) -> dict[str, tf.Tensor]:
    stages = {}
    for number in numbers:
        filters, stride = scaled(FILTERS, number, REDUCTIONS), 2 if number in REDUCTIONS else 1
        previous, x = x, cell(x, previous, p[f"cell_{number}"], CELL, filters, stride=stride, layers=layers)
        stages[f"Cell_{number}"] = x
    return stages
