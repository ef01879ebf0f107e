"""NASNet-A large, and the cells that PNASNet consists of too.

Source: slim's nets/nasnet/{nasnet,nasnet_utils}.py; paper arXiv:1707.07012. Drop path applies only to training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, conv, separable_conv
from unfreeze.ops.normalization import BatchNorm, batch_norm

# Slim's large_imagenet_config.
FILTERS = 168
STEM_FILTERS = 96
CELLS = 18
REDUCTIONS = (6, 12)  # a reduction cell comes before these cells


@dataclass(frozen=True)
class Layers:
    """The style of a convolution, and the batch normalization that follows it."""

    style: Style
    norm: BatchNorm


LAYERS = Layers(Style(norm=None, activation=None, biases=False), BatchNorm(scale=True, decay=0.9997))

# state, weights, filters, stride, layers -> state
Operation = Callable[[tf.Tensor, Branch, int, int, Layers], tf.Tensor]


class Cell(NamedTuple):
    """A cell. States 0 and 1 are its inputs; each combination adds a state: the sum of operations on two states."""

    combinations: tuple[tuple[int, Operation, int, Operation], ...]
    outputs: tuple[int, ...]


def _separable(x: tf.Tensor, p: Branch, filters: int, stride: int, layers: Layers, *, size: int) -> tf.Tensor:
    """Applies twice: activation, separable convolution, batch normalization."""
    for i in (1, 2):
        scope, norm = f"separable_{size}x{size}_{i}", p[f"bn_sep_{size}x{size}_{i}"]
        x = _normalized(separable_conv, tf.nn.relu(x), p[scope], norm, filters, size, stride if i == 1 else 1, layers)
    return x


def _pool(
    x: tf.Tensor, p: Branch, filters: int, stride: int, layers: Layers, *, pool: Callable[..., tf.Tensor]
) -> tf.Tensor:
    y = pool(x, 3, stride, "SAME")
    return y if x.shape[3] == filters else _normalized(conv, y, p["1x1"], p["bn_1"], filters, 1, 1, layers)


def _none(x: tf.Tensor, p: Branch, filters: int, stride: int, layers: Layers) -> tf.Tensor:
    """Returns the input; or a convolution of it, if stride or depth change."""
    if stride == 1 and x.shape[3] == filters:
        return x
    return _normalized(conv, tf.nn.relu(x), p["1x1"], p["bn_1"], filters, 1, stride, layers)


SEPARABLE_3X3 = partial(_separable, size=3)
SEPARABLE_5X5 = partial(_separable, size=5)
SEPARABLE_7X7 = partial(_separable, size=7)
AVG_POOL = partial(_pool, pool=tf.nn.avg_pool2d)
MAX_POOL = partial(_pool, pool=tf.nn.max_pool2d)
NONE = _none

# NasNetANormalCell, NasNetAReductionCell.
NORMAL_CELL = Cell(
    (
        (0, SEPARABLE_5X5, 1, SEPARABLE_3X3),
        (1, SEPARABLE_5X5, 1, SEPARABLE_3X3),
        (0, AVG_POOL, 1, NONE),
        (1, AVG_POOL, 1, AVG_POOL),
        (0, SEPARABLE_3X3, 0, NONE),
    ),
    outputs=(1, 2, 3, 4, 5, 6),
)
REDUCTION_CELL = Cell(
    (
        (0, SEPARABLE_5X5, 1, SEPARABLE_7X7),
        (0, MAX_POOL, 1, SEPARABLE_7X7),
        (0, AVG_POOL, 1, SEPARABLE_5X5),
        (3, NONE, 2, AVG_POOL),
        (2, SEPARABLE_3X3, 0, MAX_POOL),
    ),
    outputs=(3, 4, 5, 6),
)


def nasnet_large(x: tf.Tensor, p: Branch, *, last_cell: int = CELLS - 1) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `Cell_0` to the last, of strides 8, 16 and 32; also `Reduction_Cell_i`."""
    previous, x = stem(x, p, REDUCTION_CELL, FILTERS, LAYERS)
    return _cells(previous, x, p, range(last_cell + 1))


def nasnet_large_rest(previous: tf.Tensor, x: tf.Tensor, p: Branch, *, first_cell: int) -> tf.Tensor:
    """Outputs `[N, H, W, C]` of the two cells before `first_cell`, or crops `-> [N, h, w, c]` of the last cell."""
    return tf.nn.relu(_cells(previous, x, p, range(first_cell, CELLS))[f"Cell_{CELLS - 1}"])


def _cells(previous: tf.Tensor, x: tf.Tensor, p: Branch, numbers: Iterable[int]) -> dict[str, tf.Tensor]:
    stages = {}
    for number in numbers:
        filters = scaled(FILTERS, number, REDUCTIONS)
        before = previous  # the previous map of a normal cell is never that of the reduction cell before it
        if number in REDUCTIONS:
            i = REDUCTIONS.index(number)
            previous, x = x, cell(x, previous, p[f"reduction_cell_{i}"], REDUCTION_CELL, filters, stride=2)
            stages[f"Reduction_Cell_{i}"] = x
        previous, x = x, cell(x, before, p[f"cell_{number}"], NORMAL_CELL, filters)
        stages[f"Cell_{number}"] = x
    return stages


def scaled(filters: int, number: int, reductions: tuple[int, ...]) -> int:
    """Returns the filters of a cell: they double with each reduction."""
    return int(filters * 2 ** sum(number >= reduction for reduction in reductions))


def stem(x: tf.Tensor, p: Branch, reduction: Cell, filters: int, layers: Layers) -> tuple[tf.Tensor, tf.Tensor]:
    """`[N, H, W, 3] -> [N, H/4, W/4, C], [N, H/8, W/8, 2C]`: the two inputs of the first cell."""
    x = _normalized(partial(conv, padding="VALID"), x, p["conv0"], p["conv0_bn"], STEM_FILTERS, 3, 2, layers)
    first = cell(x, None, p["cell_stem_0"], reduction, filters // 4, stride=2, layers=layers)
    return first, cell(first, x, p["cell_stem_1"], reduction, filters // 2, stride=2, layers=layers)


def cell(
    x: tf.Tensor,
    previous: tf.Tensor | None,
    p: Branch,
    kind: Cell,
    filters: int,
    *,
    stride: int = 1,
    layers: Layers = LAYERS,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H/stride, W/stride, filters * outputs]`, from a map and the previous one."""
    states = [
        _normalized(conv, tf.nn.relu(x), p["1x1"], p["beginning_bn"], filters, 1, 1, layers),
        x if previous is None else _fitted(previous, x, p, filters, layers),
    ]
    for i, (left, left_operation, right, right_operation) in enumerate(kind.combinations):
        scope = p[f"comb_iter_{i}"]
        states.append(
            left_operation(states[left], scope["left"], filters, stride if left < 2 else 1, layers)
            + right_operation(states[right], scope["right"], filters, stride if right < 2 else 1, layers)
        )
    return tf.concat([states[i] for i in kind.outputs], axis=3)


def _fitted(previous: tf.Tensor, x: tf.Tensor, p: Branch, filters: int, layers: Layers) -> tf.Tensor:
    """Returns the map before `x` in the size of `x` and with `filters` channels. Only the widths are compared."""
    if previous.shape[2] != x.shape[2]:
        return _factorized_reduction(tf.nn.relu(previous), p, filters, layers)
    if previous.shape[3] != filters:
        return _normalized(conv, tf.nn.relu(previous), p["prev_1x1"], p["prev_bn"], filters, 1, 1, layers)
    return previous


def _factorized_reduction(x: tf.Tensor, p: Branch, filters: int, layers: Layers) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H/2, W/2, filters]`: half of the filters see even pixels, the others odd pixels."""
    between = tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]])[:, 1:, 1:]
    paths = [
        conv(x[:, ::2, ::2], p["path1_conv"], filters // 2, style=layers.style),
        conv(between[:, ::2, ::2], p["path2_conv"], filters - filters // 2, style=layers.style),
    ]
    return batch_norm(tf.concat(paths, axis=3), p["final_path_bn"], layers.norm)


def _normalized(
    layer: Callable[..., tf.Tensor],
    x: tf.Tensor,
    p: Branch,
    norm: Branch,
    filters: int,
    size: int,
    stride: int,
    layers: Layers,
) -> tf.Tensor:
    """Applies a convolution and the batch normalization that follows it, folded if nothing is in between."""
    if layers.style == LAYERS.style:
        return layer(x, p, filters, size, stride=stride, style=Style(layers.norm, None), statistics=norm)
    return batch_norm(layer(x, p, filters, size, stride=stride, style=layers.style), norm, layers.norm)
