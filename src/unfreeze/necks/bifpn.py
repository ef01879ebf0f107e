"""Bidirectional feature pyramid: repeated top-down and bottom-up passes, whose nodes are weighted sums of others.

Source: object_detection/models/bidirectional_feature_pyramid_generators.py, utils/bifpn_utils.py; paper
arXiv:1911.09070.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.errors import ConfigError
from unfreeze.necks.fpn import check_sizes
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, activated, conv, nearest_neighbor_upsampling, separable_conv

COMBINE_METHODS = ("fast_attention", "attention", "weighted_sum", "sum")


@dataclass(frozen=True)
class BiFpn:
    """The options of a `bifpn` message, under the config's names."""

    min_level: int = 3
    max_level: int = 7
    num_iterations: int = 3
    num_filters: int = 64
    combine_method: str = "fast_attention"


@dataclass(frozen=True)
class Node:
    """A sum of maps. `inputs`: the index of each in the list of all maps and nodes, and how many levels finer it is."""

    inputs: tuple[tuple[int, int], ...]


def bifpn_feature_maps(image_features: Sequence[tf.Tensor], p: Branch, options: BiFpn, style: Style) -> list[tf.Tensor]:
    """`L x [N, h, w, C] -> L x [N, h, w, num_filters]`, the finest first; missing coarse levels are added.

    Raises:
        ConfigError: the sizes do not halve exactly.
    """
    maps = list(image_features)
    linear = replace(style, activation=None)
    for i, node in enumerate(_nodes(options, len(maps))):
        inputs = []
        for j, (index, finer) in enumerate(node.inputs):
            x = maps[index]
            if index < len(image_features):  # maps of the backbone are projected, whatever their depth
                block = p[f"node_input_blocks/{i}/{j}/1"]
                x = conv(x, block["0"], options.num_filters, 1, style=linear, statistics=block["1"])
            inputs.append(_resized(x, finer))
        if len(inputs) == 1:
            maps.append(inputs[0])
            continue
        for other in inputs[1:]:
            check_sizes(other, inputs[0])
        x = _combined(inputs, p[f"node_combine_op/{i}"], options.combine_method)
        block = p[f"node_post_combine_block/{i}"]
        x = activated(x, block["0"], style.activation)
        maps.append(separable_conv(x, block["1"], options.num_filters, 3, style=linear, statistics=block["2"]))
    return maps[-(options.max_level - options.min_level + 1) :]


def _nodes(options: BiFpn, num_inputs: int) -> list[Node]:
    """Returns all nodes in the order of their computation, for `num_inputs` maps of the backbone."""
    low, high = options.min_level, options.max_level
    nodes = [Node(((level - low - 1, 1),)) for level in range(low + num_inputs, high + 1)]
    upward = list(
        range(high - low + 1)
    )  # the index, for each level, of the input or of the last node of a bottom-up pass
    for _ in range(options.num_iterations):
        downward = {high: upward[-1]}
        for level in range(high - 1, low - 1, -1):
            nodes.append(Node(((upward[level - low], 0), (downward[level + 1], -1))))
            downward[level] = num_inputs + len(nodes) - 1
        below = downward[low]
        for level in range(low + 1, high + 1):
            beside = ((downward[level], 0),) if level < high else ()
            nodes.append(Node(((upward[level - low], 0), *beside, (below, 1))))
            below = upward[level - low] = num_inputs + len(nodes) - 1
        upward[0] = downward[low]
    return nodes


def _resized(x: tf.Tensor, finer: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, C]`: resized from a level that is `finer` levels (-1 to 1) finer than the result."""
    if finer > 0:
        return tf.nn.max_pool2d(x, 3, 2, "SAME")
    return nearest_neighbor_upsampling(x, 2) if finer < 0 else x


def _combined(inputs: Sequence[tf.Tensor], p: Branch, combine_method: str) -> tf.Tensor:
    """Returns the sum of the inputs, each times its weight.

    Raises:
        ConfigError: `combine_method` is not one of COMBINE_METHODS.
    """
    if combine_method not in COMBINE_METHODS:
        raise ConfigError(f"bifpn: combine_method is {combine_method!r}; set it to {' or '.join(COMBINE_METHODS)}")
    if combine_method == "sum":
        return tf.add_n(list(inputs))
    count = len(inputs)
    weights = p.weight("bifpn_combine_weights", [count, 1])
    if combine_method == "attention":
        return tf.add_n(list(inputs))  # the softmax is over an axis of length 1, so every weight becomes 1

    def normalized() -> list[tf.Tensor]:
        if combine_method == "weighted_sum":
            return [weights]
        positive = tf.nn.relu(weights)
        return [positive / (tf.reduce_sum(positive) + 0.0001)]

    [shares] = p.derived(normalized, shares=[count, 1])
    return tf.add_n([x * share for x, share in zip(inputs, tf.unstack(tf.reshape(shares, [count])), strict=True)])
