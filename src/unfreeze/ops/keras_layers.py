"""Keras's convolutions at inference, with normalization and activation.

The names of the weights are the attributes of Keras's layers: `kernel`, `bias`, `depthwise_kernel`,
`pointwise_kernel`, and `gamma`, `beta`, `moving_mean`, `moving_variance`. Normalization is a separate layer in Keras;
here it is an argument of the convolution before it, and folded into its kernel when the model is loaded.
Source: keras/layers/{convolutional,normalization}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import conv2d
from unfreeze.ops.normalization import BatchNorm, Folded, add_bias, folded
from unfreeze.ops.sizes import image_size, pair

Activation = Callable[[tf.Tensor], tf.Tensor]

# The defaults of Keras's layer, whose `momentum` is the decay.
KERAS_NORM = BatchNorm(scale=True, decay=0.99)


@dataclass(frozen=True)
class Norm:
    """A layer of batch normalization: its weights and options."""

    p: Branch
    options: BatchNorm = KERAS_NORM


def conv(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    padding: str = "SAME",
    bias: bool = True,
    norm: Norm | None = None,
    activation: Activation | None = None,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`: Conv2D."""
    layer = _folded(p, "kernel", [*pair(kernel_size), x.shape[3], filters], 3, bias, norm)
    return conv2d(x, layer.kernel, stride, padding, finish=lambda y: _finish(y, layer, activation))


def conv_at(
    x: tf.Tensor,
    places: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int | tuple[int, int] = 1,
    *,
    activation: Activation | None = None,
) -> tf.Tensor:
    """`[N, H, W, C], [N, ..., 2] -> [N, ..., filters]`: the values of `conv` only at locations (y, x)."""
    height, width = pair(kernel_size)
    channels = x.shape[3]
    layer = _folded(p, "kernel", [height, width, channels, filters], 3, True, None)
    top, left = (height - 1) // 2, (width - 1) // 2
    framed = tf.pad(x, [[0, 0], [top, height - 1 - top], [left, width - 1 - left], [0, 0]])
    window = np.moveaxis(np.mgrid[:height, :width], 0, -1).astype(np.int32)
    around = tf.gather_nd(framed, places[..., tf.newaxis, tf.newaxis, :] + window, batch_dims=1)
    return _finish(tf.tensordot(around, layer.kernel, 3), layer, activation)


def pointwise(x: tf.Tensor, p: Branch, filters: int) -> tf.Tensor:
    """`[..., C] -> [..., filters]`: a 1 x 1 Conv2D of pixels in any arrangement."""
    layer = _folded(p, "kernel", [1, 1, x.shape[-1], filters], 3, True, None)
    return _finish(tf.tensordot(x, tf.reshape(layer.kernel, [-1, filters]), 1), layer, None)


def separable_conv(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int | tuple[int, int] = 3,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, filters]`: SeparableConv2D."""
    channels = x.shape[3]
    depthwise = p.weight("depthwise_kernel", [*pair(kernel_size), channels, 1])
    y = tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME")
    layer = _folded(p, "pointwise_kernel", [1, 1, channels, filters], 3, True, norm)
    return conv2d(y, layer.kernel, finish=lambda y: _finish(y, layer, activation))


def conv_transpose(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int = 3,
    *,
    stride: int = 2,
    norm: Norm | None = None,
    activation: Activation | None = None,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, stride * H, stride * W, filters]`: Conv2DTranspose with padding "same"."""
    layer = _folded(p, "kernel", [kernel_size, kernel_size, filters, x.shape[3]], 2, True, norm)
    height, width = image_size(x)
    shape = tf.stack([tf.shape(x)[0], height * stride, width * stride, filters])
    return _finish(tf.nn.conv2d_transpose(x, layer.kernel, shape, stride, "SAME"), layer, activation)


def padded(x: tf.Tensor, by: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H + 2 * by, W + 2 * by, C]`: ZeroPadding2D."""
    return tf.pad(x, [[0, 0], [by, by], [by, by], [0, 0]])


def _folded(p: Branch, name: str, shape: list[int], axis: int, bias: bool, norm: Norm | None) -> Folded:
    """Returns the kernel of a layer with its bias and normalization; `axis` is that of the output channels."""
    kernel = p.weight(name, shape)
    biases = p.weight("bias", [shape[axis]]) if bias else None
    if norm is None:
        return Folded(kernel, lambda y: add_bias(y, biases))
    return folded(kernel, biases, norm.p, norm.options, axis=axis, shape=shape, name="kernel")


def _finish(y: tf.Tensor, layer: Folded, activation: Activation | None) -> tf.Tensor:
    y = layer.then(y)
    return y if activation is None else activation(y)
