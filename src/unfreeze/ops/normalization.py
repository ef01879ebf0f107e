"""Batch normalization: folded into the layer before it, or with the statistics of the batch while a model is trained.

Source: tf_slim/layers/layers.py (batch_norm), keras/layers/normalization/batch_normalization.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from unfreeze.ops.branch import Branch

# The smallest epsilon of tf.nn.fused_batch_norm, which slim and Keras both call, in the versions of TensorFlow that the
# Object Detection API supports: it replaces smaller values. (Current versions do not.)
MIN_EPSILON = 1.001e-5


@dataclass(frozen=True)
class BatchNorm:
    """The options of batch normalization, with slim's defaults and the default `decay` of a `BatchNorm` message.

    `decay`: the part of a moving statistic that a training step keeps. `trains`: whether training uses the statistics
    of the batch. `fused`: whether TensorFlow's fused kernel computes it.
    """

    center: bool = True
    scale: bool = False
    epsilon: float = 0.001
    decay: float = 0.999
    trains: bool = True
    fused: bool = True

    @property
    def least_epsilon(self) -> float:
        """The epsilon that is added to the variance."""
        return max(self.epsilon, MIN_EPSILON) if self.fused else self.epsilon


@dataclass(frozen=True)
class Folded:
    """A kernel, and the function that follows the operation with it: `[..., C] -> [..., C]`."""

    kernel: Any
    then: Callable[[tf.Tensor], tf.Tensor]


def folded(
    kernel: Any,
    biases: Any | None,
    p: Branch,
    norm: BatchNorm,
    *,
    axis: int,
    shape: Sequence[int],
    name: str = "weights",
    prepare: Callable[[tf.Tensor], tf.Tensor] = lambda kernel: kernel,
) -> Folded:
    """Folds batch normalization, with the weights `p`, into the kernel and biases before it.

    Args:
        axis: the axis of the kernel with the normalized channels.
        shape, name: of the prepared kernel.
        prepare: the last operation on the kernel; it depends only on weights.
    """
    channels = kernel.shape[axis]
    if p.training and norm.trains:
        [prepared] = p.derived(lambda: [prepare(tf.convert_to_tensor(kernel))], **{name: shape})
        return Folded(prepared, lambda y: normalized_by_batch(add_bias(y, biases), p, norm))
    normalization = scale_and_offset(p, channels, norm)

    def fold() -> Sequence[tf.Tensor]:
        scale, offset = normalization()
        if biases is not None:
            offset += biases * scale
        if axis < len(kernel.shape) - 1:
            scale = tf.reshape(scale, [channels] + [1] * (len(kernel.shape) - 1 - axis))
        return prepare(kernel * scale), offset

    # The name of the folded kernel is in the scope of the normalization: one kernel may be folded with several of them.
    prepared, offset = p.derived(fold, **{name: shape, "biases": [channels]})
    return Folded(prepared, lambda y: add_bias(y, offset))


def batch_norm(x: tf.Tensor, p: Branch, norm: BatchNorm) -> tf.Tensor:
    """`[..., C] -> [..., C]`: batch normalization without a convolution that it could be folded into."""
    if p.training and norm.trains:
        return normalized_by_batch(x, p, norm)
    channels = x.shape[-1]
    scale, offset = p.derived(scale_and_offset(p, channels, norm), scale=[channels], offset=[channels])
    return x * scale + offset


def scale_and_offset(p: Branch, channels: int, norm: BatchNorm) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function that computes batch normalization as `x * scale + offset`, both `[channels]` in float32."""
    mean, variance = _moving_statistics(p, channels)
    return p.normalization(
        mean=mean,
        variance=variance,
        gamma=p.weight("gamma", [channels]) if norm.scale else None,
        beta=p.weight("beta", [channels]) if norm.center else None,
        epsilon=norm.least_epsilon,
    )


def normalized_by_batch(y: tf.Tensor, p: Branch, norm: BatchNorm) -> tf.Tensor:
    """`[..., C] -> [..., C]`: normalization by the statistics of the batch; also updates the moving statistics.

    The fused kernel updates the moving variance with the unbiased estimate, the other form with the biased estimate.
    """
    channels = y.shape[-1]
    gamma = p.weight("gamma", [channels]) if norm.scale else tf.ones([channels])
    beta = p.weight("beta", [channels]) if norm.center else tf.zeros([channels])
    if norm.fused:
        maps = y if y.shape.rank == 4 else tf.reshape(y, [-1, 1, 1, channels])
        normal, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            maps, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta), epsilon=norm.least_epsilon, is_training=True
        )
        normal = tf.reshape(normal, tf.shape(y))
    else:
        mean, variance = tf.nn.moments(y, list(range(y.shape.rank - 1)))
        normal = tf.nn.batch_normalization(y, mean, variance, beta, gamma, norm.least_epsilon)
    for moving, of_batch in zip(_moving_statistics(p, channels), (mean, variance), strict=True):
        moving.assign_sub((moving - of_batch) * (1 - norm.decay))
    return tf.ensure_shape(normal, y.shape)


def add_bias(y: tf.Tensor, biases: Any | None) -> tf.Tensor:
    """`[..., C], [C] -> [..., C]`."""
    return y if biases is None else tf.nn.bias_add(y, biases)


def _moving_statistics(p: Branch, channels: int) -> tuple[Any, Any]:
    return (
        p.weight("moving_mean", [channels], trainable=False),
        p.weight("moving_variance", [channels], trainable=False),
    )
