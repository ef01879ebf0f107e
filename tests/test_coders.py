"""Box coders against recorded answers of the original on TensorFlow 1.15."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from unfreeze.config import messages
from unfreeze.detectors.box_coders import build_box_coder
from unfreeze.errors import ConfigError

RECORDED = dict(np.load(Path(__file__).parent / "data" / "box_coders.npz"))
CASES = json.loads(str(RECORDED["cases"]))


def box_coder(text):
    return build_box_coder(text_format.Parse(text, messages.BoxCoder()))


@pytest.mark.parametrize("name", CASES)
def test_boxes_are_the_originals(name):
    codes, anchors = RECORDED[f"{name}/codes"], RECORDED[f"{name}/anchors"]
    coder = box_coder(CASES[name])
    assert coder.code_size == codes.shape[1]
    decoded = coder.decode(tf.constant(codes), tf.constant(anchors))
    # The exponential is the only inexact step, and relative to the size of the box
    np.testing.assert_allclose(decoded.boxes, RECORDED[f"{name}/boxes"], rtol=1e-6, atol=1e-6)
    if f"{name}/keypoints" in RECORDED:
        np.testing.assert_allclose(decoded.keypoints, RECORDED[f"{name}/keypoints"], rtol=1e-6, atol=1e-6)
    else:
        assert decoded.keypoints is None


@pytest.mark.parametrize("name", CASES)
def test_codes_broadcast(name):
    codes, anchors = RECORDED[f"{name}/codes"], RECORDED[f"{name}/anchors"]
    decode = box_coder(CASES[name]).decode
    each = decode(tf.constant(codes), tf.constant(anchors))
    batch = decode(tf.constant(np.stack([codes, codes])), tf.constant(anchors))
    per_class = decode(tf.constant(codes.reshape(10, 4, -1)), tf.constant(anchors[::4, np.newaxis]))
    np.testing.assert_array_equal(batch.boxes[1], each.boxes)
    np.testing.assert_array_equal(per_class.boxes[:, 0], each.boxes[::4])
    if each.keypoints is not None:
        np.testing.assert_array_equal(batch.keypoints[1], each.keypoints)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "box_coder is empty"),
        ("faster_rcnn_box_coder { y_scale: 0 }", "y_scale is 0.0; it must be greater than 0"),
        ("keypoint_box_coder { width_scale: -1 }", "width_scale is -1.0; it must be greater than 0"),
        ("square_box_coder { length_scale: 0 }", "length_scale is 0.0; it must be greater than 0"),
    ],
)
def test_what_the_original_refuses(text, message):
    with pytest.raises(ConfigError, match=message):
        box_coder(text)
