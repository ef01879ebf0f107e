"""Fewer outputs and rows: which are kept, in which order, and what the padding rows contain."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.errors import UnsupportedError
from unfreeze.savedmodel.slimming import Slimming, slim

SCORES = np.array([[0.9, 0.2, 0.5, 0.8], [0.4, 0.3, 0.0, 0.0]], np.float32)


def outputs() -> dict[str, tf.Tensor]:
    """Four rows, of which the second image uses two; the box of a row has its number."""
    row = np.arange(4, dtype=np.float32)
    return {
        "detection_boxes": tf.constant(np.tile(row[np.newaxis, :, np.newaxis], (2, 1, 4)) + 1),
        "detection_classes": tf.constant(np.tile(row, (2, 1)) + 1),
        "detection_scores": tf.constant(SCORES),
        "detection_masks": tf.ones([2, 4, 3, 3]),
        "num_detections": tf.constant([4.0, 2.0]),
        "raw_detection_scores": tf.ones([2, 7, 3]),
    }


def test_outputs_are_unchanged_by_default() -> None:
    all_outputs = outputs()
    assert slim(all_outputs, Slimming()) is all_outputs


def test_outputs_that_are_not_kept_are_removed() -> None:
    four = {"detection_boxes", "detection_classes", "detection_scores", "num_detections"}
    assert set(slim(outputs(), Slimming(("detection_masks",)))) == {*four, "detection_masks"}
    assert set(slim(outputs(), Slimming(("num_detections",)))) == four
    with pytest.raises(UnsupportedError, match="--kept-outputs detection_keypoints: this model has detection_boxes"):
        slim(outputs(), Slimming(("detection_keypoints",)))


def test_rows_below_the_threshold_are_removed_wherever_they_are() -> None:
    slimmed_outputs = slim(outputs(), Slimming(score_threshold=0.4))
    assert slimmed_outputs["num_detections"].numpy().tolist() == [3, 1]
    np.testing.assert_array_equal(
        slimmed_outputs["detection_scores"], np.array([[0.9, 0.5, 0.8, 0], [0.4, 0, 0, 0]], np.float32)
    )
    assert slimmed_outputs["detection_classes"].numpy().tolist() == [[1, 3, 4, 0], [1, 0, 0, 0]]
    assert slimmed_outputs["detection_boxes"].numpy()[0, :, 0].tolist() == [1, 3, 4, 0]
    assert slimmed_outputs["detection_masks"].numpy()[:, :, 0, 0].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert slimmed_outputs["raw_detection_scores"].shape == (2, 7, 3)


def test_at_most_max_detections_rows_are_kept() -> None:
    slimmed_outputs = slim(outputs(), Slimming(score_threshold=0.3, max_detections=2))
    assert slimmed_outputs["num_detections"].numpy().tolist() == [2, 2]
    assert slimmed_outputs["detection_classes"].numpy().tolist() == [[1, 3], [1, 2]]
    assert slimmed_outputs["detection_masks"].shape == (2, 2, 3, 3)
    assert slim(outputs(), Slimming(max_detections=9))["detection_boxes"].shape == (2, 4, 4)


def test_padding_rows_are_zero_even_without_a_threshold() -> None:
    slimmed_outputs = slim(outputs(), Slimming(score_threshold=0.0))
    assert slimmed_outputs["num_detections"].numpy().tolist() == [4, 2]
    assert slimmed_outputs["detection_classes"].numpy().tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]]


def test_the_number_of_rows_may_be_unknown() -> None:
    specs = {name: tf.TensorSpec([None, None, *tensor.shape[2:]]) for name, tensor in outputs().items()}
    specs["num_detections"] = tf.TensorSpec([None])

    @tf.function(input_signature=[specs])
    def call(all_outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return slim(all_outputs, Slimming(score_threshold=0.4, max_detections=3))

    assert call(outputs())["detection_classes"].numpy().tolist() == [[1, 3, 4], [1, 0, 0]]


@pytest.mark.parametrize("wrong", [{"score_threshold": 1.5}, {"score_threshold": -0.1}, {"max_detections": 0}])
def test_numbers_out_of_range_are_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(UnsupportedError):
        Slimming(**wrong)
