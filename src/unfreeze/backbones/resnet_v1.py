"""ResNet v1 of bottleneck units: slim's, and Keras's with the changes of the Object Detection API.

Slim's blocks have the stride in their last unit. Keras's have it in their first unit, as in the paper, and there in the
first convolution.
Source: slim's nets/{resnet_v1,resnet_utils}.py; keras/applications/resnet.py with
object_detection/models/keras_models/resnet_v1.py; paper arXiv:1512.03385.
"""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf

from unfreeze.errors import ConfigError
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, activated, conv, fixed_padding
from unfreeze.ops.normalization import BatchNorm

STEM_FILTERS = 64
# (base depth, stride) of block1 to block4; the output of a unit is four times as deep.
BLOCKS = ((64, 2), (128, 2), (256, 2), (512, 1))
UNITS = {
    "resnet_v1_50": (3, 4, 6, 3),
    "resnet_v1_101": (3, 4, 23, 3),
    "resnet_v1_152": (3, 8, 36, 3),
}

# resnet_arg_scope's defaults, which Faster R-CNN, R-FCN and Mask R-CNN use as they are.
STYLE = Style(BatchNorm(scale=True, epsilon=1e-5, decay=0.997), tf.nn.relu)
KERAS_STYLE = replace(STYLE, biases=False)  # whatever hyperparameters a config has

# The layers of a unit in the order in which a Keras model numbers them: by their distance from its end.
KERAS_ORDER = ("1_conv", "1_bn", "2_conv", "2_bn", "0_conv", "3_conv", "0_bn", "3_bn")
KERAS_ORDER_WITHOUT_SHORTCUT = tuple(layer for layer in KERAS_ORDER if not layer.startswith("0_"))


def resnet_v1(
    x: tf.Tensor,
    p: Branch,
    units: tuple[int, ...],
    *,
    output_stride: int | None = None,
    store_non_strided_activations: bool = False,
    depth_multiplier: float = 1.0,
    min_base_depth: int = 8,
    style: Style = STYLE,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `conv1`, `pool1`, `block1` and so on: a block for each number in `units`.

    Args:
        units: a value of UNITS, or its first numbers.
        output_stride: 8 or 16 keeps later blocks at that stride, with atrous convolutions; None does not.
        store_non_strided_activations: whether the stage of a block is its output before the stride (4, 8, 16, 32).
    """
    x = _conv_same(x, p["conv1"], STEM_FILTERS, 7, stride=2, style=style)
    stages = {"conv1": x}
    x = stages["pool1"] = tf.nn.max_pool2d(x, 3, 2, "SAME")
    current_stride, rate = 4, 1
    for i, ((base_depth, stride), count) in enumerate(zip(BLOCKS, units, strict=False), start=1):
        at_output_stride = current_stride == output_stride
        last_stride = 1 if at_output_stride else stride
        depth = max(int(base_depth * depth_multiplier), min_base_depth)
        x = resnet_v1_block(
            x,
            p[f"block{i}"],
            depth,
            count,
            stride=1 if store_non_strided_activations else last_stride,
            rate=rate,
            style=style,
        )
        stages[f"block{i}"] = x
        if store_non_strided_activations:
            x = _subsampled(x, last_stride)
        if at_output_stride:
            rate *= stride
        else:
            current_stride *= stride
    return stages


def resnet_v1_block(
    x: tf.Tensor, p: Branch, base_depth: int, units: int, *, stride: int = 1, rate: int = 1, style: Style = STYLE
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, 4 * base_depth]`: `unit_1` to the last, which has the stride."""
    for i in range(1, units + 1):
        x = _bottleneck(x, p[f"unit_{i}"]["bottleneck_v1"], base_depth, stride if i == units else 1, rate, style)
    return x


def keras_resnet_v1(
    x: tf.Tensor,
    p: Branch,
    units: tuple[int, ...],
    *,
    depth_multiplier: float = 1.0,
    min_depth: int = 8,
    style: Style = STYLE,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `block1` (Keras's conv2) and so on, a block for each number in `units`."""

    def depth(filters: int) -> int:
        return max(int(filters * depth_multiplier), min_depth)

    style = replace(style, biases=False, biases_before_norm=False)
    p.declare_layer_order("conv1_conv", "conv1_bn")
    x = _conv_same(x, p["conv1_conv"], depth(STEM_FILTERS), 7, stride=2, style=style, statistics=p["conv1_bn"])
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    stages = {}
    for i, ((base_depth, _), count) in enumerate(zip(BLOCKS, units, strict=False), start=1):
        depths = depth(base_depth), depth(4 * base_depth)
        x = keras_resnet_v1_block(x, p, f"conv{i + 1}", depths, count, stride=1 if i == 1 else 2, style=style)
        stages[f"block{i}"] = x
    return stages


def keras_resnet_v1_block(
    x: tf.Tensor, p: Branch, name: str, depths: tuple[int, int], units: int, *, stride: int, style: Style = KERAS_STYLE
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, depths[1]]`: the units `NAME_block1`, which has the stride, to the last."""
    x = _keras_bottleneck(x, p, f"{name}_block1", depths, stride, style, conv_shortcut=True)
    for unit in range(2, units + 1):
        x = _keras_bottleneck(x, p, f"{name}_block{unit}", depths, 1, style, conv_shortcut=False)
    return x


def overridden(style: Style) -> Style:
    """Returns the style of a backbone whose hyperparameters the config overrides.

    Epsilon, scale and decay remain those of resnet_arg_scope, which passes them to each convolution
    (normalizer_params): that has precedence over the config's batch_norm.

    Raises:
        ConfigError: the style has group_norm, which does not accept these parameters.
    """
    if style.norm is None:
        return style
    if not isinstance(style.norm, BatchNorm):
        raise ConfigError(
            "feature_extractor: group_norm is not supported for the layers of a ResNet backbone; set "
            "override_base_feature_extractor_hyperparams: false (the Object Detection API rejects it too)"
        )
    return Style(replace(style.norm, scale=True, epsilon=1e-5, decay=0.997), style.activation)


def _bottleneck(x: tf.Tensor, p: Branch, base_depth: int, stride: int, rate: int, style: Style) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, 4 * base_depth]`: three convolutions beside a shortcut."""
    depth = 4 * base_depth
    linear = replace(style, activation=None)
    if x.shape[3] == depth:
        shortcut = _subsampled(x, stride)
    else:
        shortcut = conv(x, p["shortcut"], depth, 1, stride=stride, style=linear)
    y = conv(x, p["conv1"], base_depth, 1, style=style)
    y = _conv_same(y, p["conv2"], base_depth, 3, stride=stride, rate=rate, style=style)
    y = conv(y, p["conv3"], depth, 1, style=linear)
    return p.quantizer("act_quant")(tf.nn.relu(shortcut + y))  # always relu, whatever the style


def _keras_bottleneck(
    x: tf.Tensor, p: Branch, name: str, depths: tuple[int, int], stride: int, style: Style, *, conv_shortcut: bool
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, depths[1]]`: three convolutions without biases beside a shortcut."""
    p.declare_layer_order(
        *(f"{name}_{layer}" for layer in (KERAS_ORDER if conv_shortcut else KERAS_ORDER_WITHOUT_SHORTCUT))
    )
    linear = replace(style, activation=None)

    def layer(x: tf.Tensor, part: int, filters: int, kernel_size: int, stride: int, style: Style) -> tf.Tensor:
        statistics = p[f"{name}_{part}_bn"]
        return conv(
            x, p[f"{name}_{part}_conv"], filters, kernel_size, stride=stride, style=style, statistics=statistics
        )

    shortcut = layer(x, 0, depths[1], 1, stride, linear) if conv_shortcut else x
    y = layer(x, 1, depths[0], 1, stride, style)
    y = layer(y, 2, depths[0], 3, 1, style)
    y = layer(y, 3, depths[1], 1, 1, linear)
    return activated(shortcut + y, p, style.activation)


def _conv_same(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int,
    *,
    stride: int,
    rate: int = 1,
    style: Style,
    statistics: Branch | None = None,
) -> tf.Tensor:
    """Returns a convolution whose padding does not depend on the stride."""
    if stride == 1:
        return conv(x, p, filters, kernel_size, rate=rate, style=style, statistics=statistics)
    padded = fixed_padding(x, kernel_size, rate)
    return conv(
        padded, p, filters, kernel_size, stride=stride, rate=rate, padding="VALID", style=style, statistics=statistics
    )


def _subsampled(x: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns every `stride`th pixel of each row and column."""
    return x if stride == 1 else tf.nn.max_pool2d(x, 1, stride, "SAME")
