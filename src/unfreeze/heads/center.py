"""The heads of CenterNet: a few convolutions on the backbone's map for each thing that is predicted.

Source: object_detection/meta_architectures/center_net_meta_arch.py (make_prediction_net).
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from unfreeze.ops.keras_layers import conv, separable_conv
from unfreeze.ops.layers import Branch


@dataclass(frozen=True)
class Head:
    """One head: how many channels it gives, and the convolutions before (a `PredictionHeadParams` message).

    `unit_height`: their kernels are only one pixel high, as those of DeepMAC's embeddings are.
    """

    channels: int
    num_filters: tuple[int, ...] = (256,)
    kernel_sizes: tuple[int, ...] = (3,)
    unit_height: bool = False


def prediction_net(features: tf.Tensor, p: Branch, head: Head, *, use_depthwise: bool = False) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, head.channels]`."""
    for i, (filters, kernel_size) in enumerate(zip(head.num_filters, head.kernel_sizes, strict=True)):
        layer = p[f"layer_with_weights-{i}"]
        kernel = (1 if head.unit_height else kernel_size, kernel_size)
        features = (separable_conv if use_depthwise else conv)(features, layer, filters, kernel, activation=tf.nn.relu)
    return conv(features, p[f"layer_with_weights-{len(head.num_filters)}"], head.channels)
