"""Necks of CenterNet: from the last maps of a backbone to one map at stride 4.

Keras numbers the names of these layers across the whole process, so they are looked up by their order.
Source: object_detection/models/center_net_{resnet,resnet_v1_fpn,mobilenet_v2,mobilenet_v2_fpn}_feature_extractor.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.keras_layers import Norm, conv, conv_transpose, separable_conv
from unfreeze.ops.layers import nearest_neighbor_upsampling
from unfreeze.ops.sizes import image_size

DECONVOLUTION_FILTERS = (256, 128, 64)


def deconvolutions(x: tf.Tensor, p: Branch, *, kernel_size: int) -> tf.Tensor:
    """`[N, h, w, C] -> [N, 8 * h, 8 * w, 64]`: three times a convolution and an upsampling transposed convolution."""
    layers = _layers_after_backbone(p)
    for filters in DECONVOLUTION_FILTERS:
        x = conv(x, next(layers), filters, kernel_size, norm=Norm(next(layers)), activation=tf.nn.relu)
        x = conv_transpose(x, next(layers), filters, norm=Norm(next(layers)), activation=tf.nn.relu)
    return x


def top_down(
    feature_maps: Sequence[tf.Tensor],
    p: Branch,
    filters: Sequence[int],
    *,
    use_separable_conv: bool = False,
    upsampling_interpolation: str = "nearest",
) -> tf.Tensor:
    """Maps at strides 4 to 32 `-> [N, H, W, filters[-1]]`, at stride 4: a feature pyramid with one output.

    `filters`: of the maps at strides 32, 16, 8 and 4 before they are added; the output has the last of them too.
    """
    layers = _layers_after_backbone(p)
    smooth = separable_conv if use_separable_conv else conv
    x = conv(feature_maps[-1], next(layers), filters[0])
    for feature_map, own, after in zip(feature_maps[-2::-1], filters[1:], [*filters[2:], filters[-1]], strict=True):
        x = UPSAMPLINGS[upsampling_interpolation](x) + conv(feature_map, next(layers), own)
        x = smooth(x, next(layers), after, 3, norm=Norm(next(layers)), activation=tf.nn.relu)
    return x


def _doubled_bilinear(x: tf.Tensor) -> tf.Tensor:
    height, width = image_size(x)
    return tf.image.resize(x, [2 * height, 2 * width], "bilinear")


UPSAMPLINGS = {"nearest": lambda x: nearest_neighbor_upsampling(x, 2), "bilinear": _doubled_bilinear}


def _layers_after_backbone(p: Branch) -> Iterator[Branch]:
    """Yields the layers of a model whose first layer is its backbone."""
    return (p[f"layer_with_weights-{i}"] for i in count(1))
