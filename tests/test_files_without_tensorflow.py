"""Files of ONNX, OpenVINO and TFLite run without an import of TensorFlow, and survive that they are overwritten."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import tensorflow as tf
from PIL import Image
from test_early_errors import PROGRAM

BOX, SCORES, CLASSES = [[[0.0, 0.0, 0.5, 0.5]]], [[0.75]], [[3.0]]
CONSTANTS = {"detection_boxes": BOX, "detection_scores": SCORES, "detection_classes": CLASSES}


def write_onnx(path: Path) -> None:
    """Writes a detector that finds one box in any image."""
    helper, floats, integers = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    nodes = [helper.make_node("Shape", ["images"], ["count"], start=0, end=1)]
    outputs, constants = [], []
    for name, value in CONSTANTS.items():
        sizes = np.shape(value)[1:]
        constants.append(helper.make_tensor(f"{name}_value", floats, np.shape(value), np.ravel(value)))
        constants.append(helper.make_tensor(f"{name}_sizes", integers, [len(sizes)], sizes))
        nodes.append(helper.make_node("Concat", ["count", f"{name}_sizes"], [f"{name}_shape"], axis=0))
        nodes.append(helper.make_node("Expand", [f"{name}_value", f"{name}_shape"], [name]))
        outputs.append(helper.make_tensor_value_info(name, floats, ["n", *sizes]))
    images = helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["n", "h", "w", 3])
    graph = helper.make_graph(nodes, "one_box", [images], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def write_openvino(path: Path) -> None:
    write_onnx(path.with_name("source.onnx"))
    openvino.save_model(openvino.convert_model(path.with_name("source.onnx")), path)


def write_tflite(path: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], tf.uint8, "images")])
    def detect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        zero = 0.0 * tf.reduce_max(tf.cast(images, tf.float32))
        return {name: zero + tf.constant(value) for name, value in CONSTANTS.items()}

    module = tf.Module()
    module.detect = detect
    tf.saved_model.save(module, str(path.with_suffix("")), signatures=detect)
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(path.with_suffix(""))).convert())


WRITERS = {"model.onnx": write_onnx, "model.xml": write_openvino, "model.tflite": write_tflite}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, write in WRITERS.items():
        write(folder / name)
    Image.new("RGB", (16, 8)).save(folder / "image.png")
    return folder


def run(folder: Path, program: str, *arguments: str) -> str:
    """Returns what a program in a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder, env={**os.environ, "UNFREEZE_TRACEBACK": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", WRITERS)
def test_predict_does_not_import_tensorflow(folder: Path, name: str) -> None:
    printed = run(folder, PROGRAM, "requests", "predict", name, "image.png", "--no-draw")
    assert printed == "image.png: class 3 75%\n"


SURVIVE = """
import os, sys
from pathlib import Path
import numpy as np
from unfreeze.runtimes import find_model, load_model
for name in sys.argv[1:]:
    model = load_model(find_model(name))
    os.truncate(Path(name).with_suffix(".bin") if name.endswith(".xml") else name, 0)
    print(model.run(np.zeros([1, 8, 8, 3], np.uint8))["detection_scores"].tolist())
"""


def test_loaded_model_survives_that_its_file_is_overwritten(tmp_path: Path) -> None:
    """A process with a memory map of a file that becomes shorter ends by a signal."""
    for name, write in WRITERS.items():
        write(tmp_path / name)
    assert run(tmp_path, SURVIVE, *WRITERS) == f"{SCORES}\n" * len(WRITERS)


CONVERTER = """
import sys
from pathlib import Path
from unfreeze.runtimes.openvino import load_model
load_model(Path(sys.argv[1]), None)
print("openvino.tools.ovc" in sys.modules)
import openvino
from openvino import convert_model
print(convert_model is openvino.convert_model, hasattr(openvino, "no_such_name"))
"""


def test_converter_of_openvino_is_imported_when_it_is_used(folder: Path) -> None:
    assert run(folder, CONVERTER, "model.xml") == "False\nTrue False\n"
