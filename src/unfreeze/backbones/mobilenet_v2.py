"""MobileNet v2.

Source: slim's nets/mobilenet/{mobilenet_v2,mobilenet,conv_blocks}.py; keras/applications/mobilenet_v2.py; paper
arXiv:1801.04381.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, conv, depthwise_conv, fixed_padding
from unfreeze.ops.normalization import BatchNorm

# Slim's V2_DEF: (expansion factor, filters, stride) of layer_2 to layer_18; layer_1 is the stem, layer_19 the top.
BLOCKS = (
    (1, 16, 1),
    (6, 24, 2), (6, 24, 1),
    (6, 32, 2), (6, 32, 1), (6, 32, 1),
    (6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1),
    (6, 96, 1), (6, 96, 1), (6, 96, 1),
    (6, 160, 2), (6, 160, 1), (6, 160, 1),
    (6, 320, 1),
)  # fmt: skip
STEM_FILTERS = 32
TOP_FILTERS = 1280

STYLE = Style(BatchNorm(scale=True, decay=0.9997), tf.nn.relu6)

# The names of these layers in Keras, where each batch normalization is a separate layer.
KERAS_NAMES = (
    (r"^Conv/BatchNorm(?=/)", "bn_Conv1"),
    (r"^Conv(?=/)", "Conv1"),
    (r"^Conv_1/BatchNorm(?=/)", "Conv_1_bn"),
    (r"^expanded_conv/(\w+)(?=/)", r"expanded_conv_\1"),
    (r"^expanded_conv_(\d+)/(\w+)(?=/)", r"block_\1_\2"),
    (r"/BatchNorm(?=/)", "_BN"),
)


@dataclass(frozen=True)
class Widths:
    """The rules for depths: the defaults are slim's, KERAS_WIDTHS are Keras's.

    `joins_at_min_depth`: whether a block has a residual if its scaled depth, rather than its unscaled one, equals that
    of its input.
    """

    expansion_divisor: int = 8
    joins_at_min_depth: bool = True


KERAS_WIDTHS = Widths(expansion_divisor=1, joins_at_min_depth=False)


def mobilenet_v2(
    x: tf.Tensor,
    p: Branch,
    *,
    depth_multiplier: float = 1.0,
    min_depth: int = 8,
    use_explicit_padding: bool = False,
    stem_filters: int = STEM_FILTERS,
    blocks: tuple[tuple[int, int, int], ...] = BLOCKS,
    top_filters: int | None = TOP_FILTERS,
    widths: Widths = Widths(),
    style: Style = STYLE,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `layer_1` to `layer_19`, and `layer_i/expansion_output`.

    Without `top_filters` there is no `layer_19`.
    """
    stages = {}
    x = _pad(x, 3, use_explicit_padding)
    x = conv(
        x,
        p["Conv"],
        _scaled(stem_filters, depth_multiplier, min_depth),
        3,
        stride=2,
        padding=_padding(use_explicit_padding),
        style=style,
    )
    stages["layer_1"] = x
    for i, (expansion, unscaled, stride) in enumerate(blocks):
        scope = "expanded_conv" if i == 0 else f"expanded_conv_{i}"
        filters = _scaled(unscaled, depth_multiplier, min_depth)
        joins = stride == 1 and x.shape[3] == (filters if widths.joins_at_min_depth else unscaled)
        expanded_depth = None if expansion == 1 else divisible(x.shape[3] * expansion, widths.expansion_divisor)
        x, expanded = _inverted_residual(
            x, p[scope], filters, expanded_depth, stride, joins, use_explicit_padding, style
        )
        stages[f"layer_{i + 2}/expansion_output"] = expanded
        stages[f"layer_{i + 2}"] = x
    if top_filters is not None:
        stages["layer_19"] = conv(x, p["Conv_1"], _scaled(top_filters, depth_multiplier, min_depth), 1, style=style)
    return stages


def _inverted_residual(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    expanded_depth: int | None,
    stride: int,
    joins: bool,
    use_explicit_padding: bool,
    style: Style,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`[N, H, W, C] -> [N, h, w, filters]`, and the expanded features."""
    expanded = x
    if expanded_depth is not None:
        expanded = conv(x, p["expand"], expanded_depth, 1, style=style)
    y = _pad(expanded, 3, use_explicit_padding)
    y = depthwise_conv(y, p["depthwise"], 3, stride=stride, padding=_padding(use_explicit_padding), style=style)
    y = conv(y, p["project"], filters, 1, style=replace(style, activation=None))
    if joins:
        y = p.quantizer("post_activation_bypass_quant")(x + y)
    return y, expanded


def overridden(style: Style) -> Style:
    """Returns the style of a backbone whose hyperparameters the config overrides: only epsilon and decay change.

    The definition of the network (V2_DEF) sets center, scale, normalizer and activation inside of that scope.
    """
    return (
        Style(replace(style.norm, center=True, scale=True), tf.nn.relu6) if isinstance(style.norm, BatchNorm) else STYLE
    )


def divisible(depth: float, divisor: int = 8, min_depth: int | None = None) -> int:
    """Returns `depth` rounded to a multiple of `divisor`, and down by at most a tenth."""
    rounded = max(divisor if min_depth is None else min_depth, int(depth + divisor / 2) // divisor * divisor)
    return int(rounded + divisor if rounded < 0.9 * depth else rounded)


def _scaled(filters: int, depth_multiplier: float, min_depth: int) -> int:
    return divisible(filters * depth_multiplier, 8, min_depth)


def _pad(x: tf.Tensor, kernel_size: int, use_explicit_padding: bool) -> tf.Tensor:
    return fixed_padding(x, kernel_size) if use_explicit_padding else x


def _padding(use_explicit_padding: bool) -> str:
    return "VALID" if use_explicit_padding else "SAME"
