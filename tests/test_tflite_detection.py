"""The .tflite with four outputs has the metadata that MediaPipe reads, and MediaPipe detects with it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from unfreeze.config import read_label_map, read_pipeline_config
from unfreeze.detectors import build_detector
from unfreeze.detectors.normalizations import MEANS_AND_DEVIATIONS
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS
from unfreeze.errors import UnfreezeError
from unfreeze.tflite.detection import OUTPUTS, PostprocessOptions, raw_output_graph, tflite_detection_model
from unfreeze.weights import Weights, open_checkpoint

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
SCENE = DIGITS / "scenes" / "scene_00.png"
OPTIONS = PostprocessOptions(max_detections=5)


def digits_model(binding: str = "constants") -> bytes:
    config = read_pipeline_config(DIGITS / "pipeline.config")
    weights = Weights(open_checkpoint(DIGITS / "run" / "model.ckpt-8000"), binding)
    names = read_label_map(DIGITS / "label_map.pbtxt")
    labels = [names.text(number) for number in range(1, config.model.ssd.num_classes + 1)]
    return tflite_detection_model(build_detector(config, weights), config.model.ssd, OPTIONS, labels)


@pytest.fixture(scope="module")
def model() -> bytes:
    return digits_model()


def test_outputs_are_those_of_the_operation_in_order(model: bytes) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    interpreter = litert.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    outputs = interpreter.get_output_details()
    assert [output["name"] for output in outputs] == list(OUTPUTS)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.zeros([1, 160, 160, 3], np.float32))
    interpreter.invoke()
    assert [interpreter.get_tensor(output["index"]).shape for output in outputs] == [(1, 5, 4), (1, 5), (1, 5), (1,)]


def test_labels_are_an_associated_file_and_the_metadata_a_buffer(model: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines()[:3] == ["zero", "one", "two"]
    contents = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    (entry,) = [entry for entry in contents.metadata if entry.name == b"TFLITE_METADATA"]
    metadata = bytes(contents.buffers[entry.buffer].data)
    assert metadata[4:8] == b"M001"
    for text in (b"location", b"category", b"score", b"number of detections", b"labels.txt"):
        assert text in metadata


def test_same_model_has_the_same_bytes(model: bytes) -> None:
    assert digits_model() == model


def test_weights_that_are_variables_are_rejected() -> None:
    config = read_pipeline_config(DIGITS / "pipeline.config")
    weights = Weights(open_checkpoint(DIGITS / "run" / "model.ckpt-8000"), "variables")
    with pytest.raises(UnfreezeError, match="needs weights that are constants"):
        raw_output_graph(build_detector(config, weights), config.model.ssd)


@pytest.mark.parametrize("name", SSD_EXTRACTORS)
def test_metadata_normalizes_as_the_extractor(name: str) -> None:
    normalize = SSD_EXTRACTORS[name].normalize
    pixels = np.array([[0, 1, 2], [128, 64, 32], [255, 254, 253]], np.float32).reshape([1, 1, 3, 3])
    means, deviations = (np.array(numbers, np.float32) for numbers in MEANS_AND_DEVIATIONS[normalize])
    np.testing.assert_allclose((pixels - means) / deviations, normalize(tf.constant(pixels)), atol=1e-4)


def test_mediapipe_detects_digits_and_names_them(model: bytes) -> None:
    mediapipe = pytest.importorskip("mediapipe", reason="mediapipe is not installed: pip install mediapipe")
    from mediapipe.tasks import python as tasks
    from mediapipe.tasks.python import vision

    options = vision.ObjectDetectorOptions(tasks.BaseOptions(model_asset_buffer=model), score_threshold=0.4)
    with vision.ObjectDetector.create_from_options(options) as detector:
        found = detector.detect(mediapipe.Image.create_from_file(str(SCENE))).detections
    assert [detection.categories[0].category_name for detection in found] == ["six", "seven", "two"]
    six = found[0].bounding_box
    np.testing.assert_allclose((six.origin_x, six.origin_y, six.width, six.height), (93, 54, 36, 56), atol=1)
    assert found[0].categories[0].score == pytest.approx(0.715, abs=0.005)  # MediaPipe resizes in its own way
