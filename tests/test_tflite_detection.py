"""The .tflite with four outputs has the metadata that MediaPipe reads, and MediaPipe detects with it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.lite.python import schema_py_generated as schema

import unfreeze
from unfreeze.detectors.normalizations import MEANS_AND_DEVIATIONS
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS
from unfreeze.errors import SavedModelError
from unfreeze.runtimes import find_model, load_model
from unfreeze.tflite.detection import OUTPUTS
from unfreeze.tflite.fast_suppression import fast_detections

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
SCENE = DIGITS / "scenes" / "scene_00.png"
SCALES = ("y_scale", "x_scale", "h_scale", "w_scale")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tflite") / "export"
    unfreeze.export(
        DIGITS / "run",
        output_directory=folder,
        formats=["tflite"],
        postprocessing="tflite_op",
        label_map=DIGITS / "label_map.pbtxt",
        max_detections=5,
    )
    return folder / "model.tflite"


@pytest.fixture(scope="module")
def model(path: Path) -> bytes:
    return path.read_bytes()


def test_predict_names_the_detections_as_the_checkpoint_does(path: Path) -> None:
    pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    [prediction] = unfreeze.predict(path, [SCENE], min_score=0.4, draw=False, label_map=DIGITS / "label_map.pbtxt")
    assert [detection.name for detection in prediction.detections] == ["six", "seven", "two"]


def test_the_operation_has_the_requested_options(model: bytes) -> None:
    contents = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    [operation] = [row for row in contents.subgraphs[0].operators if row.customOptions is not None]
    options = flexbuffers.Loads(bytes(operation.customOptions))
    assert options["max_detections"] == 5
    assert options["num_classes"] == 10
    assert options["use_regular_nms"] is False


def test_suppression_in_numpy_keeps_the_best_of_boxes_that_overlap() -> None:
    anchors = np.array([[0.5, 0.5, 0.4, 0.4], [0.5, 0.52, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]], np.float32)
    scores = np.array([[0.9, 0.5, 0.6], [0.0, 0.8, 0.1], [0.1, 0.05, 0.3]], np.float32)
    numbers = {"nms_score_threshold": 0.2, "nms_iou_threshold": 0.5} | dict.fromkeys(SCALES, 1.0)
    detections = fast_detections(np.zeros([3, 4], np.float32), scores, anchors, 4, numbers)
    assert detections["num_detections"] == 2
    np.testing.assert_array_equal(detections["detection_classes"][:2], [1, 2])
    np.testing.assert_allclose(detections["detection_scores"], [0.8, 0.3, 0, 0])
    np.testing.assert_allclose(detections["detection_boxes"][0], [0.3, 0.32, 0.7, 0.72], atol=1e-6)


def test_model_without_metadata_is_rejected(model: bytes, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    contents = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    contents.metadata = []
    builder = flatbuffers.Builder(len(model))
    builder.Finish(contents.Pack(builder), b"TFL3")
    (tmp_path / "bare.tflite").write_bytes(bytes(builder.Output()))
    with pytest.raises(SavedModelError, match=r"bare\.tflite: has no metadata that says how pixels are normalized"):
        load_model(find_model(tmp_path / "bare.tflite"))


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
