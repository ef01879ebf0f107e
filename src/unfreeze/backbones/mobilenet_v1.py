"""MobileNet v1. Source: slim's nets/mobilenet_v1.py; keras/applications/mobilenet.py; paper arXiv:1704.04861."""

from __future__ import annotations

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, conv, depthwise_conv, fixed_padding
from unfreeze.ops.normalization import BatchNorm

STEM_FILTERS = 32
# Slim's MOBILENETV1_CONV_DEFS: (filters, stride) of Conv2d_1 to Conv2d_13.
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip

STYLE = Style(BatchNorm(scale=True, decay=0.9997), tf.nn.relu6)

# The names of these layers in Keras, where each batch normalization is a separate layer.
KERAS_NAMES = (
    (r"^Conv2d_0(?=/)", "conv1"),
    (r"^Conv2d_(\d+)_depthwise(?=/)", r"conv_dw_\1"),
    (r"^Conv2d_(\d+)_pointwise(?=/)", r"conv_pw_\1"),
    (r"/BatchNorm(?=/)", "_bn"),
)


def mobilenet_v1(
    x: tf.Tensor,
    p: Branch,
    *,
    depth_multiplier: float = 1.0,
    min_depth: int = 8,
    use_explicit_padding: bool = False,
    stem_filters: int = STEM_FILTERS,
    blocks: tuple[tuple[int, int], ...] = BLOCKS,
    style: Style = STYLE,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `Conv2d_0`, then `Conv2d_i_depthwise` and `Conv2d_i_pointwise` of each block."""
    padding = "VALID" if use_explicit_padding else "SAME"

    def depth(filters: int) -> int:
        return max(int(filters * depth_multiplier), min_depth)

    def padded(x: tf.Tensor) -> tf.Tensor:
        return fixed_padding(x, 3) if use_explicit_padding else x

    x = conv(padded(x), p["Conv2d_0"], depth(stem_filters), 3, stride=2, padding=padding, style=style)
    stages = {"Conv2d_0": x}
    for i, (filters, stride) in enumerate(blocks, start=1):
        x = depthwise_conv(padded(x), p[f"Conv2d_{i}_depthwise"], 3, stride=stride, padding=padding, style=style)
        stages[f"Conv2d_{i}_depthwise"] = x
        x = conv(x, p[f"Conv2d_{i}_pointwise"], depth(filters), 1, style=style)
        stages[f"Conv2d_{i}_pointwise"] = x
    return stages
