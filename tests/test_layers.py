"""Normalization layers against plain formulas, on values so small that epsilons matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.ops.layers import GroupNorm, Style, conv, group_norm
from unfreeze.ops.normalization import BatchNorm, batch_norm
from unfreeze.weights import Branch, Checkpoint, TensorInfo, Weights

RANDOM = np.random.RandomState(0)


class Reader:
    """A checkpoint reader of these values."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self.values = values

    def get_tensor(self, name: str) -> np.ndarray:
        return self.values[name]


def branch(**values: np.ndarray) -> tuple[Weights, Branch]:
    """The weights of a layer; `__` in a name stands for `/`."""
    arrays = {name.replace("__", "/"): value.astype("float32") for name, value in values.items()}
    tensors = {name: TensorInfo(value.shape, "float32") for name, value in arrays.items()}
    weights = Weights(Checkpoint(Path("model.ckpt-1"), 1, "tf1", tensors, _reader=Reader(arrays)))
    return weights, weights.branch()


def statistics(channels: int, variance: float) -> dict[str, np.ndarray]:
    return {
        "gamma": RANDOM.uniform(0.5, 1.5, channels),
        "beta": RANDOM.standard_normal(channels),
        "moving_mean": RANDOM.standard_normal(channels) * 1e-3,
        "moving_variance": np.full(channels, variance),
    }


@pytest.mark.parametrize("deviation", [1.0, 1e-3])
def test_group_norm_adds_slims_epsilon_to_the_variance(deviation: float) -> None:
    x = (deviation * RANDOM.standard_normal((2, 3, 5, 64))).astype("float32")
    gamma, beta = RANDOM.uniform(0.5, 1.5, 64), RANDOM.standard_normal(64)
    weights, p = branch(gamma=gamma, beta=beta)
    ours = tf.function(lambda x: group_norm(x, p, GroupNorm()), autograph=False).get_concrete_function(tf.constant(x))
    weights.fill()
    groups = x.reshape(2, 3, 5, 32, 2).astype("float64")
    mean, variance = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
    expected = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * gamma + beta
    np.testing.assert_allclose(ours(tf.constant(x)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("epsilon", "fused", "added"),
    [(1e-3, True, 1e-3), (1e-5, True, 1.001e-5), (1e-7, True, 1.001e-5), (1e-7, False, 1e-7)],
)
def test_batch_norm_adds_the_epsilon_of_the_fused_kernel(epsilon: float, fused: bool, added: float) -> None:
    x = (1e-3 * RANDOM.standard_normal((2, 3, 4, 5))).astype("float32")
    values = statistics(5, variance=1e-6)
    weights, p = branch(**values)
    norm = BatchNorm(scale=True, epsilon=epsilon, fused=fused)
    ours = tf.function(lambda x: batch_norm(x, p, norm), autograph=False).get_concrete_function(tf.constant(x))
    weights.fill()
    gamma, beta, mean, variance = values.values()
    expected = (x - mean) / np.sqrt(variance + added) * gamma + beta
    np.testing.assert_allclose(ours(tf.constant(x)), expected, atol=1e-5)


@pytest.mark.parametrize("winograd", [False, True])
def test_convolution_is_followed_by_normalization_and_activation(winograd: bool) -> None:
    x, kernel = RANDOM.standard_normal((2, 7, 6, 3)).astype("float32"), RANDOM.standard_normal((3, 3, 3, 5)) / 5
    values = statistics(5, variance=0.7)
    weights, p = branch(weights=kernel, **{f"BatchNorm__{name}": value for name, value in values.items()})
    style = Style(BatchNorm(scale=True), tf.nn.relu, winograd=winograd)
    ours = tf.function(lambda x: conv(x, p, 5, 3, style=style), autograph=False).get_concrete_function(tf.constant(x))
    weights.fill()
    y = tf.nn.conv2d(x, kernel.astype("float32"), 1, "SAME").numpy()
    normalized = (y - values["moving_mean"]) / np.sqrt(0.7 + 0.001) * values["gamma"] + values["beta"]
    np.testing.assert_allclose(ours(tf.constant(x)), np.maximum(normalized, 0), atol=1e-5)
