"""Decoding, resizing, padding and grayscale against recorded outputs of the Object Detection API.

`resizers.*`, `resized_sizes.npz` and `decoded.npz` were recorded with TensorFlow 1.15.5; with 2.10.1 the outputs are
the same to the last bit. The images are `make_images(...)`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from unfreeze.config import messages
from unfreeze.detectors.resizers import Resizer, build_resizer
from unfreeze.errors import ConfigError
from unfreeze.ops.images import decode_image, decode_tf_example, decoded_batch, image_size

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "resizers.json").read_text())
RECORDED = np.load(DATA / "resizers.npz")
SIZES = np.load(DATA / "resized_sizes.npz")
DECODED = np.load(DATA / "decoded.npz")
FILES = sorted({name.removesuffix("/file") for name in DECODED.files if name.endswith("/file")})


def make_images(n: int, height: int, width: int) -> np.ndarray:
    n, y, x, c = np.mgrid[:n, :height, :width, :3]
    return ((y * 37 + x * 91 + c * 53 + n * 17 + (x * y * 7) % 29 * 3) % 256).astype(np.uint8)


def resizer_of(config: str) -> Resizer:
    return build_resizer(text_format.Parse(config, messages.ImageResizer()))


def normalized(pixels: tf.Tensor) -> tf.Tensor:
    return (2.0 / 255.0) * pixels - 1.0


@pytest.mark.parametrize("index", range(len(CASES)))
def test_resizer_matches_the_recorded_output(index: int) -> None:
    case = CASES[index]
    resizer = resizer_of(case["config"])

    def preprocess(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if case["normalize"] == "before":
            return resizer.resize_normalized(images, normalized)
        resized, true_image_shapes = resizer.resize(images)
        finished = resizer.finish(resized)
        return normalized(finished) if case["normalize"] == "after" else finished, true_image_shapes

    shape = [*case["images"], 3] if case["known"] else [None, None, None, 3]
    graph = tf.function(preprocess).get_concrete_function(tf.TensorSpec(shape, tf.uint8))
    assert graph.structured_outputs[0].shape.as_list()[1:] == case["static_shape"]
    # The OD API normalizes first; the other order is off by floating-point noise, 1e-6 of a range of 2 at most.
    # Otherwise the last bits of 255 are all that another processor may change.
    atol = 2e-6 if case["normalize"] == "before" else 1e-4
    images = tf.constant(make_images(*case["images"]))
    for got, true_image_shapes in (graph(images), preprocess(tf.cast(images, tf.float32))):
        np.testing.assert_array_equal(true_image_shapes, RECORDED[f"{index}/true_image_shapes"])
        np.testing.assert_allclose(got, RECORDED[f"{index}/images"], rtol=0, atol=atol)


@pytest.mark.parametrize("resize_method", ["BILINEAR", "NEAREST_NEIGHBOR", "BICUBIC", "AREA"])
def test_normalizing_afterwards_is_the_same_on_an_image_of_usual_size(resize_method: str) -> None:
    resizer = resizer_of(f"fixed_shape_resizer {{ height: 800 width: 1067 resize_method: {resize_method} }}")
    images = tf.constant(make_images(1, 480, 640))
    first, _ = resizer.resize(normalized(tf.cast(images, tf.float32)))
    np.testing.assert_allclose(resizer.resize_normalized(images, normalized)[0], first, rtol=0, atol=1e-6)


@pytest.mark.parametrize("index", range(len(SIZES["configs"])))
def test_new_sizes_match_the_recorded_sizes(index: int) -> None:
    new_size = resizer_of(str(SIZES["configs"][index])).new_size
    assert new_size is not None
    sizes, expected = SIZES["pictures"], SIZES[str(index)]  # prose: allow
    recorded = expected[:, 0] > 0  # the OD API fails if an image would have no pixels
    assert recorded.sum() > 290
    known = [new_size(int(height), int(width)) for height, width in sizes]
    np.testing.assert_array_equal(np.array(known)[recorded], expected[recorded])
    unknown = np.stack(new_size(tf.constant(sizes[:, 0]), tf.constant(sizes[:, 1])), axis=1)
    np.testing.assert_array_equal(unknown[recorded], expected[recorded])


def test_static_shape_has_the_known_dimensions() -> None:
    assert resizer_of("fixed_shape_resizer { height: 8 width: 9 }").shape == (8, 9, 3)
    gray = "keep_aspect_ratio_resizer { max_dimension: 640 pad_to_max_dimension: true convert_to_grayscale: true }"
    assert resizer_of(gray).shape == (640, 640, 1)
    assert resizer_of("keep_aspect_ratio_resizer { }").shape == (None, None, 3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "image_resizer: it is empty"),
        ("keep_aspect_ratio_resizer { min_dimension: 9 max_dimension: 8 }", "min_dimension is 9"),
        (
            "keep_aspect_ratio_resizer { pad_to_max_dimension: true per_channel_pad_value: [1, 2] }",
            "per_channel_pad_value has 2 numbers",
        ),
        (
            "keep_aspect_ratio_resizer { pad_to_max_dimension: true per_channel_pad_value: [1, 2, 3, 4] }",
            "per_channel_pad_value has 4 numbers",
        ),
        ("fixed_shape_resizer { height: 0 }", "height is 0"),
        ("conditional_shape_resizer { condition: INVALID }", "condition is INVALID"),
        ("pad_to_multiple_resizer { multiple: -1 }", "multiple is -1"),
    ],
)
def test_invalid_configs_are_rejected(config: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resizer_of(config)


def test_pad_values_are_checked_only_with_padding() -> None:
    resizer = resizer_of("keep_aspect_ratio_resizer { per_channel_pad_value: [1, 2] }")
    assert resizer.padded_size is None


@pytest.mark.parametrize("name", FILES)
def test_decode_image_matches_the_recorded_pixels(name: str) -> None:
    file = DECODED[f"{name}/file"].tobytes()
    np.testing.assert_array_equal(decode_image(tf.constant(file)), DECODED[f"{name}/pixels"])
    np.testing.assert_array_equal(decode_tf_example(tf.constant(tf_example(file))), DECODED[f"{name}/pixels"])


def test_decode_image_reads_bmp() -> None:
    pixels = make_images(1, 5, 6)[0]
    rows = np.pad(pixels[::-1, :, ::-1].reshape(5, 18), [[0, 0], [0, 2]]).tobytes()  # BGR, upwards, in fours
    header = b"BM" + np.array([54 + len(rows), 0, 54, 40, 6, 5], "<u4").tobytes() + np.array([1, 24], "<u2").tobytes()
    file = header + np.array([0, len(rows), 0, 0, 0, 0], "<u4").tobytes() + rows
    np.testing.assert_array_equal(decode_image(tf.constant(file)), pixels)


def test_images_of_different_sizes_make_one_batch() -> None:
    resizer = resizer_of("keep_aspect_ratio_resizer { min_dimension: 9 max_dimension: 12 pad_to_max_dimension: true }")
    sources = [make_images(1, 13, 19), make_images(1, 19, 13), make_images(1, 5, 5)]

    def preprocess(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return resizer.resize_normalized(images, normalized)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def from_examples(examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return decoded_batch(examples, decode_tf_example, preprocess, resizer.shape)

    examples = [tf_example(tf.io.encode_png(source[0]).numpy()) for source in sources]
    images, true_image_shapes = from_examples(tf.constant(examples))
    assert from_examples.get_concrete_function().structured_outputs[0].shape.as_list() == [None, 12, 12, 3]
    np.testing.assert_array_equal(true_image_shapes, [[8, 12, 3], [12, 8, 3], [9, 9, 3]])
    for source, image in zip(sources, images, strict=True):
        np.testing.assert_array_equal(preprocess(tf.constant(source))[0][0], image)
    assert from_examples(tf.zeros([0], tf.string))[0].shape == (0, 12, 12, 3)


def test_image_size_is_static_if_the_shape_is() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, None, 7, 3])])
    def size(images: tf.Tensor) -> tf.Tensor:
        height, width = image_size(images)
        assert tf.is_tensor(height)
        assert width == 7
        return height

    assert size(tf.zeros([2, 5, 7, 3])) == 5


def tf_example(file: bytes) -> bytes:
    features = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
