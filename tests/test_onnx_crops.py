"""CropAndResize of TensorFlow as RoiAlign of ONNX, run by ONNX Runtime."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import tf2onnx

from unfreeze.formats.onnx_crops import HANDLERS

FEATURES = np.random.default_rng(5).standard_normal((2, 19, 25, 6)).astype(np.float32)
BEYOND = np.random.default_rng(6).uniform(-0.3, 1.3, (60, 4))  # also boxes that are flipped
EXACT = [[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [1, 1, 1, 1], [0.9, 0.9, 0.1, 0.1], [-2, -2, -1, -1]]
BOXES = np.concatenate([BEYOND, EXACT]).astype(np.float32)
IMAGES = np.random.default_rng(7).integers(0, 2, len(BOXES)).astype(np.int32)


def converted(crop_size: tuple[int, int], **options: Any) -> Any:
    with tf.Graph().as_default() as graph:
        features = tf.compat.v1.placeholder(tf.float32, [None, None, None, 6], name="features")
        boxes = tf.compat.v1.placeholder(tf.float32, [None, 4], name="boxes")
        images = tf.compat.v1.placeholder(tf.int32, [None], name="images")
        tf.identity(tf.image.crop_and_resize(features, boxes, images, crop_size, **options), name="crops")
    model, _ = tf2onnx.convert.from_graph_def(
        graph.as_graph_def(),
        input_names=["features:0", "boxes:0", "images:0"],
        output_names=["crops:0"],
        opset=18,
        custom_op_handlers=HANDLERS,
    )
    return model


def run(model: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    [crops] = session.run(None, {"features:0": FEATURES, "boxes:0": BOXES, "images:0": IMAGES})
    return np.asarray(crops)


@pytest.mark.parametrize("crop_size", [(14, 14), (1, 7), (3, 1)])
def test_crops_equal_those_of_tensorflow(crop_size: tuple[int, int]) -> None:
    model = converted(crop_size)
    assert "Loop" not in {node.op_type for node in model.graph.node}
    expected = tf.image.crop_and_resize(FEATURES, BOXES, IMAGES, crop_size).numpy()
    assert (expected == 0).any()
    np.testing.assert_allclose(run(model), expected, atol=1e-4)


@pytest.mark.parametrize("options", [{"method": "nearest"}, {"extrapolation_value": 1.0}])
def test_other_crops_are_left_to_tf2onnx(options: dict[str, Any]) -> None:
    assert "RoiAlign" not in {node.op_type for node in converted((3, 3), **options).graph.node}
