"""EfficientNet, as in the Keras model of the TensorFlow Model Garden.

Source: official/legacy/image_classification/efficientnet/efficientnet_model.py of tf-models-official 2.8; paper
arXiv:1905.11946.
"""

from __future__ import annotations

import math
from dataclasses import replace

import tensorflow as tf

from unfreeze.backbones.mobilenet_v2 import divisible
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import SWISH, Style, conv, depthwise_conv
from unfreeze.ops.normalization import BatchNorm

STEM_FILTERS = 32
# (kernel size, units, expansion factor, filters, stride) of stack_0 to stack_6 of b0.
STACKS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 3, 6, 80, 2),
    (5, 3, 6, 112, 1),
    (5, 4, 6, 192, 2),
    (3, 1, 6, 320, 1),
)
# Width and depth relative to b0.
SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
SQUEEZE = 0.25

STYLE = Style(BatchNorm(scale=True, decay=0.99), SWISH)
LINEAR = replace(STYLE, activation=None)
REDUCE = Style(norm=None, activation=SWISH)
GATE = Style(norm=None, activation=tf.sigmoid)


def efficientnet(x: tf.Tensor, p: Branch, width: float, depth: float, *, last: str) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `stack_0/block_0` and so on, up to `last`."""
    x = conv(x, p["stem_conv2d"], _scaled(STEM_FILTERS, width), 3, stride=2, style=STYLE, statistics=p["stem_bn"])
    stages = {}
    for i, (kernel_size, units, expansion, filters, stride) in enumerate(STACKS):
        for unit in range(math.ceil(depth * units)):
            name = f"stack_{i}/block_{unit}"
            x = _unit(x, p[name], kernel_size, expansion, _scaled(filters, width), 1 if unit else stride)
            stages[name] = x
            if name == last:
                return stages
    return stages


def _unit(x: tf.Tensor, p: Branch, kernel_size: int, expansion: int, filters: int, stride: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`: expansion, depthwise convolution, channel weights, projection."""
    channels = x.shape[3]
    y = x
    if expansion != 1:
        y = conv(y, p["expand_conv2d"], channels * expansion, 1, style=STYLE, statistics=p["expand_bn"])
    y = depthwise_conv(y, p["depthwise_conv2d"], kernel_size, stride=stride, style=STYLE, statistics=p["depthwise_bn"])
    y = y * _channel_weights(y, p, max(1, int(channels * SQUEEZE)))
    y = conv(y, p["project_conv2d"], filters, 1, style=LINEAR, statistics=p["project_bn"])
    return x + y if stride == 1 and channels == filters else y


def _channel_weights(x: tf.Tensor, p: Branch, reduced: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, 1, 1, C]`: 0..1, from the mean of each channel."""
    mean = tf.reduce_mean(x, [1, 2], keepdims=True)
    return conv(
        conv(mean, p["se_reduce_conv2d"], reduced, 1, style=REDUCE), p["se_expand_conv2d"], x.shape[3], 1, style=GATE
    )


def _scaled(filters: int, width: float) -> int:
    return divisible(filters * width, 8)
