"""Winograd convolutions against plain convolutions."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, conv
from unfreeze.ops.normalization import BatchNorm
from unfreeze.ops.winograd import winograd_conv, winograd_kernel

RANDOM = np.random.RandomState(0)


@pytest.mark.parametrize("size", [(7, 7), (4, 4), (1, 1), (3, 9), (8, 5), (14, 17)])
def test_winograd_equals_the_plain_convolution(size: tuple[int, int]) -> None:
    x = RANDOM.standard_normal((3, *size, 20)).astype("float32")
    kernel = RANDOM.standard_normal((3, 3, 20, 11)).astype("float32") / 13
    plain = tf.nn.conv2d(x, kernel, 1, "SAME")
    np.testing.assert_allclose(winograd_conv(tf.constant(x), winograd_kernel(tf.constant(kernel))), plain, atol=2e-5)


def test_winograd_error_is_a_millionth() -> None:
    x = RANDOM.standard_normal((16, 7, 7, 256)).astype("float32")
    kernel = RANDOM.standard_normal((3, 3, 256, 8)).astype("float32") / 48
    exact = sum(
        np.pad(x.astype("float64"), [(0, 0), (1, 1), (1, 1), (0, 0)])[:, i : i + 7, j : j + 7] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    error = winograd_conv(tf.constant(x), winograd_kernel(tf.constant(kernel))) - exact
    assert np.sqrt(np.mean(np.square(error))) < 3e-6 * exact.std()


def test_winograd_of_no_rows_has_no_rows() -> None:
    empty = winograd_conv(tf.zeros([0, 7, 7, 4]), winograd_kernel(tf.zeros([3, 3, 4, 5])))
    assert empty.shape == (0, 7, 7, 5)


class Weights:
    """A branch with random weights, which follow from the length of their names."""

    def __init__(self, scope: str = "") -> None:
        self.scope = scope
        self.training = False

    def __getitem__(self, name: str) -> "Weights":
        return Weights(f"{self.scope}/{name}")

    def weight(self, name: str, shape: list[int], **_: object) -> tf.Tensor:
        return tf.constant(np.random.RandomState(len(self.scope + name)).uniform(0.1, 0.2, shape), tf.float32)

    def quantizer(self, *_: str, **__: bool) -> Callable[[tf.Tensor], tf.Tensor]:
        return tf.identity

    def normalization(
        self, mean: tf.Tensor, variance: tf.Tensor, gamma: None, beta: tf.Tensor, epsilon: float
    ) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
        scale = tf.math.rsqrt(variance + epsilon)
        return lambda: (scale, beta - mean * scale)

    def derived(self, compute: Callable[[], Sequence[tf.Tensor]], **shapes: list[int]) -> list[tf.Tensor]:
        values = list(compute())
        assert [value.shape.as_list() for value in values] == list(shapes.values())
        return values


@pytest.mark.parametrize("size", [(7, 7), (16, 16), (16, 17)])
def test_layers_use_winograd_for_small_maps(size: tuple[int, int]) -> None:
    x = tf.constant(RANDOM.standard_normal((2, *size, 5)).astype("float32"))
    p = cast("Branch", Weights())

    def layer(winograd: bool) -> tf.Tensor:
        return conv(x, p, 4, 3, style=Style(BatchNorm(), winograd=winograd))

    np.testing.assert_allclose(layer(True), layer(False), atol=1e-5)
    operations = {op.type for op in tf.function(lambda: layer(True)).get_concrete_function().graph.get_operations()}
    assert ("Conv2D" in operations) == (size == (16, 17))
