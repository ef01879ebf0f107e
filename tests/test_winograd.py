"""Convolutions of fewer multiplications against plain ones."""

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.ops.winograd import winograd_conv, winograd_kernel

RANDOM = np.random.RandomState(0)


@pytest.mark.parametrize("size", [(7, 7), (4, 4), (1, 1), (3, 9), (8, 5), (14, 17)])
def test_it_is_the_plain_convolution(size: tuple[int, int]) -> None:
    x = RANDOM.standard_normal((3, *size, 20)).astype("float32")
    kernel = RANDOM.standard_normal((3, 3, 20, 11)).astype("float32") / 13
    plain = tf.nn.conv2d(x, kernel, 1, "SAME")
    np.testing.assert_allclose(winograd_conv(tf.constant(x), winograd_kernel(tf.constant(kernel))), plain, atol=2e-5)


def test_its_error_is_a_millionth() -> None:
    x = RANDOM.standard_normal((16, 7, 7, 256)).astype("float32")
    kernel = RANDOM.standard_normal((3, 3, 256, 8)).astype("float32") / 48
    exact = sum(
        np.pad(x.astype("float64"), [(0, 0), (1, 1), (1, 1), (0, 0)])[:, i : i + 7, j : j + 7] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    error = winograd_conv(tf.constant(x), winograd_kernel(tf.constant(kernel))) - exact
    assert np.sqrt(np.mean(np.square(error))) < 3e-6 * exact.std()


def test_no_rows_are_no_rows() -> None:
    empty = winograd_conv(tf.zeros([0, 7, 7, 4]), winograd_kernel(tf.zeros([3, 3, 4, 5])))
    assert empty.shape == (0, 7, 7, 5)
