"""Crops of a whole batch at once against crops computed one by one, as in the Object Detection API."""

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.ops.crops import (
    Crop,
    crop_and_resize,
    distinct_rows,
    fpn_levels,
    in_parts,
    matmul_crop_and_resize,
    multilevel_crops,
    position_sensitive_crops,
    rows_at_once,
)

RANDOM = np.random.RandomState(0)
FEATURES = RANDOM.standard_normal((2, 7, 9, 24)).astype("float32")
IMAGES = np.array([0, 1, 1, 0, 1], "int32")
BOXES = np.array(
    [[0.1, 0.2, 0.7, 0.6], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], [0.6, 0.1, 0.2, 0.9], [-0.2, 0.3, 1.3, 1.1]],
    "float32",
)
INSIDE = slice(0, 4)


def sample(features: np.ndarray, y: float, x: float) -> np.ndarray:
    """`[H, W, C] -> [C]`: bilinear interpolation, with zeros outside."""
    total = np.zeros(features.shape[2])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < features.shape[0] and 0 <= column < features.shape[1]:
                total += max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) * features[row, column]
    return total


def places(start: float, end: float, length: int, size: int) -> np.ndarray:
    middle = [(start + end) / 2]
    return np.array(middle if size == 1 else np.linspace(start, end, size)) * (length - 1)


def one_by_one(features: np.ndarray, boxes: np.ndarray, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = features.shape[1:3]
    return np.array(
        [
            [
                [sample(features[i], y, x) for x in places(box[1], box[3], width, size[1])]
                for y in places(box[0], box[2], height, size[0])
            ]
            for box, i in zip(boxes.astype("float64"), images, strict=True)
        ]
    )


@pytest.mark.parametrize("size", [(3, 4), (1, 2)])
def test_matmul_crop_fades_to_zero_outside(size: tuple[int, int]) -> None:
    crops = matmul_crop_and_resize(FEATURES, BOXES, IMAGES, size)
    np.testing.assert_allclose(crops, one_by_one(FEATURES, BOXES, IMAGES, size), atol=1e-5)


def test_both_crops_agree_inside_the_image() -> None:
    matmul = matmul_crop_and_resize(FEATURES, BOXES[INSIDE], IMAGES[INSIDE], (3, 4))
    np.testing.assert_allclose(crop_and_resize(FEATURES, BOXES[INSIDE], IMAGES[INSIDE], (3, 4)), matmul, atol=1e-5)


def test_crop_is_zero_beyond_the_last_center() -> None:
    crops = crop_and_resize(FEATURES, BOXES, IMAGES, (4, 3)).numpy()[4]
    assert not crops[0].any()
    assert not crops[:, 2].any()
    assert crops[1:3, :2].all()


@pytest.mark.parametrize("known", [True, False], ids=["known size", "unknown size"])
@pytest.mark.parametrize(("size", "bins"), [((6, 8), (3, 2)), ((4, 4), (1, 4)), ((3, 2), (3, 2))])
def test_position_sensitive_crops_equal_crops_of_each_bin(
    known: bool, size: tuple[int, int], bins: tuple[int, int]
) -> None:
    shape = [None, *FEATURES.shape[1:]] if known else [None, None, None, 24]
    function = tf.function(
        lambda features: position_sensitive_crops(features, BOXES, IMAGES, size, bins),
        input_signature=[tf.TensorSpec(shape)],
    )
    crop = one_by_one if known else lambda *arguments: tf.image.crop_and_resize(*arguments).numpy()
    total = bins[0] * bins[1]
    means = []
    for i, part in enumerate(np.split(FEATURES, total, axis=3)):
        row, column = divmod(i, bins[1])
        low, step = BOXES[:, :2], (BOXES[:, 2:] - BOXES[:, :2]) / bins
        boxes = np.concatenate([low + [row, column] * step, low + [row + 1, column + 1] * step], 1).astype("float32")
        means.append(crop(part, boxes, IMAGES, (size[0] // bins[0], size[1] // bins[1])).mean((1, 2)))
    np.testing.assert_allclose(function(FEATURES), np.mean(means, 0), atol=1e-5)


def test_rows_omit_repeated_padding() -> None:
    boxes = np.zeros((3, 4, 4), "float32")
    boxes[0, :2], boxes[2] = RANDOM.random((2, 4)), RANDOM.random((4, 4))
    empty = np.arange(4) >= np.array([2, 0, 4])[:, np.newaxis]
    rows = distinct_rows(tf.constant(boxes), tf.constant(empty))
    assert len(rows.boxes) == (2 + 1) + (0 + 1) + 4
    assert rows.images.numpy().tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(rows.padded(rows.boxes), boxes)
    np.testing.assert_array_equal(rows.of(tf.constant(boxes)), rows.boxes)


@pytest.mark.parametrize("rows", [0, 1, 5, 6, 17])
def test_computation_in_parts_equals_the_whole(rows: int) -> None:
    numbers = tf.range(rows, dtype=tf.float32)[:, tf.newaxis] * [1.0, 2.0]
    sizes = []

    def call(numbers: tf.Tensor, more: tf.Tensor) -> dict[str, tf.Tensor]:
        sizes.append(len(numbers))
        return {"sum": numbers + more, "squares": numbers[:, 0] ** 2}

    outputs = {"sum": tf.TensorSpec([None, 2]), "squares": tf.TensorSpec([None])}
    results = in_parts(call, (numbers, 3 * numbers), 5, outputs)
    np.testing.assert_array_equal(results["sum"], 4 * numbers)
    np.testing.assert_array_equal(results["squares"], np.arange(rows) ** 2.0)
    assert len(sizes) == max(1, -(-rows // 5))
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


def test_parts_are_smaller_than_the_allocation_limit() -> None:
    assert 4 * 14 * 14 * 1024 * rows_at_once(14, 14, 1024) < 32 << 20 < 4 * 14 * 14 * 1024 * 42
    assert rows_at_once(1000, 1000, 1000) == 1


@pytest.mark.parametrize(
    ("side", "level"), [(0.0, 0), (0.1, 0), (0.45, 0), (0.55, 1), (0.95, 1), (1.05, 2), (1.9, 2), (2.1, 3), (5.0, 3)]
)
def test_level_of_a_box_follows_from_its_size_relative_to_224_pixels(side: float, level: int) -> None:
    box = np.array([[0.2, 0.1, 0.2 + side / 2, 0.1 + side * 2]], "float32")
    assert fpn_levels(tf.constant(box), 4, (224, 224)).numpy().tolist() == [level]


@pytest.mark.parametrize("crop", [crop_and_resize, matmul_crop_and_resize])
def test_each_box_is_cropped_from_the_map_of_its_level(crop: Crop) -> None:
    maps = [RANDOM.standard_normal((2, 32 >> level, 48 >> level, 3)).astype("float32") for level in range(4)]
    boxes = BOXES * np.array([[1.0], [0.9], [0.3], [0.2], [0.05]], "float32")
    boxes[3] = [0.05, 0.02, 0.1, 0.3]
    levels = fpn_levels(tf.constant(boxes), 4, (320, 480)).numpy()
    assert len(set(levels)) > 1
    ours = multilevel_crops(maps, boxes, IMAGES, (3, 4), (320, 480), crop).numpy()
    for row, level in enumerate(levels):
        one = slice(row, row + 1)
        np.testing.assert_array_equal(ours[one], crop(maps[level], boxes[one], IMAGES[one], (3, 4)))
