"""Version folders with ONNX, OpenVINO and TFLite files: the same requests, errors and reloads as for SavedModels."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import openvino
import pytest
import tensorflow as tf
from serving import (
    LONG_S,
    config_of,
    in_parallel,
    predict,
    send_request,
    serving,
    wait_until,
    write_half_plus,
)
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from unfreeze.errors import SavedModelError
from unfreeze.runtimes import find_model_file, load_file
from unfreeze.server.process import Server
from unfreeze.server.serve import models_to_serve
from unfreeze.server.settings import Batching

COLUMNS = 3
TFLITE_ROWS = 2  # the fixed size of a batch


def write_onnx(path: Path, plus: float) -> None:
    """Writes x / 2 + plus, and the sum of each row, for a batch of any size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    floats = onnx.TensorProto.FLOAT
    constants = [
        onnx.helper.make_tensor("half", floats, [], [0.5]),
        onnx.helper.make_tensor("plus", floats, [COLUMNS], [plus] * COLUMNS),
        onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        onnx.helper.make_node("Mul", ["x", "half"], ["halves"]),
        onnx.helper.make_node("Add", ["halves", "plus"], ["y"]),
        onnx.helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
    ]
    value = onnx.helper.make_tensor_value_info
    outputs = [value("y", floats, ["n", COLUMNS]), value("sum", floats, ["n"])]
    graph = onnx.helper.make_graph(nodes, "half_plus", [value("x", floats, ["n", COLUMNS])], outputs, constants)
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))


def write_openvino(path: Path, plus: float) -> None:
    """Writes the same model as `model.xml` and `model.bin`."""
    source = path.with_name("source.onnx")
    write_onnx(source, plus)
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    source.unlink()


def write_tflite(path: Path, plus: float) -> None:
    """Writes the same model for batches of TFLITE_ROWS rows."""
    path.parent.mkdir(parents=True, exist_ok=True)

    @tf.function(input_signature=[tf.TensorSpec([TFLITE_ROWS, COLUMNS], tf.float32, "x")])
    def half_plus(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x / 2 + plus, "sum": tf.reduce_sum(x, axis=1)}

    module = tf.Module()
    module.half_plus = half_plus
    function = half_plus.get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert())


class SignalStack(ctypes.Structure):
    """The stack_t of sigaltstack."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture(scope="module", autouse=True)
def no_signal_stack() -> Iterator[None]:
    """Lets the handlers of later tests run on the stack of the process.

    After these tests the kernel could not deliver a signal on the alternate stack that a library had set, and ended the
    process when test_cli.py raised one.
    """
    yield
    if sys.platform == "linux":
        stack = SignalStack(None, 2, 0)  # SS_DISABLE
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a base path with a version for each runtime; version V adds V."""
    folder = tmp_path_factory.mktemp("models")
    write_onnx(folder / "1" / "model.onnx", 1)
    write_openvino(folder / "2" / "model.xml", 2)
    write_openvino(folder / "3" / "openvino" / "model.xml", 3)
    write_tflite(folder / "4" / "model.tflite", 4)
    return folder


@pytest.fixture(scope="module")
def running(models: Path) -> Iterator[Server]:
    config = config_of(half=models)
    config.model_config_list.config[0].model_version_policy.all.SetInParent()
    with serving(config, num_run_threads=8) as running:
        yield running


def rows(*values: float) -> list[list[float]]:
    return [[value] * COLUMNS for value in values]


def path_of(version: int) -> str:
    return f"/v1/models/half/versions/{version}:predict"


VERSIONS = pytest.mark.parametrize("version", [1, 2, 3, 4], ids=["onnx", "openvino", "openvino folder", "tflite"])


@VERSIONS
def test_predict_over_rest_and_grpc(running: Server, version: int) -> None:
    expected = rows(version + 1.0, version + 2.0)
    code, document = predict(running, {"instances": rows(2.0, 4.0)}, path_of(version))
    assert (code, document) == (
        200,
        {"predictions": [{"sum": 6.0, "y": expected[0]}, {"sum": 12.0, "y": expected[1]}]},
    )
    code, document = predict(running, {"inputs": {"x": rows(2.0, 4.0)}}, path_of(version))
    assert (code, document) == (200, {"outputs": {"sum": [6.0, 12.0], "y": expected}})
    request = grpc_request(version, x=np.array(rows(2.0, 4.0), np.float32))
    request.output_filter.append("y")
    response = grpc_predict(running, request)
    assert {name: tf.make_ndarray(value).tolist() for name, value in response.outputs.items()} == {"y": expected}
    assert response.model_spec.version.value == version


def grpc_request(version: int, **inputs: np.ndarray) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version.value = "half", version
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def grpc_predict(running: Server, request: Any) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=LONG_S)


@VERSIONS
def test_signature_is_that_of_the_file(running: Server, version: int) -> None:
    code, document = send_request(running, "GET", f"/v1/models/half/versions/{version}/metadata")
    count = str(TFLITE_ROWS if version == 4 else -1)
    [(name, definition)] = document["metadata"]["signature_def"]["signature_def"].items()
    assert (code, name, definition["method_name"]) == (200, "serving_default", "tensorflow/serving/predict")
    assert {key: described(info) for key, info in definition["inputs"].items()} == {"x": ("DT_FLOAT", [count, "3"])}
    assert {key: described(info) for key, info in definition["outputs"].items()} == {
        "y": ("DT_FLOAT", [count, "3"]),
        "sum": ("DT_FLOAT", [count]),
    }
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name, request.model_spec.version.value = "half", version
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        metadata = stub.GetModelMetadata(request, timeout=LONG_S).metadata["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap()
    metadata.Unpack(signatures)
    assert list(signatures.signature_def["serving_default"].inputs) == ["x"]


def described(info: dict[str, Any]) -> tuple[str, list[str]]:
    return info["dtype"], [dim["size"] for dim in info["tensor_shape"]["dim"]]


@VERSIONS
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": [[1.0, 2.0], [1.0, 2.0]]}, "input x has shape [2, 2], but the signature expects"),
        ({"instances": [[[1.0]], [[1.0]]]}, "input x has shape [2, 1, 1], but the signature expects"),
        ({"inputs": {"z": [[1.0, 2.0, 3.0]]}}, "Missing named input: x in 'inputs' object."),
        ({"instances": [{"z": [1.0, 2.0, 3.0]}]}, "JSON object: does not have named input: z"),
        ({"instances": ["text", "text"]}, "Type: String is not of expected type: float"),
        (
            {"instances": [{"b64": "AAAA"}, {"b64": "AAAA"}]},
            "is not of expected type: float. Send numbers: only inputs of type string take base64 data.",
        ),
        ({"signature_name": "other", "instances": [[1.0]]}, 'Serving signature name: "other" not found'),
    ],
)
def test_wrong_request_is_rejected(running: Server, version: int, body: dict[str, Any], message: str) -> None:
    code, document = predict(running, body, path_of(version))
    assert code == 400
    assert message in document["error"]


@VERSIONS
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.zeros([2, 3], np.uint8)}, "Expects arg[0] to be float but uint8 is provided"),
        ({"x": np.array([b"a"])}, "Expects arg[0] to be float but string is provided"),
        ({"z": np.zeros([2, 3], np.float32)}, "input tensor alias not found in signature: z"),
        ({}, "Missing but required: {x}"),
    ],
)
def test_wrong_grpc_request_is_rejected(
    running: Server, version: int, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        grpc_predict(running, grpc_request(version, **inputs))
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message.replace("float ", "float32 ") in error.details()


def test_input_without_values_is_rejected(running: Server) -> None:
    for version in (1, 2):
        with pytest.raises(grpc.RpcError) as raised:
            grpc_predict(running, grpc_request(version, x=np.zeros([0, COLUMNS], np.float32)))
        error: Any = raised.value
        assert (error.code(), error.details()) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "input x has no values (shape: [0, 3])",
        )


def test_batch_larger_than_a_fixed_one_is_rejected(running: Server) -> None:
    code, document = predict(running, {"instances": rows(1.0, 2.0, 3.0)}, path_of(4))
    assert code == 400
    assert document["error"] == "input x has shape [3, 3], but the signature expects (2, 3)"


@VERSIONS
def test_threads_get_the_outputs_of_their_own_inputs(running: Server, models: Path, version: int) -> None:
    file = find_model_file(models / str(version))
    assert file is not None
    model = load_file(file)

    def call_often(thread: int) -> None:
        for number in range(100):
            value = 100.0 * thread + number
            outputs = model.call({"x": np.full([TFLITE_ROWS, COLUMNS], value, np.float32)})
            assert outputs["y"].tolist() == rows(*[value / 2 + version] * TFLITE_ROWS)

    in_parallel(8, call_often)

    def request_often(thread: int) -> None:
        for number in range(5):
            value = 100.0 * thread + number
            code, document = predict(running, {"instances": rows(value, value)}, path_of(version))
            assert (code, document["predictions"][0]["y"]) == (200, rows(value / 2 + version)[0])

    in_parallel(8, request_often)


def test_batching_joins_requests_unless_the_batch_size_is_fixed(models: Path) -> None:
    config = config_of(half=models)
    config.model_config_list.config[0].model_version_policy.all.SetInParent()
    batching = Batching(max_batch_size=4, batch_timeout_micros=int(60e6), num_batch_threads=1)
    with serving(config, batching=batching) as running:
        for version, count in ((1, 2), (2, 2), (4, 1)):  # in a batch, the request of TFLite would wait for a minute

            def request(_: int, path: str = path_of(version)) -> tuple[int, Any]:
                return predict(running, {"instances": rows(2.0, 4.0)}, path)

            results = in_parallel(count, request)
            assert [code for code, _ in results] == [200] * count
            assert [document["predictions"][1]["y"] for _, document in results] == rows(version + 2.0) * count
        page = running.engine.metrics.page()
    assert "unfreeze_batch_size_count{} 2\n" in page
    assert "unfreeze_batch_size_sum{} 8\n" in page
    for runtime in ("ONNX Runtime", "OpenVINO", "LiteRT"):
        assert f'runtime_latency_count{{model_name="half",API="Predict",runtime="{runtime}"}} 1\n' in page


def newest(running: Server) -> int:
    code, document = send_request(running, "GET", "/v1/models/half/metadata")
    assert code == 200
    return int(document["model_spec"]["version"])


def test_new_versions_are_loaded_and_broken_ones_are_reported(models: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(models / "1", base / "1")
    with serving(config_of(half=base), file_system_poll_wait_seconds=0.05, load_retry_interval_micros=1) as running:
        assert newest(running) == 1
        shutil.copytree(models / "2", tmp_path / "staged")
        (tmp_path / "staged").rename(base / "2")
        wait_until(lambda: newest(running) == 2, "version 2 is served")
        assert predict(running, {"instances": rows(0.0)}) == (
            200,
            {"predictions": [{"sum": 0.0, "y": rows(2.0)[0]}]},
        )
        (base / "3").mkdir()
        (base / "3" / "model.onnx").write_bytes((models / "1" / "model.onnx").read_bytes()[:100])

        def failed() -> Any:
            _, document = send_request(running, "GET", "/v1/models/half/versions/3")
            return "cannot be loaded by ONNX Runtime" in json.dumps(document)

        wait_until(failed, "version 3 has failed")
        assert newest(running) == 2
        shutil.copy(models / "1" / "model.onnx", base / "3" / "new.onnx")
        (base / "3" / "new.onnx").replace(base / "3" / "model.onnx")
        wait_until(lambda: newest(running) == 3, "version 3 is served")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def fill_with_text(path: Path) -> None:
    path.write_bytes(b"not a model\n" * 20)


LOAD = """
import os, sys
from pathlib import Path
from unfreeze.errors import SavedModelError
from unfreeze.runtimes import find_model_file, load_file
for folder in sys.argv[1:]:
    try:
        load_file(find_model_file(Path(folder)))
    except SavedModelError as error:
        print(error)
"""


def test_damaged_files_are_errors_of_their_runtimes(models: Path, tmp_path: Path) -> None:
    """In a process of its own, which a library could end."""
    damages: list[Callable[[Path], None]] = [truncate, fill_with_text, empty]
    files = [(1, "model.onnx"), (2, "model.xml"), (2, "model.bin"), (4, "model.tflite")]
    folders = []
    for version, name in files:
        for damage in (*damages, Path.unlink) if name == "model.bin" else damages:
            folders.append(tmp_path / f"{name}-{damage.__name__}")
            shutil.copytree(models / str(version), folders[-1])
            damage(folders[-1] / name)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, folders)], capture_output=True, text=True, check=True
    )  # fmt: skip
    errors = done.stdout.splitlines()
    assert len(errors) == len(folders)
    for folder, error in zip(folders, errors, strict=True):
        assert error.startswith(f"{folder}/model.")
        assert "cannot be loaded by" in error


def test_version_that_cannot_be_loaded_ends_the_start(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "4", tmp_path / "1")
    truncate(tmp_path / "1" / "model.tflite")
    assert f"{tmp_path / '1'}: version 1 of model half failed to load: " in start_error(tmp_path)


def start_error(base_path: Path) -> str:
    """Returns the error of a server that has no version to serve."""
    with pytest.raises(SavedModelError) as raised, serving(config_of(half=base_path)):
        pass
    return str(raised.value)


def test_saved_model_comes_before_the_files_beside_it(models: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    write_half_plus(export / "saved_model", 10.0)
    for version in (1, 4):
        shutil.copytree(models / str(version), export, dirs_exist_ok=True)
    shutil.copytree(export / "saved_model", tmp_path / "versions" / "7")
    shutil.copy(models / "1" / "model.onnx", tmp_path / "versions" / "7")
    without = tmp_path / "without"
    shutil.copytree(export, without, ignore=shutil.ignore_patterns("saved_model"))
    config = config_of(
        export=export,
        versions=tmp_path / "versions",
        without=without,
        onnx=export / "model.onnx",
        tflite=export / "model.tflite",
    )
    with serving(config) as running:
        models_served = running.engine.models.served
        runtimes = {name: running.engine.models.find(name).loaded_model().runtime for name in models_served}
        folders = {name: running.find_version(name) for name in models_served}
        first_line = str(running).splitlines()[0]
    assert runtimes == {
        "export": "TF2", "versions": "TF2", "without": "ONNX Runtime", "onnx": "ONNX Runtime", "tflite": "LiteRT",
    }  # fmt: skip
    assert first_line == (
        "serving export [1], versions [7], without [1 (ONNX Runtime)], onnx [1 (ONNX Runtime)], tflite [1 (LiteRT)]"
    )
    assert folders == {
        "export": (1, export / "saved_model"),
        "versions": (7, tmp_path / "versions" / "7"),
        "without": (1, without),
        "onnx": (1, export),
        "tflite": (1, export),
    }


def test_file_of_another_name_is_reported(models: Path, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    shutil.copy(models / "1" / "model.onnx", tmp_path / "1" / "detector.onnx")
    assert "detector.onnx is not served under this name. Rename it to model.onnx." in start_error(tmp_path)


def test_frozen_graph_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "frozen_inference_graph.pb").write_bytes(b"")
    with pytest.raises(SavedModelError, match="is neither a folder nor a file that can be served"):
        models_to_serve(tmp_path / "frozen_inference_graph.pb", "half", None)


def test_missing_runtime_is_an_error_of_the_version(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    error = start_error(models / "1" / "model.onnx")
    assert "needs the package onnxruntime to run; run pip install 'unfreeze[onnx]'" in error
