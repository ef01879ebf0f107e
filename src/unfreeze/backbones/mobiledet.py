"""The MobileDet backbones.

Source: object_detection/models/ssd_mobiledet_feature_extractor.py; paper arXiv:2004.14525.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import tensorflow as tf

from unfreeze.backbones.mobilenet_v3 import hard_swish
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Activation, Style, conv, depthwise_conv
from unfreeze.ops.normalization import BatchNorm

NORM = BatchNorm(scale=True, epsilon=0.01, decay=0.99)


# The blocks have the names of the scopes in checkpoints: IBN, IBN_1, ..., FusedConv, FusedConv_1, ...
class IBNNoExpansion(NamedTuple):
    """Depthwise convolution and projection."""

    filters: int


class IBN(NamedTuple):
    """Inverted bottleneck: expansion, depthwise convolution and projection."""

    filters: int
    expansion: int
    kernel_size: int = 3
    stride: int = 1
    residual: bool = True


class FusedConv(NamedTuple):
    """Inverted bottleneck with one convolution instead of expansion and depthwise convolution."""

    filters: int
    expansion: int
    kernel_size: int = 3
    stride: int = 1
    residual: bool = True


class TuckerConv(NamedTuple):
    """A 3 x 3 convolution between two 1 x 1 convolutions; the ratios are relative to the channels before and after."""

    filters: int
    input_rank_ratio: float
    output_rank_ratio: float
    residual: bool = True


Block = IBNNoExpansion | IBN | FusedConv | TuckerConv


class Architecture(NamedTuple):
    """A MobileDet; `stages` are C1 to C5."""

    stem_filters: int
    stages: tuple[tuple[Block, ...], ...]
    activation: Activation = tf.nn.relu6
    squeeze_excite: bool = False


CPU = Architecture(
    16,
    (
        (IBNNoExpansion(8),),
        (IBN(16, 4, stride=2, residual=False),),
        (IBN(32, 8, stride=2, residual=False), IBN(32, 4), IBN(32, 4), IBN(32, 4)),
        (
            IBN(72, 8, 5, stride=2, residual=False), IBN(72, 8), IBN(72, 4, 5), IBN(72, 4),
            IBN(72, 8, residual=False), IBN(72, 8), IBN(72, 8), IBN(72, 8),
        ),
        (
            IBN(104, 8, 5, stride=2, residual=False), IBN(104, 4, 5), IBN(104, 4, 5), IBN(104, 4),
            IBN(144, 8, residual=False),
        ),
    ),
    activation=hard_swish("swish6"),
    squeeze_excite=True,
)  # fmt: skip
DSP = Architecture(
    32,
    (
        (IBNNoExpansion(24),),
        (FusedConv(32, 4, stride=2, residual=False), FusedConv(32, 4), IBN(32, 4), TuckerConv(32, 0.25, 0.75)),
        (FusedConv(64, 8, stride=2, residual=False), IBN(64, 4), FusedConv(64, 4), FusedConv(64, 4)),
        (
            FusedConv(120, 8, stride=2, residual=False), IBN(120, 4), IBN(120, 8), IBN(120, 8),
            FusedConv(144, 8, residual=False), IBN(144, 8), IBN(144, 8), IBN(144, 8),
        ),
        (
            IBN(160, 4, stride=2, residual=False), IBN(160, 4), FusedConv(160, 4), TuckerConv(160, 0.75, 0.75),
            IBN(240, 8, residual=False),
        ),
    ),
)  # fmt: skip
EDGETPU = Architecture(
    32,
    (
        (TuckerConv(16, 0.25, 0.75, residual=False),),
        (FusedConv(16, 8, stride=2, residual=False), FusedConv(16, 4), FusedConv(16, 8), FusedConv(16, 4)),
        (FusedConv(40, 8, 5, stride=2, residual=False), FusedConv(40, 4), FusedConv(40, 4), FusedConv(40, 4)),
        (
            IBN(72, 8, stride=2, residual=False), IBN(72, 8), FusedConv(72, 4), FusedConv(72, 4),
            IBN(96, 8, 5, residual=False), IBN(96, 8, 5), IBN(96, 8), IBN(96, 8),
        ),
        (
            IBN(120, 8, 5, stride=2, residual=False), IBN(120, 8), IBN(120, 4, 5), IBN(120, 8),
            IBN(384, 8, 5, residual=False),
        ),
    ),
)  # fmt: skip
GPU = Architecture(
    32,
    (
        (TuckerConv(16, 0.25, 0.25, residual=False),),
        (
            FusedConv(32, 8, stride=2, residual=False),
            TuckerConv(32, 0.25, 0.25), TuckerConv(32, 0.25, 0.25), TuckerConv(32, 0.25, 0.25),
        ),
        (FusedConv(64, 8, stride=2, residual=False), FusedConv(64, 8), FusedConv(64, 8), FusedConv(64, 4)),
        (
            FusedConv(128, 8, stride=2, residual=False), FusedConv(128, 4), FusedConv(128, 4), FusedConv(128, 4),
            FusedConv(128, 8, residual=False), FusedConv(128, 8), FusedConv(128, 8), FusedConv(128, 8),
        ),
        (
            FusedConv(128, 4, stride=2, residual=False), FusedConv(128, 4), FusedConv(128, 4), FusedConv(128, 4),
            IBN(384, 8, residual=False),
        ),
    ),
)  # fmt: skip


def mobiledet(
    x: tf.Tensor, p: Branch, architecture: Architecture, *, depth_multiplier: float = 1.0
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `C1` to `C5`, of strides 2 to 32."""
    style = Style(NORM, architecture.activation)
    x = conv(x, p["Conv"], _scaled(architecture.stem_filters, depth_multiplier), 3, stride=2, style=style)
    stages = {}
    seen: Counter[str] = Counter()
    for level, blocks in enumerate(architecture.stages, start=1):
        for block in blocks:
            kind = type(block).__name__
            scope = p[f"{kind}_{seen[kind]}" if seen[kind] else kind]
            seen[kind] += 1
            filters = _scaled(block.filters, depth_multiplier)
            x = BLOCKS[type(block)](x, scope, block, filters, style, architecture.squeeze_excite)
        stages[f"C{level}"] = x
    return stages


def _ibn_no_expansion(
    x: tf.Tensor, p: Branch, block: IBNNoExpansion, filters: int, style: Style, squeeze_excite: bool
) -> tf.Tensor:
    y = depthwise_conv(x, p["SeparableConv2d"], 3, style=style)
    if squeeze_excite:
        y = _squeeze_excite(y, p["SqueezeExcite"], style.activation)
    return conv(y, p["Conv"], filters, 1, style=replace(style, activation=None))


def _ibn(x: tf.Tensor, p: Branch, block: IBN, filters: int, style: Style, squeeze_excite: bool) -> tf.Tensor:
    y = conv(x, p["Conv"], x.shape[3] * block.expansion, 1, style=style)
    y = depthwise_conv(y, p["SeparableConv2d"], block.kernel_size, stride=block.stride, style=style)
    if squeeze_excite:
        y = _squeeze_excite(y, p["SqueezeExcite"], style.activation)
    y = conv(y, p["Conv_1"], filters, 1, style=replace(style, activation=None))
    return _with_residual(x, y, p, block.residual)


def _fused_conv(
    x: tf.Tensor, p: Branch, block: FusedConv, filters: int, style: Style, squeeze_excite: bool
) -> tf.Tensor:
    y = conv(x, p["Conv"], x.shape[3] * block.expansion, block.kernel_size, stride=block.stride, style=style)
    if squeeze_excite:
        y = _squeeze_excite(y, p["SqueezeExcite"], style.activation)
    y = conv(y, p["Conv_1"], filters, 1, style=replace(style, activation=None))
    return _with_residual(x, y, p, block.residual)


def _tucker_conv(
    x: tf.Tensor, p: Branch, block: TuckerConv, filters: int, style: Style, squeeze_excite: bool
) -> tf.Tensor:
    y = conv(x, p["Conv"], _scaled(x.shape[3], block.input_rank_ratio), 1, style=style)
    y = conv(y, p["Conv_1"], _scaled(filters, block.output_rank_ratio), 3, style=style)
    y = conv(y, p["Conv_2"], filters, 1, style=replace(style, activation=None))
    return _with_residual(x, y, p, block.residual)


BLOCKS: dict[type, Callable[[tf.Tensor, Branch, Any, int, Style, bool], tf.Tensor]] = {
    IBNNoExpansion: _ibn_no_expansion,
    IBN: _ibn,
    FusedConv: _fused_conv,
    TuckerConv: _tucker_conv,
}


def _squeeze_excite(x: tf.Tensor, p: Branch, activation: Activation | None) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: each channel times a gate computed from the means of all channels."""
    channels = x.shape[3]
    pooled = tf.nn.avg_pool2d(x, x.shape[1:3], 1, "VALID")
    squeezed = conv(pooled, p["Conv"], _scaled(channels, 0.25), 1, style=Style(None, activation))
    gate = conv(squeezed, p["Conv_1"], channels, 1, style=Style(None, tf.sigmoid))
    return p["mul"].quantizer("activation_Mul_quant")(x * gate)


def _with_residual(x: tf.Tensor, y: tf.Tensor, p: Branch, residual: bool) -> tf.Tensor:
    return p.quantizer("post_activation_bypass_quant")(x + y) if residual else y


def _scaled(filters: int, multiplier: float) -> int:
    """Returns `filters * multiplier` rounded to a multiple of 8, at least 8."""
    return max(int(filters * multiplier / 8 + 0.5) * 8, 8)
