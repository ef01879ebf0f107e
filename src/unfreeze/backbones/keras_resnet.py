"""ResNet v1 and v2 of keras.applications, and ResNet-18 and 34 of basic blocks with the normalization first.

They differ from slim's (resnet_v1.py) by biases and explicit padding, and v1 has its strides in the first convolution
of a block.
Source: keras/applications/{resnet,resnet_v2}.py; object_detection/models/keras_models/resnet_v1.py (18 and 34).
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.keras_layers import Norm, conv, padded
from unfreeze.ops.normalization import BatchNorm, batch_norm

STEM_FILTERS = 64
# Filters of conv2 to conv5; the output of a bottleneck is four times as deep.
FILTERS = (64, 128, 256, 512)
UNITS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
NORM = BatchNorm(scale=True, epsilon=1.001e-5, decay=0.99)


def resnet_v1_with_biases(x: tf.Tensor, p: Branch, units: Sequence[int]) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `conv2` to `conv5`, at strides 4 to 32."""
    x = conv(
        padded(x, 3), p["conv1_conv"], STEM_FILTERS, 7, stride=2, padding="VALID",
        norm=_norm(p["conv1_bn"]), activation=tf.nn.relu,
    )  # fmt: skip
    x = _pool(x)
    stages = {}
    for i, (filters, count) in enumerate(zip(FILTERS, units, strict=True), start=2):
        for unit in range(1, count + 1):
            stride = 2 if unit == 1 and i > 2 else 1
            x = _bottleneck_v1(x, p, f"conv{i}_block{unit}", filters, stride, conv_shortcut=unit == 1)
        stages[f"conv{i}"] = x
    return stages


def resnet_v2(x: tf.Tensor, p: Branch, units: Sequence[int]) -> tf.Tensor:
    """`[N, H, W, 3] -> [N, H / 32, W / 32, 2048]`: without the last normalization, which CenterNet does not use."""
    x = _pool(conv(padded(x, 3), p["conv1_conv"], STEM_FILTERS, 7, stride=2, padding="VALID"))
    for i, (filters, count) in enumerate(zip(FILTERS, units, strict=True), start=2):
        for unit in range(1, count + 1):
            stride = 2 if unit == count and i < 5 else 1
            x = _bottleneck_v2(x, p, f"conv{i}_block{unit}", filters, stride, conv_shortcut=unit == 1)
    p["post_bn"].ignore()
    return x


def basic_resnet(x: tf.Tensor, p: Branch, units: Sequence[int]) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `conv2` to `conv5`, at strides 4 to 32, of ResNet-18 or 34."""
    x = _pool(conv(padded(x, 3), p["conv1_conv"], STEM_FILTERS, 7, stride=2, padding="VALID"))
    stages = {}
    for i, (filters, count) in enumerate(zip(FILTERS, units, strict=True), start=2):
        x = stages[f"conv{i}"] = basic_stack(x, p, f"conv{i}", filters, count, stride=1 if i == 2 else 2)
    p["post_bn"].ignore()
    return stages


def basic_stack(x: tf.Tensor, p: Branch, name: str, filters: int, blocks: int, *, stride: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`: `NAME_block1` to the last, which has the stride."""
    for block in range(1, blocks + 1):
        x = _basic_block(
            x, p, f"{name}_block{block}", filters, stride if block == blocks else 1, conv_shortcut=block == 1
        )
    return x


def _bottleneck_v1(x: tf.Tensor, p: Branch, name: str, filters: int, stride: int, *, conv_shortcut: bool) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, 4 * filters]`."""

    def layer(x: tf.Tensor, part: str, filters: int, kernel_size: int = 1, stride: int = 1) -> tf.Tensor:
        return conv(
            x, p[f"{name}_{part}_conv"], filters, kernel_size, stride=stride, norm=_norm(p[f"{name}_{part}_bn"])
        )

    shortcut = layer(x, "0", 4 * filters, stride=stride) if conv_shortcut else x
    y = tf.nn.relu(layer(x, "1", filters, stride=stride))
    y = tf.nn.relu(layer(y, "2", filters, 3))
    return tf.nn.relu(shortcut + layer(y, "3", 4 * filters))


def _bottleneck_v2(x: tf.Tensor, p: Branch, name: str, filters: int, stride: int, *, conv_shortcut: bool) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, 4 * filters]`: normalization and activation come before a convolution."""
    before = tf.nn.relu(batch_norm(x, p[f"{name}_preact_bn"], NORM))
    shortcut = conv(before, p[f"{name}_0_conv"], 4 * filters) if conv_shortcut else _subsampled(x, stride)
    y = _normalized_conv(before, p, f"{name}_1", filters, 1)
    y = _normalized_conv(padded(y, 1), p, f"{name}_2", filters, 3, stride)
    return shortcut + conv(y, p[f"{name}_3_conv"], 4 * filters)


def _basic_block(x: tf.Tensor, p: Branch, name: str, filters: int, stride: int, *, conv_shortcut: bool) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`."""
    before = tf.nn.relu(batch_norm(x, p[f"{name}_preact_bn"], NORM))
    shortcut = conv(before, p[f"{name}_0_conv"], filters) if conv_shortcut else _subsampled(x, stride)
    y = _normalized_conv(padded(before, 1), p, f"{name}_1", filters, 3)
    return shortcut + _normalized_conv(padded(y, 1), p, f"{name}_2", filters, 3, stride)


def _normalized_conv(x: tf.Tensor, p: Branch, name: str, filters: int, kernel_size: int, stride: int = 1) -> tf.Tensor:
    return conv(
        x, p[f"{name}_conv"], filters, kernel_size, stride=stride, padding="VALID", bias=False,
        norm=_norm(p[f"{name}_bn"]), activation=tf.nn.relu,
    )  # fmt: skip


def _pool(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool2d(padded(x, 1), 3, 2, "VALID")


def _subsampled(x: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns every `stride`th pixel of each row and column."""
    return x if stride == 1 else tf.nn.max_pool2d(x, 1, stride, "VALID")


def _norm(p: Branch) -> Norm:
    return Norm(p, NORM)
