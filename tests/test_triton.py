"""`package triton`: a model repository whose config.pbtxt has Triton's schema, for SavedModels and ONNX files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from unfreeze.errors import OutputError, SavedModelError, UnsupportedError
from unfreeze.targets.triton import package_triton
from unfreeze.targets.triton_config import Backend, Tensor, TritonModel, format_config

IMAGES = Tensor("inputs", "uint8", (None, None, None, 3))
BOXES = Tensor("detection_boxes", "float32", (None, 100, 4))
COUNT = Tensor("num_detections", "float32", (None,))


def parse_config(text: str) -> Any:
    """Returns config.pbtxt as Triton's own message; loads only this module of tritonclient, which needs no gRPC."""
    from google.protobuf import text_format

    origin = pytest.importorskip("tritonclient").__file__
    path = Path(origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("triton_model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())


def to_dict(config: Any) -> dict[str, Any]:
    from google.protobuf import json_format

    return json_format.MessageToDict(config, preserving_proto_field_name=True)


def test_config_has_the_official_schema() -> None:
    model = TritonModel(
        name="digits",
        backend=Backend.TENSORFLOW,
        inputs=[IMAGES],
        outputs=[BOXES, COUNT],
        max_batch_size=8,
        instances=2,
        gpu=True,
        signature="image_tensor",
        class_names={"1": 'ze"ro', "2": "größer"},
    )
    config = to_dict(parse_config(format_config(model)))
    names = json.loads(config["parameters"].pop("class_names")["string_value"])
    assert names == {"1": 'ze"ro', "2": "größer"}
    assert config == {
        "name": "digits",
        "platform": "tensorflow_savedmodel",
        "max_batch_size": 8,
        "input": [{"name": "inputs", "data_type": "TYPE_UINT8", "dims": ["-1", "-1", "3"]}],
        "output": [
            {"name": "detection_boxes", "data_type": "TYPE_FP32", "dims": ["100", "4"]},
            {"name": "num_detections", "data_type": "TYPE_FP32", "dims": ["1"], "reshape": {}},
        ],
        "dynamic_batching": {},
        "instance_group": [{"count": 2, "kind": "KIND_GPU"}],
        "parameters": {"TF_SIGNATURE_DEF": {"string_value": "image_tensor"}},
    }


def test_config_of_a_model_without_batches_has_full_shapes() -> None:
    model = TritonModel(
        name="m",
        backend=Backend.ONNX_RUNTIME,
        inputs=[Tensor("x", "float32", (1, 300, 300, 3))],
        outputs=[Tensor("y", "int64", (1,))],
        max_batch_size=0,
    )
    config = to_dict(parse_config(format_config(model)))
    assert (config["backend"], config.get("max_batch_size")) == ("onnxruntime", None)
    assert config["input"][0]["dims"] == ["1", "300", "300", "3"]
    assert config["output"] == [{"name": "y", "data_type": "TYPE_INT64", "dims": ["1"]}]
    assert "dynamic_batching" not in config
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_CPU"}]


def test_tensor_without_a_data_type_of_triton_is_rejected() -> None:
    model = TritonModel(
        name="m", backend=Backend.TENSORFLOW, inputs=[Tensor("x", "dtype 8", (1,))], outputs=[], max_batch_size=0
    )
    with pytest.raises(UnsupportedError, match="x is dtype 8, which Triton has no data type for"):
        format_config(model)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a SavedModel with a signature for batches, and one with a scalar output."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("model") / "saved_model"
    module = tf.Module()
    module.one = tf.Variable(1.0)
    strings = [tf.TensorSpec([None], tf.string, name="inputs")]
    batched = tf.function(lambda inputs: {"detection_scores": tf.fill([tf.size(inputs), 3], module.one)}, strings)
    scalar = tf.function(lambda inputs: {"count": tf.cast(tf.size(inputs), tf.float32) * module.one}, strings)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": batched, "scalar": scalar})
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "label_map.pbtxt").write_text('item { id: 1 name: "zero" }\n')
    return folder


def test_repository_of_a_saved_model(saved_model: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    warnings: list[str] = []
    packaged = package_triton(
        saved_model, tmp_path / "out", name="digits", version=3, gpus=2, gpu_memory_fraction=0.5,
        on_warning=warnings.append,
    )  # fmt: skip
    folder = packaged.folder / "models" / "digits"
    assert (folder / "3" / "model.savedmodel" / "saved_model.pb").is_file()
    config = to_dict(parse_config((folder / "config.pbtxt").read_text()))
    assert config["input"] == [{"name": "inputs", "data_type": "TYPE_STRING", "dims": ["1"], "reshape": {}}]
    assert config["output"] == [{"name": "detection_scores", "data_type": "TYPE_FP32", "dims": ["3"]}]
    assert (config["max_batch_size"], config["instance_group"][0]["kind"]) == (8, "KIND_GPU")
    assert config["parameters"] == {"class_names": {"string_value": '{"1": "zero"}'}}
    service = yaml.safe_load((packaged.folder / "compose.yaml").read_text())["services"]["triton"]
    assert service["image"] == packaged.image == "nvcr.io/nvidia/tritonserver:25.02-py3"
    assert service["command"][1:] == [
        "--model-repository=/models",
        "--backend-config=tensorflow,gpu-memory-fraction=0.5",
    ]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 2, "capabilities": ["gpu"]}
    assert [line for line in warnings if "removed its TensorFlow backend in release 25.03" in line]


def test_signature_without_a_batch_dimension(saved_model: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    packaged = package_triton(saved_model, tmp_path / "out", signature="scalar", on_warning=warnings.append)
    config = to_dict(parse_config((packaged.folder / "models" / "detector" / "config.pbtxt").read_text()))
    assert config["input"] == [{"name": "inputs", "data_type": "TYPE_STRING", "dims": ["-1"]}]
    assert config["parameters"]["TF_SIGNATURE_DEF"] == {"string_value": "scalar"}
    assert any("not every tensor has a batch dimension" in line for line in warnings)
    with pytest.raises(OutputError, match="--max-batch-size 4: the first dimension of count in"):
        package_triton(saved_model, tmp_path / "other", signature="scalar", max_batch_size=4)
    with pytest.raises(SavedModelError, match=r"has no signature absent \(found: scalar, serving_default\)"):
        package_triton(saved_model, tmp_path / "other", signature="absent")
    assert not (tmp_path / "other").exists()


def test_repository_of_an_onnx_file(saved_model: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    yaml = pytest.importorskip("yaml")
    shape = ["N", 4]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )
    file = saved_model.parent / "model.onnx"
    file.write_bytes(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
        ).SerializeToString()
    )
    packaged = package_triton(file, tmp_path / "out", name="digits", gpus=1)
    folder = packaged.folder / "models" / "digits"
    assert (folder / "1" / "model.onnx").read_bytes() == file.read_bytes()
    config = to_dict(parse_config((folder / "config.pbtxt").read_text()))
    assert (config["backend"], config["output"]) == (
        "onnxruntime",
        [{"name": "y", "data_type": "TYPE_FP32", "dims": ["4"]}],
    )
    assert config["parameters"] == {"class_names": {"string_value": '{"1": "zero"}'}}  # of saved_model/ beside it
    service = yaml.safe_load((packaged.folder / "compose.yaml").read_text())["services"]["triton"]
    assert service["image"] == "nvcr.io/nvidia/tritonserver:26.07-py3"
    assert "environment" not in service
    for option in ({"signature": "image_tensor"}, {"server": "triton:2.17"}, {"gpus": 1, "gpu_memory_fraction": 0.5}):
        with pytest.raises(UnsupportedError, match="with the ONNX file"):
            package_triton(file, tmp_path / "other", **option)  # type: ignore[arg-type]


def test_files_and_options_that_triton_does_not_take(saved_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"")
    with pytest.raises(
        UnsupportedError, match="is a file of TFLite, and unfreeze package triton takes SavedModels and"
    ):
        package_triton(file, tmp_path / "out")
    with pytest.raises(OutputError, match=r"--gpu-memory-fraction 0\.5: has no effect without --gpus"):
        package_triton(saved_model, tmp_path / "out", gpu_memory_fraction=0.5)
    with pytest.raises(OutputError, match="--instances 0: must be at least 1"):
        package_triton(saved_model, tmp_path / "out", instances=0)
    assert not (tmp_path / "out").exists()
