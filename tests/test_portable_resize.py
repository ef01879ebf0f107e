"""The portable forms of resizing return what TensorFlow's kernels return, for known and unknown sizes."""

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.ops.images import RESIZE_METHODS
from unfreeze.ops.portable_resize import PORTABLE_RESIZE_METHODS
from unfreeze.ops.sizes import quotient

SIZES = [((7, 11), (3, 5)), ((30, 20), (64, 33)), ((480, 640), (300, 300)), ((5, 5), (5, 5)), ((9, 1), (4, 3))]
TOLERANCES = {"BILINEAR": 1e-4, "NEAREST_NEIGHBOR": 0.0, "BICUBIC": 2e-3, "AREA": 2e-3}  # of 255


@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("method", RESIZE_METHODS)
def test_portable_form_equals_kernel(method: str, align_corners: bool, dtype: tf.DType) -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], dtype), tf.TensorSpec([2], tf.int32)])
    def portable(images: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        return PORTABLE_RESIZE_METHODS[method](images, (size[0], size[1]), align_corners)

    random = np.random.default_rng(3)
    for (height, width), size in SIZES:
        if method == "AREA" and align_corners and 1 in (height, width):
            continue  # the scale is 0, and the kernel divides by it
        images = tf.cast(random.integers(0, 256, [2, height, width, 3]), dtype)
        expected = tf.cast(RESIZE_METHODS[method](images=images, size=size, align_corners=align_corners), tf.float32)
        for resized in (
            PORTABLE_RESIZE_METHODS[method](images, size, align_corners),
            portable(images, tf.constant(size)),
        ):
            np.testing.assert_allclose(resized, expected, rtol=0, atol=TOLERANCES[method])


def test_quotient_is_rounded_once_where_the_runtime_multiplies_by_the_reciprocal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def product_with_reciprocal(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.multiply(a, tf.math.reciprocal(b))

    random = np.random.default_rng(7)
    a, b = (random.integers(1, longest + 1, 100_000) for longest in (8192, 4096))
    monkeypatch.setattr(tf.Tensor, "__truediv__", product_with_reciprocal)
    as_on_openvino = (tf.constant(a, tf.float32) / tf.constant(b, tf.float32)).numpy()
    expected = a.astype(np.float32) / b.astype(np.float32)
    assert (as_on_openvino != expected).any()
    np.testing.assert_array_equal(quotient(tf.constant(a), tf.constant(b)), expected)
