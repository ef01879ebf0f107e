"""MnasFPN: a pyramid found by architecture search, of cells that compute five feature maps, each from two others.

Source: object_detection/models/ssd_mobilenet_v2_mnasfpn_feature_extractor.py; paper arXiv:1912.01106.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from unfreeze.errors import ConfigError
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, conv, fixed_padding, nearest_neighbor_upsampling, separable_conv
from unfreeze.ops.normalization import BatchNorm

LEVELS = (3, 4, 5, 6)  # the levels of the inputs and outputs of a cell
NUM_CELLS = 4


class Block(NamedTuple):
    """A node of a cell. `inputs` are indices: first of the inputs of the cell, then of the nodes before this one."""

    inputs: tuple[int, int]
    output_level: int
    kernel_size: int
    expansion_size: int


# _MNASFPN_CELL_CONFIG
CELL = (
    Block((1, 2), output_level=4, kernel_size=3, expansion_size=256),
    Block((0, 4), output_level=3, kernel_size=3, expansion_size=128),
    Block((5, 4), output_level=4, kernel_size=3, expansion_size=128),
    Block((4, 3), output_level=5, kernel_size=5, expansion_size=128),
    Block((4, 3), output_level=6, kernel_size=3, expansion_size=96),
)

# From the network's own training_scope; the config has no influence on it.
STYLE = Style(BatchNorm(scale=True, epsilon=0.01, decay=0.99), activation=None)


def mnasfpn(
    image_features: Sequence[tf.Tensor],
    p: Branch,
    *,
    depth: int,
    use_explicit_padding: bool = False,
    scaled: Callable[[int], int] = int,
) -> list[tf.Tensor]:
    """Levels 3, 4 and 5 of a backbone, each half the size of the one before `-> 4 x [N, h, w, scaled(depth)]`: 3 to 6.

    Raises:
        ConfigError: the sizes do not halve exactly.
    """
    downsampled = _max_pool(image_features[-1], 2, use_explicit_padding)
    feature_maps = [*image_features, conv(downsampled, p["C6_Conv1x1"], scaled(depth), 1, style=STYLE)]
    _check_sizes(feature_maps)
    for i in range(NUM_CELLS):
        feature_maps = _cell(feature_maps, p[f"cell_{i}"], scaled(depth), use_explicit_padding, scaled)
    return feature_maps


def _cell(
    feature_maps: list[tf.Tensor], p: Branch, depth: int, use_explicit_padding: bool, scaled: Callable[[int], int]
) -> list[tf.Tensor]:
    """Returns the last nodes of a cell, one for each level; an input of the same level and depth is added."""
    nodes, levels = list(feature_maps), list(LEVELS)
    for i, block in enumerate(CELL):
        first, second = (
            _resized(
                nodes[node],
                p[f"block_{i}/input_{j}"]["Conv1x1"],
                scaled(block.expansion_size),
                levels[node] - block.output_level,
                use_explicit_padding,
            )
            for j, node in enumerate(block.inputs)
        )
        x = tf.nn.relu6(first + second)
        if use_explicit_padding:
            x = fixed_padding(x, block.kernel_size)
        padding = "VALID" if use_explicit_padding else "SAME"
        scope = p[f"block_{i}"]["SepConv"]
        nodes.append(separable_conv(x, scope, depth, block.kernel_size, padding=padding, style=STYLE))
        levels.append(block.output_level)
    pairs = zip(feature_maps, nodes[-len(feature_maps) :], strict=True)
    return [node + before if node.shape.as_list() == before.shape.as_list() else node for before, node in pairs]


def _resized(x: tf.Tensor, p: Branch, filters: int, levels: int, use_explicit_padding: bool) -> tf.Tensor:
    """Applies a 1 x 1 convolution and a change by `levels` levels: upsampling after it or pooling before it."""
    if levels < 0:
        return conv(_max_pool(x, 2**-levels, use_explicit_padding), p, filters, 1, style=STYLE)
    x = conv(x, p, filters, 1, style=STYLE)
    return nearest_neighbor_upsampling(x, 2**levels) if levels else x


def _max_pool(x: tf.Tensor, stride: int, use_explicit_padding: bool) -> tf.Tensor:
    """Applies a 3 x 3 pool. Explicit padding consists of zeros, which count in the maximum."""
    if use_explicit_padding:
        return tf.nn.max_pool2d(fixed_padding(x, 3), 3, stride, "VALID")
    return tf.nn.max_pool2d(x, 3, stride, "SAME")


def _check_sizes(feature_maps: Sequence[tf.Tensor]) -> None:
    sizes = [tuple(x.shape[1:3]) for x in feature_maps]
    for (height, width), half in itertools.pairwise(sizes):
        if (height, width) != (2 * half[0], 2 * half[1]):
            raise ConfigError(
                f"feature_extractor: the feature maps of MnasFPN must halve exactly, but {height} x {width} is not "
                f"twice {half[0]} x {half[1]}; use an image_resizer with a height and width that are multiples of 64"
            )
