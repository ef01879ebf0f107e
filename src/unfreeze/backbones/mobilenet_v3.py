"""MobileNet v3 and MobileNet EdgeTPU, as far as detectors use them.

Source: slim's nets/mobilenet/{mobilenet_v3,mobilenet,conv_blocks}.py; paper arXiv:1905.02244.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from unfreeze.backbones.mobilenet_v2 import divisible
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Activation, Composite, Style, conv, depthwise_conv, fixed_padding
from unfreeze.ops.normalization import BatchNorm


def hard_swish(scope: str) -> Composite:
    """Returns a piecewise linear `x * sigmoid(x)`; `scope` is the scope of its multiplications in OD API graphs."""

    def call(x: tf.Tensor, p: Branch) -> tf.Tensor:
        sigmoid = p.outer_quantizer("act_quant")(tf.nn.relu6(x + 3.0))
        y = p[f"{scope}/mul"].quantizer("activation_Mul_quant")(x * sigmoid)
        return p[f"{scope}/mul_1"].quantizer("activation_Mul_quant")(y * (1 / 6))

    return Composite(call)


HARD_SWISH = hard_swish("hard_swish")


class Block(NamedTuple):
    """An inverted residual. With `fused`, one convolution replaces expansion and depthwise convolution."""

    expansion: float
    filters: int
    kernel_size: int
    stride: int = 1
    activation: Activation = tf.nn.relu
    squeeze_excite: bool = False
    fused: bool = False
    residual: bool = True


class Architecture(NamedTuple):
    """A MobileNet v3: the stem is layer_1, the blocks start at layer_2, the top is the layer after them."""

    stem_filters: int
    stem_activation: Activation
    blocks: tuple[Block, ...]
    top_filters: int | None = None


# Slim's V3_LARGE_DETECTION: V3_LARGE with layers 14 to 17 of half the filters.
LARGE_DETECTION = Architecture(
    16,
    HARD_SWISH,
    (
        Block(1, 16, 3),
        Block(4, 24, 3, 2),
        Block(3, 24, 3),
        Block(3, 40, 5, 2, squeeze_excite=True),
        Block(3, 40, 5, squeeze_excite=True),
        Block(3, 40, 5, squeeze_excite=True),
        Block(6, 80, 3, 2, HARD_SWISH),
        Block(2.5, 80, 3, 1, HARD_SWISH),
        Block(184 / 80, 80, 3, 1, HARD_SWISH),
        Block(184 / 80, 80, 3, 1, HARD_SWISH),
        Block(6, 112, 3, 1, HARD_SWISH, squeeze_excite=True),
        Block(6, 112, 3, 1, HARD_SWISH, squeeze_excite=True),
        Block(6, 80, 5, 2, HARD_SWISH, squeeze_excite=True),
        Block(6, 80, 5, 1, HARD_SWISH, squeeze_excite=True),
        Block(6, 80, 5, 1, HARD_SWISH, squeeze_excite=True),
    ),
    480,
)
# Slim's V3_SMALL_DETECTION: V3_SMALL with layers 10 to 13 of half the filters.
SMALL_DETECTION = Architecture(
    16,
    HARD_SWISH,
    (
        Block(1, 16, 3, 2, squeeze_excite=True),
        Block(72 / 16, 24, 3, 2),
        Block(88 / 24, 24, 3),
        Block(4, 40, 5, 2, HARD_SWISH, squeeze_excite=True),
        Block(6, 40, 5, 1, HARD_SWISH, squeeze_excite=True),
        Block(6, 40, 5, 1, HARD_SWISH, squeeze_excite=True),
        Block(3, 48, 5, 1, HARD_SWISH, squeeze_excite=True),
        Block(3, 48, 5, 1, HARD_SWISH, squeeze_excite=True),
        Block(6, 48, 5, 2, HARD_SWISH, squeeze_excite=True),
        Block(6, 48, 5, 1, HARD_SWISH, squeeze_excite=True),
        Block(6, 48, 5, 1, HARD_SWISH, squeeze_excite=True),
    ),
    288,
)
# Slim's V3_EDGETPU to layer_23.
EDGETPU = Architecture(
    32,
    tf.nn.relu,
    (
        Block(1, 16, 3, fused=True),
        Block(8, 32, 3, 2, fused=True),
        Block(4, 32, 3, fused=True),
        Block(4, 32, 3, fused=True),
        Block(4, 32, 3, fused=True),
        Block(8, 48, 3, 2, fused=True),
        Block(4, 48, 3, fused=True),
        Block(4, 48, 3, fused=True),
        Block(4, 48, 3, fused=True),
        Block(8, 96, 3, 2),
        Block(4, 96, 3),
        Block(4, 96, 3),
        Block(4, 96, 3),
        Block(8, 96, 3, residual=False),
        Block(4, 96, 3),
        Block(4, 96, 3),
        Block(4, 96, 3),
        Block(8, 160, 5, 2),
        Block(4, 160, 5),
        Block(4, 160, 5),
        Block(4, 160, 5),
        Block(8, 192, 3),
    ),
)

NORM = BatchNorm(scale=True, decay=0.9997)


def mobilenet_v3(
    x: tf.Tensor,
    p: Branch,
    architecture: Architecture,
    *,
    depth_multiplier: float = 1.0,
    min_depth: int = 8,
    use_explicit_padding: bool = False,
    norm: BatchNorm = NORM,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `layer_1` and on, and `layer_i/expansion_output` where a block expands."""

    def scaled(filters: int) -> int:
        return divisible(filters * depth_multiplier, 8, min_depth)

    x = fixed_padding(x, 3) if use_explicit_padding else x
    padding = "VALID" if use_explicit_padding else "SAME"
    style = Style(norm, architecture.stem_activation)
    x = conv(x, p["Conv"], scaled(architecture.stem_filters), 3, stride=2, padding=padding, style=style)
    stages = {"layer_1": x}
    for i, block in enumerate(architecture.blocks):
        scope = p["expanded_conv" if i == 0 else f"expanded_conv_{i}"]
        if use_explicit_padding:
            # The whole block gets the padded map, and its depthwise convolution pads again: maps grow with each block.
            x = fixed_padding(x, block.kernel_size)
        x, expanded = _inverted_residual(x, scope, block, scaled(block.filters), norm)
        stages[f"layer_{i + 2}"] = x
        if expanded is not None:
            stages[f"layer_{i + 2}/expansion_output"] = expanded
    if architecture.top_filters is not None:
        top = conv(x, p["Conv_1"], scaled(architecture.top_filters), 1, style=style)
        stages[f"layer_{len(architecture.blocks) + 2}"] = top
    return stages


def _inverted_residual(
    x: tf.Tensor, p: Branch, block: Block, filters: int, norm: BatchNorm
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """`[N, H, W, C] -> [N, h, w, filters]`, and the expanded features, if the block expands."""
    style = Style(norm, block.activation)
    inner = divisible(x.shape[3] * block.expansion, 8)
    y, expanded = x, None
    if inner > x.shape[3]:
        size, stride = (block.kernel_size, block.stride) if block.fused else (1, 1)
        y = expanded = conv(x, p["expand"], inner, size, stride=stride, style=style)
    if not block.fused:
        y = depthwise_conv(y, p["depthwise"], block.kernel_size, stride=block.stride, style=style)
    if block.squeeze_excite:
        y = _squeeze_excite(y, p["squeeze_excite"])
    y = conv(y, p["project"], filters, 1, style=Style(norm, None))
    if block.residual and block.stride == 1 and x.shape[3] == filters:
        y = p.quantizer("post_activation_bypass_quant")(x + y)
    return y, expanded


def _squeeze_excite(x: tf.Tensor, p: Branch) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: each channel times a gate computed from the means of all channels."""
    channels = x.shape[3]
    pooled = tf.reduce_mean(x, [1, 2], keepdims=True)
    squeezed = conv(pooled, p["Conv"], divisible(channels / 4, 8), 1, style=Style(None, tf.nn.relu))
    gate = conv(squeezed, p["Conv_1"], channels, 1, style=Style(None, HARD_SIGMOID))
    return p["mul"].quantizer("activation_Mul_quant")(x * gate)


def _hard_sigmoid(x: tf.Tensor, p: Branch) -> tf.Tensor:
    y = p.outer_quantizer("act_quant")(tf.nn.relu6(x + 3.0))
    return p["mul"].quantizer("activation_Mul_quant")(y * 0.16667)  # slim's own rounding of a sixth


HARD_SIGMOID = Composite(_hard_sigmoid)
