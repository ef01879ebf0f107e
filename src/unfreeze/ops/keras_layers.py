"""Convolutions with their normalization and activation, as Keras's layers compute them at inference.

A layer takes its weights by the names of its attributes: `kernel`, `bias`, `depthwise_kernel`, `pointwise_kernel`, and
`gamma`, `beta`, `moving_mean`, `moving_variance`. Normalization is a layer of its own there; here it is named with the
convolution before it, and multiplied into its kernel when the model is loaded.
Source: keras/layers/{convolutional,normalization}.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.ops.layers import MIN_EPSILON, Branch
from unfreeze.ops.sizes import image_size

Activation = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Norm:
    """A layer of batch normalization: its weights, and its epsilon; a fused one takes none below MIN_EPSILON."""

    p: Branch
    epsilon: float = 0.001
    fused: bool = True

    def scale_and_offset(self, channels: int) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
        """What computes it as `x * scale + offset`, both `[channels]`."""
        return self.p.normalization(
            mean=self.p.weight("moving_mean", [channels], trainable=False),
            variance=self.p.weight("moving_variance", [channels], trainable=False),
            gamma=self.p.weight("gamma", [channels]),
            beta=self.p.weight("beta", [channels]),
            epsilon=max(self.epsilon, MIN_EPSILON) if self.fused else self.epsilon,
        )


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
    kernel, offset = _folded(p, "kernel", [*_pair(kernel_size), x.shape[3], filters], 3, bias, norm)
    return _finish(tf.nn.conv2d(x, kernel, stride, padding), offset, activation)


def conv_at(
    x: tf.Tensor,
    places: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int | tuple[int, int] = 1,
    *,
    activation: Activation | None = None,
) -> tf.Tensor:
    """`[N, H, W, C], [N, ..., 2] -> [N, ..., filters]`: what `conv` gives at places (y, x), computed only there."""
    height, width = _pair(kernel_size)
    channels = x.shape[3]
    kernel, offset = _folded(p, "kernel", [height, width, channels, filters], 3, True, None)
    top, left = (height - 1) // 2, (width - 1) // 2
    framed = tf.pad(x, [[0, 0], [top, height - 1 - top], [left, width - 1 - left], [0, 0]])
    window = np.moveaxis(np.mgrid[:height, :width], 0, -1).astype(np.int32)
    around = tf.gather_nd(framed, places[..., tf.newaxis, tf.newaxis, :] + window, batch_dims=1)
    return _finish(tf.tensordot(around, kernel, 3), offset, activation)


def pointwise(x: tf.Tensor, p: Branch, filters: int) -> tf.Tensor:
    """`[..., C] -> [..., filters]`: Conv2D of single pixels, however these are arranged."""
    kernel, offset = _folded(p, "kernel", [1, 1, x.shape[-1], filters], 3, True, None)
    return _finish(tf.tensordot(x, kernel[0, 0], 1), offset, None)


def separable_conv(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int | tuple[int, int] = 3,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, filters]`: SeparableConv2D, with nothing between the two."""
    channels = x.shape[3]
    depthwise = p.weight("depthwise_kernel", [*_pair(kernel_size), channels, 1])
    y = tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME")
    kernel, offset = _folded(p, "pointwise_kernel", [1, 1, channels, filters], 3, True, norm)
    return _finish(tf.nn.conv2d(y, kernel, 1, "SAME"), offset, activation)


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
    kernel, offset = _folded(p, "kernel", [kernel_size, kernel_size, filters, x.shape[3]], 2, True, norm)
    height, width = image_size(x)
    shape = tf.stack([tf.shape(x)[0], height * stride, width * stride, filters])
    return _finish(tf.nn.conv2d_transpose(x, kernel, shape, stride, "SAME"), offset, activation)


def batch_norm(x: tf.Tensor, norm: Norm) -> tf.Tensor:
    """`[..., C] -> [..., C]`: normalization that stands alone, without a convolution to fold it into."""
    channels = x.shape[-1]
    scale, offset = norm.p.derived(norm.scale_and_offset(channels), scale=[channels], offset=[channels])
    return x * scale + offset


def padded(x: tf.Tensor, by: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H + 2 * by, W + 2 * by, C]`: ZeroPadding2D."""
    return tf.pad(x, [[0, 0], [by, by], [by, by], [0, 0]])


def _folded(p: Branch, name: str, shape: list[int], scale_axis: int, bias: bool, norm: Norm | None) -> tuple[Any, Any]:
    """The kernel and what to add, normalization in both."""
    channels = shape[scale_axis]
    kernel = p.weight(name, shape)
    offset = p.weight("bias", [channels]) if bias else None
    if norm is None:
        return kernel, offset
    normalization = norm.scale_and_offset(channels)

    def fold() -> tuple[tf.Tensor, tf.Tensor]:
        scale, shift = normalization()
        axes = [1, 1, channels, 1] if scale_axis == 2 else [channels]
        return kernel * tf.reshape(scale, axes), shift if offset is None else offset * scale + shift

    folded = norm.p.derived(fold, kernel=shape, bias=[channels])
    return folded[0], folded[1]


def _finish(y: tf.Tensor, offset: Any, activation: Activation | None) -> tf.Tensor:
    if offset is not None:
        y = tf.nn.bias_add(y, offset)
    return y if activation is None else activation(y)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
