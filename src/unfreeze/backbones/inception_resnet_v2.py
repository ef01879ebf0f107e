"""Inception-ResNet v2, in two parts: Faster R-CNN crops features between them. Paper arXiv:1602.07261.

Source: slim's nets/inception_resnet_v2.py; models/faster_rcnn_inception_resnet_v2_feature_extractor.py;
keras/applications/inception_resnet_v2.py, models/keras_models/inception_resnet_v2.py.
"""

from __future__ import annotations

import re

import tensorflow as tf

from unfreeze.backbones.inception_towers import Conv, Pool, Row, Towers, layer, mixed
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style
from unfreeze.ops.normalization import BatchNorm

STYLE = Style(BatchNorm(scale=False, decay=0.9997), tf.nn.relu)


def _stem(padding: str) -> dict[str, Row]:
    return {
        "Conv2d_1a_3x3": Conv("Conv2d_1a_3x3", 32, 3, stride=2, padding=padding),
        "Conv2d_2a_3x3": Conv("Conv2d_2a_3x3", 32, 3, padding=padding),
        "Conv2d_2b_3x3": Conv("Conv2d_2b_3x3", 64, 3),
        "MaxPool_3a_3x3": Pool(tf.nn.max_pool2d, stride=2, padding=padding),
        "Conv2d_3b_1x1": Conv("Conv2d_3b_1x1", 80),
        "Conv2d_4a_3x3": Conv("Conv2d_4a_3x3", 192, 3, padding=padding),
        "MaxPool_5a_3x3": Pool(tf.nn.max_pool2d, stride=2, padding=padding),
    }


MIXED_5B: Towers = (
    (Conv("Conv2d_1x1", 96),),
    (Conv("Conv2d_0a_1x1", 48), Conv("Conv2d_0b_5x5", 64, 5)),
    (Conv("Conv2d_0a_1x1", 64), Conv("Conv2d_0b_3x3", 96, 3), Conv("Conv2d_0c_3x3", 96, 3)),
    (Pool(tf.nn.avg_pool2d), Conv("Conv2d_0b_1x1", 64)),
)


def _mixed_6a(stride: int, padding: str) -> Towers:
    return (
        (Conv("Conv2d_1a_3x3", 384, 3, stride, padding),),
        (Conv("Conv2d_0a_1x1", 256), Conv("Conv2d_0b_3x3", 256, 3), Conv("Conv2d_1a_3x3", 384, 3, stride, padding)),
        (Pool(tf.nn.max_pool2d, stride, padding),),
    )


def _mixed_7a(padding: str) -> Towers:
    return (
        (Conv("Conv2d_0a_1x1", 256), Conv("Conv2d_1a_3x3", 384, 3, stride=2, padding=padding)),
        (Conv("Conv2d_0a_1x1", 256), Conv("Conv2d_1a_3x3", 288, 3, stride=2, padding=padding)),
        (
            Conv("Conv2d_0a_1x1", 256),
            Conv("Conv2d_0b_3x3", 288, 3),
            Conv("Conv2d_1a_3x3", 320, 3, stride=2, padding=padding),
        ),
        (Pool(tf.nn.max_pool2d, stride=2, padding=padding),),
    )


# The towers of the residual blocks.
BLOCK35: Towers = (
    (Conv("Conv2d_1x1", 32),),
    (Conv("Conv2d_0a_1x1", 32), Conv("Conv2d_0b_3x3", 32, 3)),
    (Conv("Conv2d_0a_1x1", 32), Conv("Conv2d_0b_3x3", 48, 3), Conv("Conv2d_0c_3x3", 64, 3)),
)


def _block17(rate: int) -> Towers:
    return (
        (Conv("Conv2d_1x1", 192),),
        (
            Conv("Conv2d_0a_1x1", 128),
            Conv("Conv2d_0b_1x7", 160, (1, 7), rate=rate),
            Conv("Conv2d_0c_7x1", 192, (7, 1), rate=rate),
        ),
    )


BLOCK8: Towers = (
    (Conv("Conv2d_1x1", 192),),
    (Conv("Conv2d_0a_1x1", 192), Conv("Conv2d_0b_1x3", 224, (1, 3)), Conv("Conv2d_0c_3x1", 256, (3, 1))),
)


def inception_resnet_v2_first_stage(
    x: tf.Tensor,
    p: Branch,
    *,
    output_stride: int = 16,
    align_feature_maps: bool = True,
) -> dict[str, tf.Tensor]:
    """`[N, H, W, 3] -> stages`: `Conv2d_1a_3x3` to `PreAuxLogits`, which has stride `output_stride` (8 or 16).

    With `align_feature_maps`, convolutions and pools that slim does not pad are padded, as Faster R-CNN needs.
    """
    padding = "SAME" if align_feature_maps else "VALID"
    atrous = output_stride == 8
    stages = {}
    for name, row in _stem(padding).items():
        x = stages[name] = layer(x, p, row, STYLE)
    x = stages["Mixed_5b"] = mixed(x, p["Mixed_5b"], MIXED_5B, STYLE)
    for i in range(1, 11):
        x = _residual(x, p["Repeat"][f"block35_{i}"], BLOCK35, scale=0.17)
    x = stages["Mixed_6a"] = mixed(x, p["Mixed_6a"], _mixed_6a(1 if atrous else 2, padding), STYLE)
    for i in range(1, 21):
        x = _residual(x, p["Repeat_1"][f"block17_{i}"], _block17(2 if atrous else 1), scale=0.10)
    return stages | {"PreAuxLogits": x}


def inception_resnet_v2_second_stage(x: tf.Tensor, p: Branch, *, padding: str = "VALID") -> dict[str, tf.Tensor]:
    """`[N, H, W, 1088] -> stages`: `Mixed_7a` and `Conv2d_7b_1x1`, of features cropped from `PreAuxLogits`.

    `padding` is that of Mixed_7a. Slim's Repeat_2 is named Repeat here, because it is the first Repeat in the scope of
    the second stage.
    """
    stages = {}
    x = stages["Mixed_7a"] = mixed(x, p["Mixed_7a"], _mixed_7a(padding), STYLE)
    for i in range(1, 10):
        x = _residual(x, p["Repeat"][f"block8_{i}"], BLOCK8, scale=0.20)
    x = _residual(x, p["Block8"], BLOCK8, activated=False)
    return stages | {"Conv2d_7b_1x1": layer(x, p, Conv("Conv2d_7b_1x1", 1536), STYLE)}


def keras_first_stage(p: Branch) -> Branch:
    """Returns the first stage of the Keras model under slim's names.

    Few of its layers have names; Keras numbers the others in the order of their creation, which is that of the tables.
    """
    block35 = {f"Repeat/block35_{i}": BLOCK35 for i in range(1, 11)}
    block17 = {f"Repeat_1/block17_{i}": _block17(1) for i in range(1, 21)}
    stem = [row.name for row in _stem("SAME").values() if isinstance(row, Conv)]
    convs = [*stem, *_convs({"Mixed_5b": MIXED_5B, **block35, "Mixed_6a": _mixed_6a(2, "SAME"), **block17})]
    return _of_keras(p, convs, {})


def keras_second_stage(p: Branch) -> Branch:
    """Returns the second stage of the Keras model under slim's names."""
    block8 = {f"Repeat/block8_{i}": BLOCK8 for i in range(1, 10)}
    named = {
        "Block8/Conv2d_1x1": "block8_10_conv",
        "Conv2d_7b_1x1": "conv_7b",
        "Conv2d_7b_1x1/BatchNorm": "conv_7b_bn",
    }
    return _of_keras(p, _convs({"Mixed_7a": _mixed_7a("SAME"), **block8, "Block8": BLOCK8}), named)


def _convs(towers: dict[str, Towers]) -> list[str]:
    return [
        f"{scope}/Branch_{i}/{row.name}"
        for scope, rows_of_scope in towers.items()
        for i, rows in enumerate(rows_of_scope)
        for row in rows
        if isinstance(row, Conv)
    ]


def _of_keras(p: Branch, convs: list[str], named: dict[str, str]) -> Branch:
    """Renames the layers of a Keras model.

    `convs`: slim's names of the layers that Keras numbers. `named`: {slim's name: Keras's name}. The others have names
    such as `block35_1_conv`.
    """
    layers = dict(zip(convs, p.auto_named_layers("conv2d", len(convs)), strict=True))
    norms = [f"{name}/BatchNorm" for name in convs]
    layers |= dict(zip(norms, p.auto_named_layers("freezable_batch_norm", len(convs)), strict=True)) | named

    def layer(match: re.Match[str]) -> str:
        return f"{layers.get(match[1], match[1])}/{match[2]}"

    return p.renamed([(r"^(.+)/(\w+)$", layer), (r"^Repeat(?:_1)?/(\w+)/Conv2d_1x1", r"\1_conv")])


def _residual(x: tf.Tensor, p: Branch, towers: Towers, *, scale: float = 1.0, activated: bool = True) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: x plus `scale` times the projected output of the towers."""
    y = x + _scaled_conv(mixed(x, p, towers, STYLE), p["Conv2d_1x1"], x.shape[3], scale)
    return tf.nn.relu(y) if activated else y


def _scaled_conv(x: tf.Tensor, p: Branch, filters: int, scale: float) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, filters]`: a 1 x 1 convolution times `scale`, folded into its weights."""
    shapes = {"weights": [1, 1, x.shape[3], filters], "biases": [filters]}
    weights = [p.weight(name, shape) for name, shape in shapes.items()]
    kernel, biases = p.derived(lambda: [weight * scale for weight in weights], **shapes)
    return tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), biases)
