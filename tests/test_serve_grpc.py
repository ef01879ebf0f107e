"""The gRPC services, with third-party clients: TensorFlow Serving's stubs, and ovmsclient."""

import http.client
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving import LONG_S, config_of, serving, write_half_plus, write_shapes
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from unfreeze.errors import ConfigError, SavedModelError
from unfreeze.server.inference import to_array
from unfreeze.server.process import Server
from unfreeze.server.settings import Ssl
from unfreeze.server.status import StatusCode, StatusError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_half_plus(folder / "half" / "123", 2.0)
    write_half_plus(folder / "half" / "124", 3.0)
    write_shapes(folder / "shapes" / "1")
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Server]:
    config = config_of(half=folder / "half", shapes=folder / "shapes")
    config.model_config_list.config[0].model_version_policy.all.SetInParent()
    config.model_config_list.config[0].version_labels["stable"] = 123
    with serving(config, max_request_bytes=1_000_000) as running:
        yield running


@pytest.fixture(scope="module")
def channel(running: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        yield channel


def predict(channel: grpc.Channel, request: Any, **options: Any) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, **{"timeout": LONG_S, **options})


def half_request(*values: float, model: str = "half") -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array(values, np.float32)))
    return request


def several_request() -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "shapes", "several"
    request.inputs["tag"].CopyFrom(tf.make_tensor_proto([b"a", b"\xff"]))
    request.inputs["signal"].CopyFrom(tf.make_tensor_proto(np.ones((2, 3), np.float32)))
    request.inputs["sensor"].CopyFrom(tf.make_tensor_proto(np.arange(8, dtype=np.int32).reshape(2, 2, 2)))
    return request


def test_predict_responds_with_the_version(channel: grpc.Channel) -> None:
    response = predict(channel, half_request(1.0, 2.0, 5.0))
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [3.5, 4.0, 5.5]
    assert (response.model_spec.name, response.model_spec.version.value) == ("half", 124)
    assert response.model_spec.signature_name == "serving_default"


def test_predict_by_version_and_label(channel: grpc.Channel) -> None:
    request = half_request(1.0)
    request.model_spec.version.value = 123
    assert tf.make_ndarray(predict(channel, request).outputs["y"]).tolist() == [2.5]
    request.model_spec.version_label = "stable"
    assert predict(channel, request).model_spec.version.value == 123


def test_tensor_as_a_list_of_values(channel: grpc.Channel) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half"
    tensor = request.inputs["x"]
    tensor.dtype = tf.float32.as_datatype_enum
    tensor.tensor_shape.dim.add(size=3)
    tensor.float_val.extend([1.0, 2.0, 5.0])
    assert tf.make_ndarray(predict(channel, request).outputs["y"]).tolist() == [3.5, 4.0, 5.5]
    del tensor.float_val[1:]  # one value fills the tensor
    assert tf.make_ndarray(predict(channel, request).outputs["y"]).tolist() == [3.5, 3.5, 3.5]


def test_several_inputs_and_an_output_filter(channel: grpc.Channel) -> None:
    request = several_request()
    response = predict(channel, request)
    assert set(response.outputs) == {"name_bytes", "text", "sum", "doubled", "rows"}
    assert list(response.outputs["name_bytes"].string_val) == [b"a", b"\xff"]
    assert tf.make_ndarray(response.outputs["doubled"]).tolist() == [[[0, 2], [4, 6]], [[8, 10], [12, 14]]]
    request.output_filter.append("sum")
    assert {name: tf.make_ndarray(value).tolist() for name, value in predict(channel, request).outputs.items()} == {
        "sum": [3.0, 3.0]
    }


def bad_shape() -> Any:
    request = half_request(1.0)
    request.inputs["x"].tensor_shape.dim[0].size = 10**12  # one value for 4 TB
    return request


def contradiction() -> Any:
    request = half_request(1.0)
    request.inputs["x"].tensor_content = b"\0" * 3
    return request


def wrong_type() -> Any:
    request = half_request(1.0)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array([1], np.int64)))
    return request


def renamed() -> Any:
    request = half_request(1.0)
    request.inputs["z"].CopyFrom(request.inputs["x"])
    del request.inputs["x"]
    return request


def too_many() -> Any:
    request = half_request(1.0)
    request.inputs["z"].CopyFrom(request.inputs["x"])
    return request


def with_output_filter(*names: str) -> Any:
    request = half_request(1.0)
    request.output_filter.extend(names)
    return request


def with_signature(name: str) -> Any:
    request = half_request(1.0)
    request.model_spec.signature_name = name
    return request


def with_label(label: str) -> Any:
    request = half_request(1.0)
    request.model_spec.version_label = label
    return request


LONG = "a" * 100_000  # an error that repeated it would not fit into the header that it goes into


@pytest.mark.parametrize(
    ("make", "code", "text"),
    [
        (lambda: with_label(LONG), "INVALID_ARGUMENT", "aaaa…"),
        (lambda: with_label("😀" * 10_000), "INVALID_ARGUMENT", "😀…"),
        (lambda: with_signature(LONG), "FAILED_PRECONDITION", 'Serving signature key "aaaa'),
        (lambda: half_request(1.0, model=LONG), "NOT_FOUND", "Servable not found for request: Latest(aaaa"),
        (lambda: with_output_filter(LONG), "INVALID_ARGUMENT", "output tensor alias not found in signature: aaaa"),
        (lambda: half_request(1.0, model="none"), "NOT_FOUND", "Servable not found for request: Latest(none)"),
        (lambda: with_signature("no"), "FAILED_PRECONDITION", 'Serving signature key "no" not found.'),
        (wrong_type, "INVALID_ARGUMENT", "Expects arg[0] to be float32 but int64 is provided"),
        (renamed, "INVALID_ARGUMENT", "alias not found in signature: z. Inputs expected to be in the set {x}."),
        (too_many, "INVALID_ARGUMENT", "does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}"),
        (lambda: with_output_filter("q"), "INVALID_ARGUMENT", "output tensor alias not found in signature: q"),
        (lambda: with_output_filter("y", "y"), "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
        (bad_shape, "INVALID_ARGUMENT", "tensor parsing error: x"),
        (contradiction, "INVALID_ARGUMENT", "tensor parsing error: x"),
        (predict_pb2.PredictRequest, "NOT_FOUND", "Servable not found"),
    ],
)  # fmt: skip
def test_wrong_requests_are_rejected(channel: grpc.Channel, make: Any, code: str, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, make())
    assert caught.value.code().name == code
    assert text in caught.value.details()


def test_message_above_the_size_limit_is_rejected(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, half_request(*([0.5] * 300_000)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_unparsable_message_is_rejected_and_not_logged(channel: grpc.Channel, caplog: pytest.LogCaptureFixture) -> None:
    send = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    for garbage in (b"\x0b" * 1000, b"\xff" * 1000, b"\x0a\xff\xff\xff\xff\x07"):
        with pytest.raises(grpc.RpcError) as caught:
            send(garbage, timeout=LONG_S)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert not caplog.records
    assert predict(channel, half_request(1.0)).outputs


def test_classify_and_regress(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    regress, classify = regression_pb2.RegressionRequest(), classification_pb2.ClassificationRequest()
    for request, signature in ((regress, "tensorflow/serving/regress"), (classify, "classify_x_to_y")):
        request.model_spec.name, request.model_spec.signature_name = "half", signature
        for value in (1.0, 2.0):
            request.input.example_list.examples.add().features.feature["x"].float_list.value.append(value)
    assert [entry.value for entry in stub.Regress(regress, timeout=LONG_S).result.regressions] == [3.5, 4.0]
    classes = stub.Classify(classify, timeout=LONG_S).result.classifications
    assert [[entry.score for entry in row.classes] for row in classes] == [[3.5], [4.0]]


def test_metadata(channel: grpc.Channel) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half"
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=LONG_S)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x"].dtype == tf.float32.as_datatype_enum
    assert response.model_spec.version.value == 124


def test_status(channel: grpc.Channel) -> None:
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half"
    states = stub.GetModelStatus(request, timeout=LONG_S).model_version_status
    assert [(status.version, status.state) for status in states] == [(124, 30), (123, 30)]
    request.model_spec.name = "none"
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelStatus(request, timeout=LONG_S)
    assert caught.value.details() == "Could not find any versions of model none"


def test_health(channel: grpc.Channel) -> None:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=LONG_S) == b"\x08\x01"  # SERVING


def test_client_of_openvino_over_grpc(running: Server) -> None:
    ovmsclient = pytest.importorskip("ovmsclient")
    client = ovmsclient.make_grpc_client(f"127.0.0.1:{running.grpc_port}")
    prediction = client.predict({"x": np.array([1.0, 2.0], np.float32)}, "half")
    assert np.asarray(prediction).tolist() == [3.5, 4.0]
    assert client.get_model_status("half", 124)[124]["state"] == "AVAILABLE"
    assert client.get_model_metadata("half")["inputs"]["x"]["dtype"] == "DT_FLOAT"
    with pytest.raises(ovmsclient.ModelNotFoundError if hasattr(ovmsclient, "ModelNotFoundError") else Exception):
        client.predict({"x": np.array([1.0], np.float32)}, "none")


def test_client_of_openvino_over_rest(running: Server) -> None:
    ovmsclient = pytest.importorskip("ovmsclient")
    client = ovmsclient.make_http_client(f"127.0.0.1:{running.rest_port}")
    prediction = client.predict({"x": np.array([1.0, 2.0], np.float32)}, "half")
    assert np.asarray(prediction).tolist() == [3.5, 4.0]
    assert client.get_model_status("half", 124)[124]["state"] == "AVAILABLE"
    assert client.get_model_metadata("half")


def test_config_is_replaced_at_run_time(folder: Path) -> None:
    with (
        serving(config_of(half=folder / "half")) as running,
        grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel,
    ):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_management_pb2.ReloadConfigRequest(config=config_of(other=folder / "half"))
        [model] = request.config.model_config_list.config
        model.model_version_policy.specific.versions.append(123)
        model.version_labels["canary"] = 124
        status = stub.HandleReloadConfigRequest(request, timeout=LONG_S).status
        assert status.error_code == 9
        assert "not currently available for inference" in status.error_message
        model.model_version_policy.specific.versions.append(124)
        assert stub.HandleReloadConfigRequest(request, timeout=LONG_S).status.error_code == 0
        labeled = half_request(1.0, model="other")
        labeled.model_spec.version_label = "canary"
        assert predict(channel, labeled).model_spec.version.value == 124
        with pytest.raises(grpc.RpcError, match=r"Latest\(half\)"):
            predict(channel, half_request(1.0))


def with_warmup(folder: Path, request: Any) -> Path:
    write_half_plus(folder, 2.0)
    extra = folder / "assets.extra"
    extra.mkdir()
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request)
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())
    return folder


def test_warm_up_requests_are_replayed_and_a_failing_one_fails_the_version(tmp_path: Path) -> None:
    with_warmup(tmp_path / "good" / "1", half_request(1.0))
    with serving(config_of(half=tmp_path / "good")) as running:
        assert running.serving()
    with_warmup(tmp_path / "bad" / "1", wrong_type())
    with pytest.raises(SavedModelError, match=r"Warmup record 1 of .* failed: Expects arg\[0\] to be float32"):
        serving(config_of(half=tmp_path / "bad")).__enter__()
    with serving(config_of(half=tmp_path / "bad"), enable_model_warmup=False) as running:
        assert running.serving()


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [(tf.int8, [300, -129], [44, 127]), (tf.uint8, [-1, 256], [255, 0]), (tf.int16, [2**31 - 1, 7], [-1, 7])],
)
def test_values_that_do_not_fit_are_cut_to_the_dtype(dtype: tf.DType, values: list[int], expected: list[int]) -> None:
    tensor = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, int_val=values)
    tensor.tensor_shape.dim.add(size=2)
    assert to_array("x", tensor, 1 << 20).tolist() == expected


FIELDS = {
    **dict.fromkeys(("int_val", "half_val"), -(2**31)),
    "int64_val": -(2**63),
    **dict.fromkeys(("uint32_val", "uint64_val"), 2**32 - 1),
    **dict.fromkeys(("float_val", "scomplex_val"), 3e38),
    **dict.fromkeys(("double_val", "dcomplex_val"), 1e300),
    "bool_val": True,
    "string_val": b"x",
}


@pytest.mark.parametrize("number", sorted(set(types_pb2.DataType.values())))
def test_any_field_with_any_dtype_is_an_array_or_an_invalid_argument(number: int) -> None:
    for field, value in FIELDS.items():
        tensor = tensor_pb2.TensorProto(dtype=number)
        tensor.tensor_shape.dim.add(size=2)
        getattr(tensor, field).append(value)
        assert shape_or_code(tensor) in ((2,), StatusCode.INVALID_ARGUMENT), field


def shape_or_code(tensor: tensor_pb2.TensorProto) -> tuple[int, ...] | StatusCode:
    try:
        return to_array("x", tensor, 1 << 20).shape
    except StatusError as error:
        return error.code


TLS = Path(__file__).parent / "data" / "tls"
SSL = Ssl((TLS / "key.pem").read_text(), (TLS / "cert.pem").read_text())


def test_tls_for_grpc_and_cors_for_rest(folder: Path) -> None:
    with serving(config_of(half=folder / "half"), ssl=SSL, cors=True) as running:
        assert f"gRPC 127.0.0.1:{running.grpc_port} with TLS" in str(running)
        trusted = grpc.ssl_channel_credentials((TLS / "cert.pem").read_bytes())
        with grpc.secure_channel(f"localhost:{running.grpc_port}", trusted) as channel:
            response = predict(channel, half_request(1.0), wait_for_ready=True)
            assert tf.make_ndarray(response.outputs["y"]).tolist() == [3.5]

        connection = http.client.HTTPConnection("127.0.0.1", running.rest_port or 0, timeout=LONG_S)
        headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
        connection.request("OPTIONS", "/v1/models/half:predict", headers=headers)
        assert connection.getresponse().getheader("Access-Control-Allow-Origin") == "*"
        connection.close()


def test_client_without_a_certificate_is_rejected_if_one_is_required(folder: Path) -> None:
    ssl = replace(SSL, custom_ca=SSL.server_cert, client_verify=True)
    certificate = (TLS / "cert.pem").read_bytes()
    with serving(config_of(half=folder / "half"), ssl=ssl, rest_api_port=None) as running:
        address = f"localhost:{running.grpc_port}"
        own = (SSL.server_key.encode(), SSL.server_cert.encode())
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(certificate, *own)) as channel:
            assert predict(channel, half_request(1.0), wait_for_ready=True).outputs
        with grpc.secure_channel(address, grpc.ssl_channel_credentials(certificate)) as channel:
            with pytest.raises(grpc.RpcError) as rejected:
                predict(channel, half_request(1.0))
            assert rejected.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


def test_key_that_is_not_valid_is_rejected(folder: Path) -> None:
    broken = replace(SSL, server_key="-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="--ssl-config-file: gRPC does not accept server_key"):  # noqa: SIM117
        with serving(config_of(half=folder / "half"), ssl=broken):
            pass
