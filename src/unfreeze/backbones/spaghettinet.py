"""SpaghettiNet: stages and pyramid in one graph of nodes, found by architecture search for edge accelerators.

Source: object_detection/models/ssd_spaghettinet_feature_extractor.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import PLAIN, Style, conv, depthwise_conv, fixed_padding, nearest_neighbor_upsampling
from unfreeze.ops.normalization import BatchNorm
from unfreeze.ops.sizes import image_size


class Ibn(NamedTuple):
    """An inverted bottleneck: 1 x 1 expansion, depthwise, 1 x 1 projection."""

    kernel_size: int
    expansion_rate: int
    stride: int = 1


class FusedIbn(NamedTuple):
    """An inverted bottleneck with one grouped convolution instead of expansion and depthwise convolution."""

    kernel_size: int
    expansion_rate: int
    stride: int = 1
    groups: int = 1


class SepConv(NamedTuple):
    """Depthwise, then 1 x 1."""

    kernel_size: int
    stride: int = 1


Layer = Ibn | FusedIbn | SepConv


class Node(NamedTuple):
    """Layers on an earlier node, or on the sum of two nodes resampled to its `level`: a stride of 2 ** level."""

    num_filters: int
    level: int
    inputs: tuple[str, ...]
    layers: tuple[Layer, ...]


STEM = "s0"
STEM_FILTERS = 24
STEM_KERNEL_SIZE = 5
OUTPUTS = ("c0n1", "c0n2", "c0n3", "c0n4", "c0n5")

# _spaghettinet_edgetpu_{s,m,l}
ARCHITECTURES: dict[str, dict[str, Node]] = {
    "spaghettinet_edgetpu_s": {
        "n0": Node(48, 2, ("s0",), (FusedIbn(3, 8, stride=2, groups=3),)),
        "n1": Node(
            64, 3, ("n0",), (FusedIbn(3, 4, stride=2, groups=4), FusedIbn(3, 4, groups=4), FusedIbn(3, 4, groups=4))
        ),
        "n2": Node(72, 4, ("n1",), (Ibn(3, 8, stride=2), FusedIbn(3, 8, groups=4), Ibn(3, 8), Ibn(3, 4))),
        "n3": Node(88, 5, ("n2",), (Ibn(3, 8, stride=2), Ibn(3, 8), Ibn(3, 4), Ibn(3, 4))),
        "n4": Node(88, 6, ("n3",), (Ibn(3, 8, stride=2), SepConv(5), SepConv(5), SepConv(5))),
        "n5": Node(88, 7, ("n4",), (SepConv(5, stride=2), SepConv(3))),
        "c0n0": Node(144, 5, ("n3", "n4"), (Ibn(3, 4), Ibn(3, 4), Ibn(3, 4), Ibn(3, 4))),
        "c0n1": Node(120, 4, ("n2", "c0n0"), (Ibn(3, 8), Ibn(3, 4), Ibn(3, 4), Ibn(3, 4))),
        "c0n2": Node(168, 5, ("c0n1", "c0n0"), (Ibn(3, 4),)),
        "c0n3": Node(136, 6, ("n5", "c0n0"), (Ibn(3, 4), SepConv(3))),
        "c0n4": Node(136, 7, ("n5", "c0n0"), (Ibn(3, 4),)),
        "c0n5": Node(64, 8, ("c0n4",), (SepConv(3), SepConv(3))),
    },
    "spaghettinet_edgetpu_m": {
        "n0": Node(48, 2, ("s0",), (FusedIbn(3, 8, stride=2, groups=3),)),
        "n1": Node(
            64,
            3,
            ("n0",),
            (
                FusedIbn(3, 8, stride=2, groups=4),
                FusedIbn(3, 4, groups=4),
                FusedIbn(3, 4, groups=4),
                FusedIbn(3, 4, groups=4),
            ),
        ),
        "n2": Node(72, 4, ("n1",), (Ibn(3, 8, stride=2), FusedIbn(3, 8, groups=4), Ibn(3, 8), Ibn(3, 8))),
        "n3": Node(96, 5, ("n2",), (Ibn(3, 8, stride=2), Ibn(3, 8), Ibn(3, 8), Ibn(3, 4))),
        "n4": Node(104, 6, ("n3",), (Ibn(3, 8, stride=2), Ibn(3, 4), SepConv(5), Ibn(3, 4))),
        "n5": Node(56, 7, ("n4",), (SepConv(5, stride=2), SepConv(3))),
        "c0n0": Node(152, 5, ("n3", "n4"), (Ibn(3, 8), Ibn(3, 4), Ibn(3, 4), Ibn(3, 4))),
        "c0n1": Node(120, 4, ("n2", "c0n0"), (Ibn(3, 8), Ibn(3, 4), Ibn(3, 4), Ibn(3, 4))),
        "c0n2": Node(168, 5, ("c0n1", "c0n0"), (Ibn(3, 4), SepConv(3))),
        "c0n3": Node(136, 6, ("n5", "c0n0"), (SepConv(3), SepConv(3), SepConv(3))),
        "c0n4": Node(136, 7, ("n5", "c0n0"), (Ibn(3, 4), SepConv(5))),
        "c0n5": Node(64, 8, ("c0n4",), (SepConv(3), SepConv(3))),
    },
    "spaghettinet_edgetpu_l": {
        "n0": Node(48, 2, ("s0",), (FusedIbn(3, 8, stride=2, groups=3),)),
        "n1": Node(
            64,
            3,
            ("n0",),
            (
                FusedIbn(3, 8, stride=2, groups=4),
                FusedIbn(3, 8, groups=4),
                FusedIbn(3, 8, groups=4),
                FusedIbn(3, 4, groups=4),
            ),
        ),
        "n2": Node(80, 4, ("n1",), (Ibn(3, 8, stride=2), Ibn(3, 8), Ibn(3, 8), Ibn(3, 4))),
        "n3": Node(104, 5, ("n2",), (Ibn(3, 8, stride=2), Ibn(3, 8), Ibn(3, 8), Ibn(3, 8))),
        "n4": Node(88, 6, ("n3",), (Ibn(3, 8, stride=2), Ibn(5, 4), Ibn(3, 4), Ibn(3, 8))),
        "n5": Node(56, 7, ("n4",), (Ibn(5, 4, stride=2), SepConv(5))),
        "c0n0": Node(160, 5, ("n3", "n4"), (Ibn(3, 8), Ibn(3, 4), Ibn(3, 4), Ibn(3, 4))),
        "c0n1": Node(120, 4, ("n2", "c0n0"), (Ibn(3, 8), Ibn(3, 4), Ibn(3, 4), Ibn(3, 8))),
        "c0n2": Node(168, 5, ("c0n1", "c0n0"), (Ibn(3, 4), Ibn(3, 4), Ibn(3, 4), Ibn(3, 4))),
        "c0n3": Node(112, 6, ("n5", "c0n0"), (Ibn(3, 8), Ibn(3, 4), SepConv(3))),
        "c0n4": Node(128, 7, ("n5", "c0n0"), (Ibn(3, 4), Ibn(3, 4))),
        "c0n5": Node(64, 8, ("c0n4",), (SepConv(5), SepConv(5))),
    },
}

# The network's own hyperparameters; the config has no influence on them.
STYLE = Style(BatchNorm(scale=True), tf.nn.relu6)
LINEAR = replace(STYLE, activation=None)
SLICE = replace(STYLE, quantized=False)  # the concatenation of all slices is quantized


def spaghettinet(
    x: tf.Tensor, p: Branch, nodes: dict[str, Node], *, use_explicit_padding: bool = False
) -> list[tf.Tensor]:
    """`[N, H, W, 3] -> 5 x [N, h, w, C]`: the nodes of OUTPUTS, strides 16 to 256."""
    net = p["spaghetti_net"]
    padded = fixed_padding(x, STEM_KERNEL_SIZE) if use_explicit_padding else x
    padding = "VALID" if use_explicit_padding else "SAME"
    stem = conv(padded, net["stem_node/stem"], STEM_FILTERS, STEM_KERNEL_SIZE, stride=2, padding=padding, style=STYLE)
    outputs = {STEM: stem}
    sums = 0
    for name, node in nodes.items():
        x = outputs[node.inputs[0]] if len(node.inputs) == 1 else _joined(outputs, p, name, nodes, use_explicit_padding)
        for i, layer in enumerate(node.layers):
            y = _layer(x, net[f"{name}_{i}"], layer, node.num_filters, use_explicit_padding)
            if i > 0:
                quantizer = f"post_activation_bypass_quant_{sums}" if sums else "post_activation_bypass_quant"
                y = p.quantizer(quantizer)(y + x)
                sums += 1
            x = y
        outputs[name] = x
    return [outputs[name] for name in OUTPUTS]


def _joined(
    outputs: dict[str, tf.Tensor], p: Branch, name: str, nodes: dict[str, Node], use_explicit_padding: bool
) -> tf.Tensor:
    """`[N, h, w, num_filters]`: the sum of a node's resampled inputs, cropped to the size of the finest input."""
    node = nodes[name]
    finest = min(node.inputs, key=lambda source: nodes[source].level)
    edges = {
        source: _resampled(
            outputs[source],
            p[f"edge_{source}_{name}"],
            node.num_filters,
            nodes[source].level - node.level,
            use_explicit_padding,
        )
        for source in node.inputs
    }
    height, width = image_size(edges[finest])
    first, second = (edge[:, :height, :width, :] for edge in edges.values())
    return tf.nn.relu6(first + second)


def _resampled(x: tf.Tensor, p: Branch, filters: int, levels: int, use_explicit_padding: bool) -> tf.Tensor:
    """Applies a 1 x 1 convolution and a change by `levels` levels: upsampling after it, or pooling before it."""
    if levels > 0:
        return nearest_neighbor_upsampling(conv(x, p["1x1_before_upsample"], filters, 1, style=LINEAR), 2**levels)
    if levels == 0:
        return conv(x, p["1x1_no_resampling"], filters, 1, style=LINEAR)
    stride = 2**-levels
    padded, padding = _padded(x, stride + 1, stride, use_explicit_padding)
    pooled = tf.nn.max_pool2d(padded, stride + 1, stride, padding)
    return conv(pooled, p["1x1_after_downsampling"], filters, 1, style=LINEAR)


def _layer(x: tf.Tensor, p: Branch, layer: Layer, filters: int, use_explicit_padding: bool) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`."""
    size, stride = layer.kernel_size, layer.stride
    if isinstance(layer, SepConv):
        x, padding = _padded(x, size, stride, use_explicit_padding)
        x = depthwise_conv(x, p["depthwise"], size, stride=stride, padding=padding, style=PLAIN)
        return conv(x, p["pointwise"], filters, 1, style=STYLE)
    if isinstance(layer, FusedIbn):
        x, padding = _padded(x, size, stride, use_explicit_padding)
        x = _grouped(x, p, layer, padding)
    else:
        x = conv(x, p["expansion"], filters * layer.expansion_rate, 1, style=STYLE)
        x, padding = _padded(x, size, stride, use_explicit_padding)
        x = depthwise_conv(x, p["depthwise"], size, stride=stride, padding=padding, style=STYLE)
    return conv(x, p["projection"], filters, 1, style=LINEAR)


def _grouped(x: tf.Tensor, p: Branch, layer: FusedIbn, padding: str) -> tf.Tensor:
    """Convolves each group of channels, quantized: the OD API quantizes here even without graph_rewriter."""
    filters = x.shape[3] // layer.groups * layer.expansion_rate
    slices = [
        conv(part, p[f"slice_{i}"], filters, layer.kernel_size, stride=layer.stride, padding=padding, style=SLICE)
        for i, part in enumerate(tf.split(x, layer.groups, axis=3))
    ]
    low, high = (p["concat"].weight(name, [], trainable=False) for name in ("min", "max"))
    return tf.quantization.fake_quant_with_min_max_vars(tf.concat(slices, axis=3), low, high)


def _padded(x: tf.Tensor, kernel_size: int, stride: int, use_explicit_padding: bool) -> tuple[tf.Tensor, str]:
    """Returns the input of a kernel and its padding, which is explicit only if there is a stride."""
    if use_explicit_padding and stride > 1:
        return fixed_padding(x, kernel_size), "VALID"
    return x, "SAME"
