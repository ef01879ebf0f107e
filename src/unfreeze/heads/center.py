"""The heads of CenterNet: a few convolutions on the features for each kind of prediction.

Source: object_detection/meta_architectures/center_net_meta_arch.py (make_prediction_net).
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.heatmaps import SparseMap
from unfreeze.ops.keras_layers import conv, conv_at, pointwise, separable_conv
from unfreeze.ops.sizes import image_size


@dataclass(frozen=True)
class Head:
    """A head: its output channels, and the convolutions before the last (a `PredictionHeadParams` message).

    `unit_height`: whether the kernels are only one pixel high, as for DeepMAC's embeddings. `at_peaks`: whether its map
    is used only at the peaks of a heatmap.
    """

    channels: int
    num_filters: tuple[int, ...] = (256,)
    kernel_sizes: tuple[int, ...] = (3,)
    unit_height: bool = False
    at_peaks: bool = False


def prediction_net(features: tf.Tensor, p: Branch, head: Head, *, use_depthwise: bool = False) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, head.channels]`."""
    for i, (filters, kernel_size) in enumerate(zip(head.num_filters, head.kernel_sizes, strict=True)):
        layer = p[f"layer_with_weights-{i}"]
        kernel = (1 if head.unit_height else kernel_size, kernel_size)
        features = (separable_conv if use_depthwise else conv)(features, layer, filters, kernel, activation=tf.nn.relu)
    return conv(features, p[f"layer_with_weights-{len(head.num_filters)}"], head.channels)


def sparse_prediction_net(features: tf.Tensor, p: Branch, head: Head) -> SparseMap:
    """Returns the map of a head of one hidden convolution, which is computed only at the pixels that are used."""
    [filters], [kernel_size] = head.num_filters, head.kernel_sizes

    def at(places: tf.Tensor) -> tf.Tensor:
        hidden = conv_at(features, places, p["layer_with_weights-0"], filters, kernel_size, activation=tf.nn.relu)
        return pointwise(hidden, p["layer_with_weights-1"], head.channels)

    return SparseMap(image_size(features), head.channels, at)
