"""tf_slim's convolutions at inference, with normalization and activation.

A layer takes its weights from a branch `p` of the checkpoint, by slim's names: `weights`, `depthwise_weights`,
`pointwise_weights`, `biases`, and `BatchNorm/{gamma,beta,moving_mean,moving_variance}`. In TensorFlow 2 checkpoints the
branch maps them to Keras's names (`kernel` and so on), and `statistics` is the layer of the batch normalization, which
is separate there.
Source: tf_slim/layers/layers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.normalization import BatchNorm, Folded, add_bias, folded
from unfreeze.ops.sizes import image_size, pair
from unfreeze.ops.winograd import NUM_POINTS, winograd_conv, winograd_kernel


@dataclass(frozen=True)
class GroupNorm:
    """Group normalization with slim's defaults; a pipeline.config cannot change them."""

    groups: int = 32
    epsilon: float = 1e-6


@dataclass(frozen=True)
class Composite:
    """An activation of several operations; in a quantization-aware model each of them has a FakeQuant."""

    call: Callable[[tf.Tensor, Branch], tf.Tensor]


Activation = Callable[[tf.Tensor], tf.Tensor] | Composite

SLIM_NORM = BatchNorm()


@dataclass(frozen=True)
class Style:
    """The operations after a convolution: biases or normalization, then the activation.

    `biases`: whether there are biases if there is no norm. `biases_before_norm`: whether there are biases if there is a
    norm, as Keras layers may have. `quantized`: whether a FakeQuant follows in a quantization-aware model. `winograd`:
    whether 3 x 3 convolutions of small maps of a known size use Winograd's algorithm, which is faster for many crops.
    """

    norm: BatchNorm | GroupNorm | None = SLIM_NORM
    activation: Activation | None = tf.nn.relu6
    biases: bool = True
    quantized: bool = True
    biases_before_norm: bool = False
    winograd: bool = False


PLAIN = Style(norm=None, activation=None)

# The most pixels of a map for `winograd_conv`, which transforms it by one matrix. (In R-FCN the second stage runs on
# the map of the whole image.)
LARGEST_CROP = 16 * 16

# Activations that an integer convolution computes too, so that its FakeQuant comes after them.
# Source: tf.contrib.quantize of TensorFlow 1.15, python/quantize.py, _ACTIVATION_TYPES.
FUSED = (None, tf.nn.relu, tf.nn.relu6)
SWISH = Composite(lambda x, p: p["mul"].quantizer("activation_Mul_quant")(x * tf.sigmoid(x)))


def conv(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    rate: int = 1,
    padding: str = "SAME",
    style: Style = PLAIN,
    statistics: Branch | None = None,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`: convolution, normalization, activation.

    `statistics`: the scope of the weights of batch normalization, by default `BatchNorm`.
    """
    shape = [*pair(kernel_size), x.shape[3], filters]
    if _suits_winograd(x, style) and (shape[:2], stride, rate, padding) == ([3, 3], 1, 1, "SAME"):
        layer = _folded(p, "weights", shape, style, axis=3, statistics=statistics, at_points=True)
        return _finish(winograd_conv(x, layer.kernel), layer, p, style)
    layer = _folded(p, "weights", shape, style, axis=3, statistics=statistics)
    return _convolved(x, layer, p, style, stride, padding, rate)


def depthwise_conv(
    x: tf.Tensor,
    p: Branch,
    kernel_size: int | tuple[int, int] = 3,
    *,
    stride: int = 1,
    rate: int = 1,
    padding: str = "SAME",
    style: Style = PLAIN,
    statistics: Branch | None = None,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, C]`: one filter for each channel.

    `statistics`: the scope of the weights of batch normalization, by default `BatchNorm`.
    """
    shape = [*pair(kernel_size), x.shape[3], 1]
    layer = _folded(p, "depthwise_weights", shape, style, axis=2, statistics=statistics)
    return _finish(_depthwise(x, layer.kernel, stride, rate, padding), layer, p, style)


def separable_conv(
    x: tf.Tensor,
    p: Branch,
    filters: int,
    kernel_size: int | tuple[int, int] = 3,
    *,
    stride: int = 1,
    depth_multiplier: int = 1,
    padding: str = "SAME",
    style: Style = PLAIN,
    statistics: Branch | None = None,
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, filters]`: a depthwise convolution directly followed by a 1 x 1 convolution.

    `statistics`: the scope of the weights of batch normalization, by default `BatchNorm`.
    """
    channels = x.shape[3]
    first = p.scoped("", operations="separable_conv2d")
    depthwise = first.quantized_weight("depthwise_weights", [*pair(kernel_size), channels, depth_multiplier])
    y = first.quantizer("act_quant")(_depthwise(x, depthwise, stride, 1, padding))
    shape = [1, 1, channels * depth_multiplier, filters]
    layer = _folded(p, "pointwise_weights", shape, style, axis=3, statistics=statistics)
    return _convolved(y, layer, p, style)


def conv2d(
    x: tf.Tensor,
    kernel: Any,
    stride: int = 1,
    padding: str = "SAME",
    rate: int = 1,
    finish: Callable[[tf.Tensor], tf.Tensor] = lambda y: y,
) -> tf.Tensor:
    """`[N, H, W, C], [kh, kw, C, F] -> [N, h, w, F]`: a convolution, then `finish`, which acts on single pixels."""
    if not is_product(kernel, stride):
        return finish(tf.nn.conv2d(x, kernel, stride, padding, dilations=rate))
    channels, filters = kernel.shape[2:]
    pixels = finish(tf.matmul(tf.reshape(x, [-1, channels]), tf.reshape(kernel, [channels, filters])))
    y = tf.reshape(pixels, [-1, *image_size(x), filters])
    y.set_shape([*x.shape[:3], filters])
    return y


def is_product(kernel: Any, stride: int) -> bool:
    """Returns whether a convolution is computed as a matrix product of pixels and kernel, fused with what follows.

    With oneDNN, a convolution whose kernel is not a constant takes 20 ns longer for each value that it returns, a
    product does not (150 x 150 x 16 -> 96 with AVX2: 34 to 50 ms instead of 5). With constant kernels, and without
    oneDNN, both are equally fast in TensorFlow. Other runtimes, whose kernels are constants, move channels to the front
    for a convolution and to the end for a product, which takes longer than either (benchmarks/RESULTS.md).
    """
    return tf.is_tensor(kernel) and tuple(kernel.shape[:2]) == (1, 1) and stride == 1


def fully_connected(x: tf.Tensor, p: Branch, units: int, *, style: Style = PLAIN) -> tf.Tensor:
    """`[N, C] -> [N, units]`."""
    layer = _folded(p, "weights", [x.shape[1], units], style, axis=1)
    return _finish(tf.matmul(x, layer.kernel), layer, p, style)


def resized_conv(x: tf.Tensor, p: Branch, filters: int, size: tuple[int, int], *, style: Style = PLAIN) -> tf.Tensor:
    """`[N, h, w, C] -> [N, *size, filters]`: a bilinear resize with aligned corners, then a 3 x 3 convolution.

    Both are linear: the channels are mixed on the small map, by all nine taps of the kernel, and the taps are resized
    and moved to their positions afterwards. That saves work by up to the ratio of the two sizes.
    """
    height, width, channels = x.shape[1:]
    layer = _folded(p, "weights", [3, 3, channels, filters], style, axis=3)
    taps = tf.matmul(
        tf.reshape(x, [-1, height * width, channels]),
        tf.reshape(tf.transpose(layer.kernel, [2, 0, 1, 3]), [channels, 9 * filters]),
    )
    across = tf.tensordot(_resized_taps(height, size[0]), _resized_taps(width, size[1]), 0)
    places = tf.reshape(tf.transpose(across, [0, 3, 1, 4, 2, 5]), [size[0] * size[1], height * width * 9])
    y = tf.matmul(places, tf.reshape(taps, [-1, height * width * 9, filters]))
    return _finish(tf.reshape(y, [-1, *size, filters]), layer, p, style)


def group_norm(x: tf.Tensor, p: Branch, norm: GroupNorm) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: group normalization, over height, width and the channels of a group."""
    channels = x.shape[3]
    shape = tf.shape(x)
    grouped = tf.reshape(x, [shape[0], shape[1], shape[2], norm.groups, channels // norm.groups])
    mean, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
    normal = tf.reshape((grouped - mean) * tf.math.rsqrt(variance + norm.epsilon), shape)
    return tf.ensure_shape(normal, x.shape) * p.weight("gamma", [channels]) + p.weight("beta", [channels])


def fixed_padding(x: tf.Tensor, kernel_size: int, rate: int = 1) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H + k - 1, W + k - 1, C]`: the padding of a stride-1 "SAME" kernel, whatever the stride."""
    total = (kernel_size - 1) * rate
    before = total // 2
    edge = [before, total - before]
    return tf.pad(x, [[0, 0], edge, edge, [0, 0]])


def pad_to_multiple(x: tf.Tensor, multiple: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, C]`: padded with zeros below and to the right to multiples of `multiple`."""
    if multiple == 1:
        return x
    height, width = (x.shape[axis] if x.shape[axis] is not None else tf.shape(x)[axis] for axis in (1, 2))
    return tf.pad(x, [[0, 0], [0, -height % multiple], [0, -width % multiple], [0, 0]])


def nearest_neighbor_upsampling(x: tf.Tensor, scale: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, scale * H, scale * W, C]`: each pixel repeated `scale` times in both directions."""
    height, width = image_size(x)
    return tf.image.resize(x, [height * scale, width * scale], "nearest")


def _folded(
    p: Branch,
    name: str,
    shape: list[int],
    style: Style,
    axis: int,
    statistics: Branch | None = None,
    at_points: bool = False,
) -> Folded:
    """Returns the kernel of a layer with its biases and batch normalization; `axis` is that of the output channels.

    `at_points`: whether the kernel is for `winograd_conv`; the style must have batch normalization then.
    """
    norm, channels = style.norm, shape[axis]
    if norm is None:
        biases = p.weight("biases", [channels]) if style.biases else None
        return Folded(p.quantized_weight(name, shape), lambda y: add_bias(y, biases))
    kernel = p.weight(name, shape)
    biases = p.weight("biases", [channels]) if style.biases_before_norm else None
    if isinstance(norm, GroupNorm):
        return Folded(kernel, lambda y: add_bias(y, biases))
    quantize = p.quantizer("weights_quant", narrow_range=True)
    prepare = (lambda kernel: winograd_kernel(quantize(kernel))) if at_points else quantize
    if at_points:
        name, shape = f"{name}_at_points", [NUM_POINTS**2, *shape[2:]]
    return folded(
        kernel, biases, statistics or p["BatchNorm"], norm, axis=axis, shape=shape, name=name, prepare=prepare
    )


def _convolved(
    x: tf.Tensor, layer: Folded, p: Branch, style: Style, stride: int = 1, padding: str = "SAME", rate: int = 1
) -> tf.Tensor:
    """`[N, H, W, C] -> [N, h, w, F]`: the convolution of a layer and the operations after it."""
    if isinstance(style.norm, GroupNorm):  # group normalization needs whole maps
        return _finish(conv2d(x, layer.kernel, stride, padding, rate), layer, p, style)
    return conv2d(x, layer.kernel, stride, padding, rate, finish=lambda y: _finish(y, layer, p, style))


def _finish(y: tf.Tensor, layer: Folded, p: Branch, style: Style) -> tf.Tensor:
    y = layer.then(y)
    if isinstance(style.norm, GroupNorm):
        return activated(group_norm(y, p["GroupNorm"], style.norm), p, style.activation)
    if not style.quantized:
        return activated(y, p, style.activation)
    quantize = p.quantizer("act_quant", "conv_quant")  # the second name where a sum follows
    if style.activation in FUSED:
        return quantize(activated(y, p, style.activation))
    return activated(quantize(y), p, style.activation)


def activated(y: tf.Tensor, p: Branch, activation: Activation | None) -> tf.Tensor:
    """`[...] -> [...]`: the activation of a style; `p` has the quantization ranges of its operations."""
    if isinstance(activation, Composite):
        return activation.call(y, p)
    return y if activation is None else activation(y)


def _resized_taps(length: int, to: int) -> np.ndarray:
    """Returns `[to, length, 3]`: weights of each input pixel in the pixels before, at and after each resized pixel."""
    step = np.float32((length - 1) / (to - 1) if to > 1 else 0)
    distances = np.arange(to, dtype=np.float32)[:, np.newaxis] * step - np.arange(length, dtype=np.float32)
    resized = np.pad(np.maximum(0, 1 - np.abs(distances)), [[1, 1], [0, 0]])  # zeros outside
    return np.stack([resized[:-2], resized[1:-1], resized[2:]], axis=2).astype(np.float32)


def _depthwise(x: tf.Tensor, kernel: Any, stride: int, rate: int, padding: str) -> tf.Tensor:
    return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], padding, dilations=[rate, rate])


def _suits_winograd(x: tf.Tensor, style: Style) -> bool:
    small = None not in x.shape[1:] and x.shape[1] * x.shape[2] <= LARGEST_CROP
    return style.winograd and small and isinstance(style.norm, BatchNorm)
