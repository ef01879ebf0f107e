"""Tests which operations of a graph each TensorFlow version knows, and the servers that are built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import SavedModelError
from unfreeze.targets.server_versions import ServerVersion, parse_server_version, require_known_operations
from unfreeze.targets.serving_operations import tensorflow_versions, unknown_operations


def write(folder: Path, *nodes: tuple[str, dict[str, Any], list[str]], in_function: bool = False) -> Path:
    """Writes a SavedModel of these nodes: operation, attributes, inputs."""
    message = saved_model_pb2.SavedModel()
    graph = message.meta_graphs.add().graph_def
    if in_function:
        function = graph.library.function.add()
        function.signature.name = "__inference_f_1"
    for number, (op, attributes, inputs) in enumerate(nodes):
        node = (function.node_def if in_function else graph.node).add(name=f"n{number}", op=op, input=inputs)
        for name, value in attributes.items():
            if isinstance(value, tf.DType):
                node.attr[name].type = value.as_datatype_enum
            elif isinstance(value, bool):
                node.attr[name].b = value
            elif isinstance(value, int):
                node.attr[name].i = value
            elif isinstance(value, bytes):
                node.attr[name].s = value
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    return folder


def test_supported_tensorflow_versions() -> None:
    assert tensorflow_versions() == ["1.15", *(f"2.{minor}" for minor in range(4, 22))]


@pytest.mark.parametrize("in_function", [False, True])
def test_operation_of_a_later_version(tmp_path: Path, in_function: bool) -> None:
    model = write(tmp_path, ("DecodeImage", {}, ["bytes"]), in_function=in_function)
    assert unknown_operations(model, "1.15") == ["DecodeImage: not known; TensorFlow 2.4 is the first that has it"]
    assert unknown_operations(model, "2.4") == []


def test_operation_of_no_version(tmp_path: Path) -> None:
    model = write(tmp_path, ("CustomNonMaxSuppression", {}, []), ("__inference_g_2", {}, []))
    assert unknown_operations(model, "2.21")[0] == (
        "CustomNonMaxSuppression: not known; no TensorFlow up to 2.21 has it"
    )


def test_attribute_of_a_later_version(tmp_path: Path) -> None:
    attributes = {"dtype": tf.float32, "debug_name": b"w"}
    model = write(tmp_path, ("VarHandleOp", attributes | {"shape": None}, []))
    problems = unknown_operations(model, "2.10")
    assert problems[0] == "VarHandleOp: attribute shape is required, but missing; no TensorFlow up to 2.21 has it"
    assert problems[1].startswith("VarHandleOp: attribute debug_name is not known; TensorFlow 2.")
    assert not [line for line in unknown_operations(model, "2.21") if "debug_name" in line]


def test_attribute_type_that_is_not_allowed(tmp_path: Path) -> None:
    model = write(tmp_path, ("Relu", {"T": tf.string}, ["x"]), ("Relu", {"T": tf.float32}, ["x", "y"]))
    assert unknown_operations(model, "2.6") == [
        "Relu: attribute T may not be string; no TensorFlow up to 2.21 has it",
        "Relu: expects 1 inputs, but has 2; no TensorFlow up to 2.21 has it",
    ]


def test_operations_of_the_installed_tensorflow_are_known(tmp_path: Path) -> None:
    version = ".".join(tf.__version__.split(".")[:2])
    if version not in tensorflow_versions():
        pytest.skip(f"no data of TensorFlow {version} yet: run scripts/op_registries")
    names = [
        "Conv2D",
        "NonMaxSuppressionV5",
        "CombinedNonMaxSuppression",
        "ImageProjectiveTransformV3",
        "TensorListStack",
    ]
    problems = unknown_operations(write(tmp_path, *((name, {}, []) for name in names)), version)
    assert not [line for line in problems if "not known" in line]


def test_server_versions() -> None:
    assert parse_server_version("tensorflow-serving:2.6") == ServerVersion("tensorflow-serving", "2.6", "2.6.5")
    assert parse_server_version("tensorflow-serving:2.6.2").tensorflow == "2.6"
    kserve = parse_server_version("kserve")
    assert (kserve.tensorflow, kserve.image()) == ("2.6", "tensorflow/serving:2.6.2")
    sagemaker = parse_server_version("sagemaker:2.19")
    assert (
        sagemaker.image("eu-west-1") == "763104351884.dkr.ecr.eu-west-1.amazonaws.com/tensorflow-inference:2.19.0-cpu"
    )
    assert sagemaker.image("cn-north-1").startswith("727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/")


def test_graph_that_a_server_does_not_load_is_rejected(tmp_path: Path) -> None:
    model = write(tmp_path, ("DecodeImage", {}, ["bytes"]))
    kserve, old = parse_server_version("kserve"), parse_server_version("tensorflow-serving:1.15")
    require_known_operations(model, [kserve])
    with pytest.raises(SavedModelError, match=r"serving:1\.15 cannot load the graph\. DecodeImage: not known"):
        require_known_operations(model, [kserve, old])


def test_not_a_saved_model(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff")
    with pytest.raises(SavedModelError, match="cannot be read"):
        unknown_operations(tmp_path, "2.6")
