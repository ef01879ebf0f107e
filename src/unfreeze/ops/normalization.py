"""Batch normalization: folded into the layer before it, or by the statistics of the batch while a model is trained.

Source: tf_slim/layers/layers.py (batch_norm), keras/layers/normalization/batch_normalization.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from unfreeze.ops.branch import Branch

# tf.nn.fused_batch_norm, which slim and Keras both call, takes no smaller one, whatever it is given.
MIN_EPSILON = 1.001e-5


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization; slim's defaults, and as `decay` that of a `BatchNorm` message.

    `decay`: how much of a moving statistic a training step keeps. `trains`: whether training uses the statistics of
    the batch at all. `fused`: whether TensorFlow's fused kernel computes it.
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
    """A kernel, and what follows the operation that uses it: `[..., C] -> [..., C]`."""

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
    """A kernel and its biases with the batch normalization that follows, whose weights `p` has.

    Args:
        axis: of the kernel, the one of the channels that are normalized.
        shape, name: of the prepared kernel.
        prepare: what becomes of the kernel last; it depends on weights only.
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

    # The folded kernel is called after the normalization: one kernel may be folded with several of them.
    prepared, offset = p.derived(fold, **{name: shape, "biases": [channels]})
    return Folded(prepared, lambda y: add_bias(y, offset))


def batch_norm(x: tf.Tensor, p: Branch, norm: BatchNorm) -> tf.Tensor:
    """`[..., C] -> [..., C]`: normalization that stands alone, without a convolution to fold it into."""
    if p.training and norm.trains:
        return normalized_by_batch(x, p, norm)
    channels = x.shape[-1]
    scale, offset = p.derived(scale_and_offset(p, channels, norm), scale=[channels], offset=[channels])
    return x * scale + offset


def scale_and_offset(p: Branch, channels: int, norm: BatchNorm) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
    """Batch normalization by moving statistics as `x * scale + offset`, both `[channels]`, in float32."""
    mean, variance = _moving_statistics(p, channels)
    return p.normalization(
        mean=mean,
        variance=variance,
        gamma=p.weight("gamma", [channels]) if norm.scale else None,
        beta=p.weight("beta", [channels]) if norm.center else None,
        epsilon=norm.least_epsilon,
    )


def normalized_by_batch(y: tf.Tensor, p: Branch, norm: BatchNorm) -> tf.Tensor:
    """`[..., C] -> [..., C]`: normalization by the statistics of the batch, which updates the moving ones.

    The fused kernel updates the moving variance with the unbiased estimate, the other form with the biased one.
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
