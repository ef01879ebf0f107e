"""Box coders against outputs recorded from the Object Detection API on TensorFlow 1.15, and round trips."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from unfreeze.config import messages
from unfreeze.detectors.box_coders import build_box_decoder
from unfreeze.errors import ConfigError
from unfreeze.ops import coders

RECORDED = dict(np.load(Path(__file__).parent / "data" / "box_coders.npz"))
CASES = json.loads(str(RECORDED["cases"]))


def box_decoder(text):
    return build_box_decoder(text_format.Parse(text, messages.BoxCoder()))


@pytest.mark.parametrize("name", CASES)
def test_boxes_equal_the_object_detection_apis(name):
    codes, anchors = RECORDED[f"{name}/codes"], RECORDED[f"{name}/anchors"]
    decoded = box_decoder(CASES[name])(tf.constant(codes), tf.constant(anchors))
    # Only the exponential is inexact, relative to the size of the box.
    np.testing.assert_allclose(decoded.boxes, RECORDED[f"{name}/boxes"], rtol=1e-6, atol=1e-6)
    if f"{name}/keypoints" in RECORDED:
        np.testing.assert_allclose(decoded.keypoints, RECORDED[f"{name}/keypoints"], rtol=1e-6, atol=1e-6)
    else:
        assert decoded.keypoints is None


@pytest.mark.parametrize("name", CASES)
def test_codes_broadcast(name):
    codes, anchors = RECORDED[f"{name}/codes"], RECORDED[f"{name}/anchors"]
    decode = box_decoder(CASES[name])
    single = decode(tf.constant(codes), tf.constant(anchors))
    batch = decode(tf.constant(np.stack([codes, codes])), tf.constant(anchors))
    per_class = decode(tf.constant(codes.reshape(10, 4, -1)), tf.constant(anchors[::4, np.newaxis]))
    np.testing.assert_array_equal(batch.boxes[1], single.boxes)
    np.testing.assert_array_equal(per_class.boxes[:, 0], single.boxes[::4])
    if single.keypoints is not None:
        np.testing.assert_array_equal(batch.keypoints[1], single.keypoints)


# The encoders, which only training needs. Source: object_detection/box_coders/*.py, papers arXiv:1506.01497.

unit = st.floats(-1.0, 2.0, width=32)
side = st.floats(0.015625, 2.0, width=32)
positive = st.floats(0.5, 10.0, width=32)


@st.composite
def boxes(draw):
    """A box (ymin, xmin, ymax, xmax) with sides of at least 1/64."""
    ymin, xmin, height, width = draw(unit), draw(unit), draw(side), draw(side)
    return np.array([ymin, xmin, ymin + height, xmin + width], np.float32)


def center_and_size(box):
    low, high = np.float64(box[:2]), np.float64(box[2:])
    return (low + high) / 2, high - low


@given(box=boxes(), anchor=boxes(), scales=st.tuples(positive, positive, positive, positive))
@settings(max_examples=100, deadline=None)
def test_center_size_codes_round_trip(box, anchor, scales):
    center, size = center_and_size(box)
    anchor_center, anchor_size = center_and_size(anchor)
    code = np.concatenate([(center - anchor_center) / anchor_size, np.log(size / anchor_size)]) * scales
    decoded = coders.center_size_boxes(tf.constant(code, tf.float32), tf.constant(anchor), scales)
    np.testing.assert_allclose(decoded, box, atol=1e-5)


@given(box=boxes(), anchor=boxes(), scales=st.tuples(positive, positive, positive))
@settings(max_examples=100, deadline=None)
def test_square_codes_round_trip(box, anchor, scales):
    center, (length, _) = center_and_size(box)
    anchor_center, anchor_size = center_and_size(anchor)
    anchor_length = np.sqrt(anchor_size.prod())
    code = np.append((center - anchor_center) / anchor_length, np.log(length / anchor_length)) * scales
    decoded = coders.square_boxes(tf.constant(code, tf.float32), tf.constant(anchor), scales)
    np.testing.assert_allclose(decoded, np.concatenate([center - length / 2, center + length / 2]), atol=1e-5)


@given(box=boxes(), anchor=boxes(), stddev=st.floats(0.0078125, 1.0, width=32))
@settings(max_examples=100, deadline=None)
def test_mean_stddev_codes_round_trip(box, anchor, stddev):
    code = (np.float64(box) - anchor) / stddev
    decoded = coders.mean_stddev_boxes(tf.constant(code, tf.float32), tf.constant(anchor), stddev)
    np.testing.assert_allclose(decoded, box, atol=1e-5)


@given(points=st.lists(st.tuples(unit, unit), min_size=1, max_size=4), anchor=boxes(), scale=positive)
@settings(max_examples=100, deadline=None)
def test_keypoint_codes_round_trip(points, anchor, scale):
    center, size = center_and_size(anchor)
    code = ((np.array(points) - center) / size * [scale, scale / 2]).ravel()
    decoded = coders.keypoints(tf.constant(code, tf.float32), tf.constant(anchor), [scale, scale / 2])
    np.testing.assert_allclose(decoded, points, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "box_coder is empty"),
        ("faster_rcnn_box_coder { y_scale: 0 }", "y_scale is 0.0; it must be greater than 0"),
        ("keypoint_box_coder { width_scale: -1 }", "width_scale is -1.0; it must be greater than 0"),
        ("square_box_coder { length_scale: 0 }", "length_scale is 0.0; it must be greater than 0"),
    ],
)
def test_invalid_coders_are_rejected(text, message):
    with pytest.raises(ConfigError, match=message):
        box_decoder(text)
