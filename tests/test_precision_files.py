"""Files of lower precision: which parts of a small network are float16 or int8, and the digits example as a whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as operations

import unfreeze
from unfreeze import cli
from unfreeze.callbacks import ignore
from unfreeze.errors import ImageError, VerificationError
from unfreeze.exporting.accuracy import Accuracy
from unfreeze.exporting.precision_options import PrecisionOptions
from unfreeze.formats import openvino_int8, openvino_network
from unfreeze.formats.calibration import write_calibration
from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.onnx_precision import convert_to_half, quantized
from unfreeze.formats.precision import Precision
from unfreeze.formats.tflite_precision import convert_with_precision

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
RNG = np.random.default_rng(0)
IMAGES = [RNG.random([1, 8, 8, 3]).astype(np.float32) for _ in range(4)]
# Two convolutions, and boxes like those of a detector: their sum with anchors, and an exponential.
WEIGHTS = [RNG.normal(0, 0.3, shape).astype(np.float32) for shape in ([3, 3, 3, 16], [1, 1, 16, 4])]
ANCHORS = RNG.random([1, 8, 8, 4]).astype(np.float32)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    assert write_calibration(IMAGES, folder) == len(IMAGES)
    return folder


def expected(image: np.ndarray) -> np.ndarray:
    codes = tf.nn.conv2d(tf.nn.relu6(tf.nn.conv2d(image, WEIGHTS[0], 1, "SAME")), WEIGHTS[1], 1, "SAME")
    boxes: np.ndarray = (tf.exp(codes / 5) + ANCHORS).numpy()
    return boxes


def assert_close(run: Callable[[np.ndarray], np.ndarray], tolerance: float) -> None:
    for image in IMAGES:
        np.testing.assert_allclose(run(image), expected(image), rtol=0, atol=tolerance)


def onnx_model() -> Any:
    kernels = [numpy_helper.from_array(np.transpose(w, (3, 2, 0, 1)).copy(), f"w{i}") for i, w in enumerate(WEIGHTS)]
    constants = [(ANCHORS, "anchors"), (np.float32(0), "low"), (np.float32(6), "high"), (np.float32(0.2), "scale")]
    nodes = [
        helper.make_node("Transpose", ["images"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["codes"]),
        helper.make_node("Transpose", ["codes"], ["rows"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["rows", "scale"], ["scaled"]),
        helper.make_node("Exp", ["scaled"], ["sizes"]),
        helper.make_node("Add", ["sizes", "anchors"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 8, 8, 4])],
        [*kernels, *(numpy_helper.from_array(np.asarray(value), name) for value, name in constants)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def onnx_runner(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"images": image})[0]


def test_onnx_half_has_float16_weights_and_float32_boxes() -> None:
    model = onnx_model()
    convert_to_half(model)
    onnx.checker.check_model(model)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} == {"anchors", "scale"}
    assert types["w0_float16"] == types["w1_float16"] == TensorProto.FLOAT16
    assert_close(onnx_runner(model), 0.005)


def test_onnx_half_keeps_an_output_of_the_network_in_float32() -> None:
    model = onnx_model()
    model.graph.output.append(helper.make_tensor_value_info("codes", TensorProto.FLOAT, [1, 4, 8, 8]))
    convert_to_half(model)
    onnx.checker.check_model(model)
    assert_close(onnx_runner(model), 0.005)


def test_onnx_int8_quantizes_the_convolutions_and_not_the_boxes(calibration: Path) -> None:
    model = quantized(onnx_model(), calibration)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    assert {name for name, tensor in weights.items() if tensor.data_type == TensorProto.INT8 and tensor.dims[1:]} == {
        "w0_quantized",
        "w1_quantized",
    }
    producers = {node.output[0]: node.op_type for node in model.graph.node}
    [boxes] = (node for node in model.graph.node if node.op_type == "Add")
    assert [producers.get(tensor) for tensor in boxes.input] == ["Exp", None]
    assert_close(onnx_runner(model), 0.06)


def openvino_model() -> Any:
    image = operations.parameter([1, 8, 8, 3], np.float32, name="images")
    x = operations.transpose(image, operations.constant([0, 3, 1, 2]))
    for weights, padding, is_last in zip(WEIGHTS, (1, 0), (False, True), strict=True):
        kernel = operations.constant(np.transpose(weights, (3, 2, 0, 1)).copy())
        x = operations.convolution(x, kernel, [1, 1], [padding] * 2, [padding] * 2, [1, 1])
        x = x if is_last else operations.clamp(x, 0.0, 6.0)
    rows = operations.transpose(x, operations.constant([0, 2, 3, 1]))
    sizes = operations.exp(operations.multiply(rows, operations.constant(np.float32(0.2))))
    return openvino.Model([operations.add(sizes, operations.constant(ANCHORS))], [image], "small")


def openvino_runner(model: Any, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", settings)
    return lambda image: compiled(image)[0]


def test_openvino_half_has_float16_weights_and_float32_anchors(tmp_path: Path) -> None:
    model = openvino_model()
    openvino_network.store_weights_as_half(model)
    assert_close(openvino_runner(model, tmp_path), 0.005)
    halves = [
        node
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "f16"
    ]
    assert sorted(tuple(node.get_output_shape(0)) for node in halves) == [
        (4, 16, 1, 1),
        (16, 3, 3, 3),
    ]


def test_openvino_int8_quantizes_the_convolutions_and_not_the_boxes(calibration: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    model = openvino_int8.quantized(openvino_model(), calibration)
    [boxes] = (node for node in model.get_ops() if node.get_type_name() == "Add")
    inputs = {value.get_node().get_type_name() for value in boxes.input_values()}
    assert inputs == {"Exp", "Constant"}
    assert sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops()) >= 2
    assert_close(openvino_runner(model, tmp_path), 0.06)


@pytest.mark.parametrize(
    ("precision", "is_float", "tolerance"),
    [(Precision.HALF, True, 0.005), (Precision.INT8, False, 0.06), (Precision.INT8_WEIGHTS, True, 0.06)],
    ids=lambda value: str(value),
)
def test_tflite_keeps_the_boxes_in_float32(
    precision: Precision, is_float: bool, tolerance: float, calibration: Path
) -> None:
    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], name="images")])
    def boxes(image: tf.Tensor) -> dict[str, tf.Tensor]:
        codes = tf.nn.conv2d(tf.nn.relu6(tf.nn.conv2d(image, WEIGHTS[0], 1, "SAME")), WEIGHTS[1], 1, "SAME")
        return {"boxes": tf.exp(codes / 5) + ANCHORS}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([boxes.get_concrete_function()], tf.Module())
    options = ConversionOptions(precision=precision, calibration=None if is_float else calibration)
    interpreter = Interpreter(model_content=convert_with_precision(converter, options))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    assert_close(lambda image: np.array(runner(images=image)["boxes"]), tolerance)
    details = interpreter.get_tensor_details()
    features, boxes, weights = (
        {detail["dtype"] for detail in details if detail["shape"].tolist() == shape}
        for shape in ([1, 8, 8, 16], [1, 8, 8, 4], [4, 1, 1, 16])
    )
    is_int8 = precision is Precision.INT8
    assert np.int8 not in boxes
    assert (np.int8 in features) is is_int8
    assert (np.int8 in weights) is is_int8  # of the last layer; --int8-weights leaves fewer than 1024 weights alone


def test_export_records_agreement_and_map(tmp_path: Path) -> None:
    unfreeze.export(
        DIGITS / "run",
        output_directory=tmp_path / "int8",
        formats=["tflite"],
        int8=True,
        calibration_images=DIGITS / "scenes",
        calibration_count=6,
        annotations=DIGITS / "scenes" / "annotations.json",
    )
    record = json.loads((tmp_path / "int8" / "export.json").read_text())["formats"]["tflite"]
    assert (record["precision"], record["verified"], record["calibration"]["images"]) == ("int8", True, 6)
    assert record["agreement"]["matched"] >= 0.8 * record["agreement"]["detections"] > 20
    accuracy = record["accuracy"]
    assert accuracy["loss"] == pytest.approx(accuracy["float_map"] - accuracy["file_map"])
    assert accuracy["float_map"] > 0.3
    assert record["detail"].startswith("int8: ")


@dataclass(frozen=True)
class FixedModel:
    """A model that detects the annotated object of `pseudo_annotations`, or misses it."""

    boxes: np.ndarray
    title: str = "a model"
    output_names: tuple[str, ...] = ()
    uses_gpu: bool = False

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.ones([len(images), 1], np.float32)
        boxes = np.repeat(self.boxes[np.newaxis], len(images), axis=0)
        return {"detection_boxes": boxes, "detection_scores": rows, "detection_classes": rows}


def test_loss_of_map_is_limited(tmp_path: Path, monkeypatch: Any) -> None:
    image = {"id": 1, "width": 160, "height": 160, "file_name": "scene_00.png"}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 40, 80, 80], "area": 6400, "iscrowd": 0}
    path = tmp_path / "val.json"
    path.write_text(json.dumps({"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "zero"}]}))
    right = FixedModel(np.array([[0.25, 0.25, 0.75, 0.75]], np.float32))
    wrong = FixedModel(np.array([[0.25, 0.6, 0.75, 1.0]], np.float32))
    files = {Path("good.tflite"): right, Path("bad.tflite"): wrong}
    monkeypatch.setattr("unfreeze.exporting.accuracy.load_model", files.__getitem__)
    monkeypatch.setattr("unfreeze.exporting.accuracy.find_model", lambda found: found)
    options = PrecisionOptions(annotations=str(path), images=DIGITS / "scenes", max_map_loss=0.01)
    accuracy = Accuracy(options, None, ignore)
    record = accuracy.measure(Path("good.tflite"), right)
    assert (record.float_map, record.loss) == (pytest.approx(1.0), 0.0)
    with pytest.raises(VerificationError, match=r"bad.tflite loses 1\.0000 mAP .* --max-map-loss 0\.01$"):
        accuracy.measure(Path("bad.tflite"), right)
    with pytest.raises(ImageError, match=r"the mAP of the float model is 0\.000"):
        Accuracy(options, None, ignore).measure(Path("good.tflite"), wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino", "tflite"])
@pytest.mark.parametrize("option", ["--half", "--int8"])
def test_digits_example_in_every_precision(name: str, option: str, tmp_path: Path) -> None:
    scenes = str(DIGITS / "scenes")
    arguments = ["export", str(DIGITS / "run"), "--format", name, option, "--output-directory", str(tmp_path / "out")]
    arguments += ["--annotations", f"{scenes}/annotations.json", "--max-map-loss", "0.1"]
    arguments += ["--calibration-images", scenes] if option == "--int8" else []
    cli.unfreeze.main(arguments, standalone_mode=False)
    shutil.rmtree(tmp_path / "out")
