"""The three bindings of the weights, in exports and in other programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import unfreeze
from unfreeze.cli import main

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
IMAGE = np.asarray(Image.open(DIGITS / "scenes" / "scene_05.png"))[np.newaxis]
SHAPE = (1, 160, 160, 3)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of an export of each binding; that of the variables is verified by other tests."""
    folder = tmp_path_factory.mktemp("exports")
    for binding in ("variables", "constants", "trainable"):
        unfreeze.export(
            DIGITS / "run", output_directory=folder / binding, weights=binding, verify=binding == "trainable"
        )
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def detections(exports: dict[str, Path]) -> dict[str, np.ndarray]:
    return served(exports["variables"] / "saved_model")


def served(saved_model: Path) -> dict[str, np.ndarray]:
    signature = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    return {name: value.numpy() for name, value in signature(inputs=tf.constant(IMAGE)).items()}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("binding", ["constants", "trainable"])
def test_every_binding_gives_the_same_detections(
    binding: str, exports: dict[str, Path], detections: dict[str, np.ndarray]
) -> None:
    assert_same(served(exports[binding] / "saved_model"), detections)


def test_constants_leave_an_empty_variables_folder(exports: dict[str, Path]) -> None:
    assert list((exports["constants"] / "saved_model" / "variables").iterdir()) == []
    again = unfreeze.verify(exports["constants"], against=DIGITS / "run" / "model.ckpt-8000")
    assert again.passed
    assert not unfreeze.inspect(exports["constants"]).problems


def test_a_changed_constant_fails_the_verification(exports: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(exports["constants"], folder)
    path = folder / "saved_model" / "saved_model.pb"
    graph = path.read_bytes()
    biases = unfreeze.load_detector(DIGITS / "run").variables["BoxPredictor_0/ClassPredictor/biases"].numpy().tobytes()
    assert graph.count(biases) == 1
    path.write_bytes(graph.replace(biases, biases[::-1]))
    report = unfreeze.verify(folder)
    [weights] = [check for check in report.checks if check.name == "weights"]
    assert "ClassPredictor/biases" in weights.detail
    assert "is not among the constants of the graph" in weights.detail


def test_only_the_trainable_binding_has_trainable_variables(exports: dict[str, Path]) -> None:
    trainable = {
        binding: sum(variable.trainable for variable in tf.saved_model.load(str(path / "saved_model")).weights)
        for binding, path in exports.items()
        if binding != "constants"
    }
    assert trainable == {"variables": 0, "trainable": 129}


def test_keras_runs_every_binding(exports: dict[str, Path], detections: dict[str, np.ndarray]) -> None:
    for path in exports.values():
        layer = keras.layers.TFSMLayer(str(path / "saved_model"), call_endpoint="serving_default")
        assert_same({name: value.numpy() for name, value in layer(IMAGE).items()}, detections)
    inputs = keras.Input((None, None, 3), dtype="uint8")
    layer = keras.layers.TFSMLayer(str(exports["variables"] / "saved_model"), call_endpoint="serving_default")
    assert_same(keras.Model(inputs, layer(inputs)).predict(IMAGE, verbose=0), detections)


def test_tensorflow_hub_runs_every_binding(exports: dict[str, Path], detections: dict[str, np.ndarray]) -> None:
    hub = pytest.importorskip("tensorflow_hub")
    model = hub.load(str(exports["variables"] / "saved_model"))
    assert_same({name: value.numpy() for name, value in model(IMAGE).items()}, detections)


def test_freezing_gives_a_graph_with_the_same_outputs(
    exports: dict[str, Path], detections: dict[str, np.ndarray]
) -> None:
    for binding in ("variables", "trainable"):
        model = tf.saved_model.load(str(exports[binding] / "saved_model"))
        signature = model.signatures["serving_default"]
        frozen = convert_variables_to_constants_v2(signature)
        assert not frozen.captured_inputs
        outputs = dict(zip(sorted(signature.structured_outputs), frozen(tf.constant(IMAGE)), strict=True))
        assert_same({name: value.numpy() for name, value in outputs.items()}, detections)


def test_model_saved_again_verifies(exports: dict[str, Path], tmp_path: Path) -> None:
    model = tf.saved_model.load(str(exports["variables"] / "saved_model"))
    again = tmp_path / "again"
    tf.saved_model.save(model, str(again), signatures=dict(model.signatures))
    del model
    report = unfreeze.verify(again, against=exports["variables"])
    assert report.passed, report.table()


CONVERT = """
import sys
import tensorflow as tf

converter = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1], signature_keys=["serving_default"])
if sys.argv[2] == "select":
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
try:
    print("converted to", len(converter.convert()), "bytes")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("operations", ["builtin", "select"])
def test_tflite_converter_converts_or_raises(operations: str, exports: dict[str, Path], tmp_path: Path) -> None:
    fixed = unfreeze.export(
        DIGITS / "run", output_directory=tmp_path, input_shape=SHAPE, input_types=["image_tensor"], verify=False
    )
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, str(fixed.saved_model), operations],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("converted to" if operations == "select" else "ConverterError"), done.stdout
    if operations == "builtin":
        assert "CombinedNonMaxSuppression" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("source", "weights", "message"),
    [
        (DIGITS / "run", "frozen", "'frozen' is not one of 'variables', 'constants', 'trainable'"),
        (DIGITS / "frozen_inference_graph.pb", "constants", "not supported yet: --weights with a frozen graph"),
    ],
)
def test_unsupported_weights_are_rejected(
    source: Path, weights: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["export", str(source), "--weights", weights, "--output-directory", str(tmp_path / "out")])
    assert raised.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
