"""TensorFlow Serving's REST: every request of its documentation, its error codes, and its error texts."""

import base64
import gzip
import http.client
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from serving import config_of, png, predict, send_request, serving, wait_until, write_half_plus, write_shapes

from unfreeze.server import json_tensors
from unfreeze.server.process import Server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    write_half_plus(folder / "half" / "00000123", 2.0)
    write_half_plus(folder / "half" / "124", 3.0)
    write_shapes(folder / "shapes" / "1")
    config = config_of(half=folder / "half", shapes=folder / "shapes")
    config.model_config_list.config[0].model_version_policy.all.SetInParent()
    config.model_config_list.config[0].version_labels["stable"] = 123
    with serving(config, max_request_bytes=1_000_000, max_image_pixels=10_000) as running:
        yield running


def shapes(running: Server, body: Any) -> tuple[int, Any]:
    return predict(running, body, "/v1/models/shapes:predict")


NO_ERROR = {"error_code": "OK", "error_message": ""}


def test_status(running: Server) -> None:
    newest = {"version": "124", "state": "AVAILABLE", "status": NO_ERROR}
    oldest = {"version": "123", "state": "AVAILABLE", "status": NO_ERROR}
    code, document = send_request(running, "GET", "/v1/models/half")
    assert (code, document["model_version_status"]) == (200, [newest, oldest])
    assert (document["name"], document["ready"]) == ("half", True)  # added by KServe's V1 protocol
    code, document = send_request(running, "GET", "/v1/models/half/versions/123")
    assert (code, document["model_version_status"]) == (200, [oldest])
    code, document = send_request(running, "GET", "/v1/models/half/labels/stable")
    assert (code, document["model_version_status"]) == (200, [oldest])


def test_kserve_lists_models_and_is_alive(running: Server) -> None:
    assert send_request(running, "GET", "/v1/models") == (200, {"models": ["half", "shapes"]})
    assert send_request(running, "GET", "/") == (200, {"status": "alive"})


def test_metadata(running: Server) -> None:
    code, document = send_request(running, "GET", "/v1/models/half/versions/123/metadata")
    assert code == 200
    assert document["model_spec"] == {"name": "half", "signature_name": "", "version": "123"}
    signatures = document["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "tensorflow/serving/regress", "classify_x_to_y"}
    assert signatures["tensorflow/serving/regress"]["method_name"] == "tensorflow/serving/regress"
    examples = signatures["classify_x_to_y"]["inputs"]["inputs"]
    assert examples["dtype"] == "DT_STRING"
    assert examples["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/models/half:predict", [3.5, 4.0, 5.5]),
        ("/v1/models/half/versions/00000000000000000124:predict", [3.5, 4.0, 5.5]),
        ("/v1/models/half/versions/124:predict", [3.5, 4.0, 5.5]),
        ("/v1/models/half/versions/123:predict", [2.5, 3.0, 4.5]),
        ("/v1/models/half/labels/stable:predict", [2.5, 3.0, 4.5]),
        ("/V1/Models/half:PREDICT", [3.5, 4.0, 5.5]),  # TensorFlow Serving's pattern ignores case, too
    ],
)
def test_predict_by_version_and_label(running: Server, path: str, expected: list[float]) -> None:
    assert predict(running, {"instances": [1.0, 2.0, 5.0]}, path) == (200, {"predictions": expected})
    assert predict(running, {"inputs": [1.0, 2.0, 5.0]}, path) == (200, {"outputs": expected})


def test_regress_and_classify(running: Server) -> None:
    body = {"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}
    assert predict(running, body, "/v1/models/half:regress") == (200, {"results": [3.5, 4.0]})
    body = {"signature_name": "tensorflow/serving/regress", "context": {"x": 1.0}, "examples": [{}, {"x": [5.0]}]}
    assert predict(running, body, "/v1/models/half:regress") == (200, {"results": [3.5, 5.5]})
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}, {"x": 2.0}]}
    assert predict(running, body, "/v1/models/half:classify") == (200, {"results": [[["", 3.5]], [["", 4.0]]]})


ROWS = {
    "signature_name": "several",
    "instances": [
        {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
        {
            "tag": {"b64": "/wA="},
            "signal": [3, 4, 1, 2, 5.5],
            "sensor": [[4, 5], [6, 8]],
        },
    ],
}


def test_named_inputs_in_rows_and_in_columns(running: Server) -> None:
    code, document = shapes(running, ROWS)
    assert code == 200
    first, second = document["predictions"]
    assert first == {
        "name_bytes": {"b64": "Zm9v"}, "text": "foo!", "sum": 15.0, "doubled": [[2, 4], [6, 8]], "rows": 2,
    }  # fmt: skip
    assert second["name_bytes"] == {"b64": "/wA="}
    assert second["sum"] == 15.5
    columns = {name: [row[name] for row in ROWS["instances"]] for name in ROWS["instances"][0]}  # type: ignore[index]
    code, document = shapes(running, {"signature_name": "several", "inputs": columns})
    assert code == 200
    assert document["outputs"]["sum"] == [15.0, 15.5]
    assert document["outputs"]["doubled"] == [[[2, 4], [6, 8]], [[8, 10], [12, 16]]]


def test_nan_is_read_and_written_bare(running: Server) -> None:
    body = b'{"instances": [[NaN, Infinity, -Infinity, 0.1, 1]]}'
    code, document = shapes(running, body)
    assert code == 200
    [[nan, infinite, negative, tenth, one]] = document["predictions"]
    assert math.isnan(nan)
    assert (infinite, negative, tenth, one) == (math.inf, -math.inf, 0.2, 2.0)
    assert repr(one) == "2.0"


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 400 + ".5", "1" + "0" * 400, "9" * 5000])
def test_number_too_large_for_a_double_is_rejected(running: Server, number: str) -> None:
    code, document = shapes(running, f'{{"instances": [[0.5, Infinity, {number}]]}}'.encode())
    assert (code, document["error"]) == (400, "JSON Parse error: Number too big to be stored in double. at offset: 31")
    code, document = shapes(running, f'{{"a\\"{number}": "{number}", "instances": [[{number}]]}}'.encode())
    assert (code, document["error"].rsplit(" ", 1)[1]) == (
        400,
        str(len(f'{{"a\\"{number}": "{number}", "instances": [[')),
    )


def test_digits_in_a_name_are_not_a_number(running: Server) -> None:
    for name in ("v1.2.3", "1e400"):
        code, document = shapes(running, f'{{"signature_name": "{name}", "instances": [[Infinity]]}}'.encode())
        assert (code, name in document["error"]) == (400, True)


@pytest.mark.parametrize("dtype", [tf.float32, tf.int64])
def test_empty_lists_are_read_with_numpy(running: Server, dtype: tf.DType) -> None:
    """A body can have a great many of them, and reading them value by value is slow."""
    array = json_tensors.read_with_numpy([[[], []]] * 3, dtype, False)
    assert array is not None
    assert (array.shape, array.dtype) == ((3, 2, 0), dtype.as_numpy_dtype)
    assert shapes(running, {"instances": [[], []]}) == (200, {"predictions": [[], []]})


def test_booleans_are_not_numbers(running: Server) -> None:
    body = {"signature_name": "booleans", "instances": [True, False]}
    assert shapes(running, body) == (200, {"predictions": [False, True]})
    code, document = shapes(running, {"instances": [[1.0, True]]})
    assert code == 400
    assert "JSON Value: true Type: True is not of expected type: float" in document["error"]


def test_row_form_needs_batched_outputs_and_column_form_does_not(running: Server) -> None:
    code, document = shapes(running, {"signature_name": "odd", "instances": [1.0, 2.0]})
    assert (code, document) == (400, {"error": "Tensor name: scalar has no shape information "})
    code, document = shapes(running, {"signature_name": "odd", "inputs": [1.0, 2.0]})
    assert (code, document) == (200, {"outputs": {"scalar": 3.0, "y": [1.0, 2.0]}})


def test_large_arrays_are_returned_completely(running: Server) -> None:
    values = np.random.default_rng(1).normal(size=(2, 5000)).astype(np.float32)
    code, document = shapes(running, {"instances": values.tolist()})
    assert code == 200
    assert np.array_equal(np.array(document["predictions"], np.float32), values * 2)


def test_compressed_body(running: Server) -> None:
    packed = gzip.compress(b'{"instances": [1.0]}')
    headers = {"Content-Encoding": "gzip"}
    assert send_request(running, "POST", "/v1/models/half:predict", packed, headers) == (200, {"predictions": [3.5]})
    huge_body = gzip.compress(b'{"instances": [' + b" " * 5_000_000 + b"1.0]}")
    code, document = send_request(running, "POST", "/v1/models/half:predict", huge_body, headers)
    assert code == 413
    assert "--max-request-bytes: 1000000" in document["error"]


ELEMENT = "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
NAMED = {"tag": "a", "signal": [1], "sensor": [[1, 2], [3, 4]]}

# Model, body, status, text. The texts are those of util/json_tensor.cc.
WRONG_BODIES = [
    ("half", b"", 400, "JSON Parse error: The document is empty"),
    ("half", b"[1]", 400, "JSON Value: [1] Is not object"),
    ("half", b'{"instances": ', 400, "JSON Parse error: Invalid value. at offset: 14"),
    ("half", b'{"instances": [1}', 400, "JSON Parse error: Missing a comma or ] after an array element. at offset: 16"),
    (
        "half",
        b'{"instances" [1]}',
        400,
        "Missing a colon after a name of object member. at offset: 13",
    ),
    ("half", b'{"instances": [1]} x', 400, "JSON Parse error: The document root must not be followed by other values."),
    ("half", b'{"instances": "\xff"}', 400, "JSON Parse error: "),
    ("half", b"{}", 400, "Missing 'inputs' or 'instances' key"),
    ("half", {"inputs": [1], "instances": [1]}, 400, "expecting only one of 'inputs' or 'instances' keys to exist"),
    ("half", {"instances": 1}, 400, "JSON Value: {\"instances\": 1} Excepting 'instances' to be an list/array"),
    ("half", {"instances": []}, 400, "No values in 'instances' array"),
    ("half", {"signature_name": 1, "instances": [1]}, 400, "'signature_name' key must be a string value."),
    ("half", {"signature_name": "x", "instances": [1]}, 400, 'Serving signature name: "x" not found in signature def'),
    ("half", {"instances": ["x"]}, 400, ELEMENT + 'JSON Value: "x" Type: String is not of expected type: float'),
    ("half", b'{"instances": ["\\ud800"]}', 400, "Type: String is not of expected type: float"),
    ("half", {"signature_name": "\ud800", "instances": [1]}, 400, "not found in signature def"),
    ("half", b'{"instances": [' + b"9" * 5000 + b"]}", 400, "JSON Parse error: "),
    ("half", {"instances": [None]}, 400, ELEMENT + "JSON Value: null Type: Null is not of expected type: float"),
    ("half", {"instances": [16777216]}, 400, "Cannot convert JSON value: 16777216 to float without loss of precision."),
    ("half", {"instances": [1e39]}, 400, "to float without loss of precision."),
    (
        "half",
        {"instances": [{"z": 1}]},
        400,
        "Failed to process element: 0 key: z of 'instances' list. Error: "
        "INVALID_ARGUMENT: JSON object: does not have named input: z",
    ),
    ("half", {"instances": [{"x": 1}, 2]}, 400, "Expecting object but got list at item 1 of input list"),
    ("half", {"instances": [1, {"x": 1}]}, 400, "Expecting value/list but got object at item 1 of input list"),
    ("half", {"instances": [[1, 2], [1, 2, 3]]}, 400, "Expecting tensor size: 2 but got: 3"),
    ("half", {"instances": [[1, 2], [[1], [2]]]}, 400, "Expecting shape [2] but got: [2,1]"),
    ("half", {"instances": [[1, [2]]]}, 400, "Encountered list at unexpected level: 1 expected < 1"),
    ("half", {"instances": [[[1], 2]]}, 400, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. "),
    (
        "half",
        {"instances": [[[1], [2, 3]]]},
        400,
        "unexpected size: 2 at level: 1 expected size: 1",
    ),
    ("half", {"inputs": {"z": [1]}}, 400, "Missing named input: x in 'inputs' object."),
    ("shapes", {"instances": [[1], [2, 3]]}, 400, "Expecting tensor size: 1 but got: 2"),
    ("shapes", {"instances": [1]}, 400, "input x has shape [1], but the signature expects (None, None)"),
    (
        "shapes",
        {"signature_name": "several", "instances": [1]},
        400,
        "instances is a plain list, but expecting list of "
        "objects as multiple input tensors required as per tensorinfo_map",
    ),
    (
        "shapes",
        {"signature_name": "several", "inputs": [1]},
        400,
        "inputs is a plain value/list, but expecting",
    ),
    (
        "shapes",
        {"signature_name": "several", "instances": [{"tag": "a"}]},
        400,
        "must be equal to: sensor,signal,tag",
    ),
    (
        "shapes",
        {"signature_name": "several", "instances": [{**NAMED, "sensor": [[1, 2], [3, 4.5]]}]},
        400,
        "Failed to process element: 0 key: sensor of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 4.5 Type: "
        "Number is not of expected type: int32",
    ),
    (
        "shapes",
        {"signature_name": "several", "instances": [{**NAMED, "tag": {"b64": "@@"}}]},
        400,
        "Unable to base64 decode",
    ),
    (
        "shapes",
        {"signature_name": "several", "instances": [{**NAMED, "tag": {"b64": "_w-A"}}]},
        400,
        "Unable to base64 decode",
    ),  # TensorFlow Serving rejects the URL-safe alphabet, too
    (
        "shapes",
        {"signature_name": "several", "instances": [{**NAMED, "tag": {"b64": "", "x": 1}}]},
        400,
        "not formatted correctly for base64 data",
    ),
    ("shapes", {"signature_name": "images", "instances": ["nothing"]}, 400, "Unknown image file format"),
    ("none", {"instances": [1]}, 404, "Servable not found for request: Latest(none)"),
    ("half/versions/7", {"instances": [1]}, 404, "Servable not found for request: Specific(half, 7)"),
    ("half/labels/nope", {"instances": [1]}, 400, "Unrecognized servable version label: nope"),
]


@pytest.mark.parametrize(("model", "body", "status", "text"), WRONG_BODIES)
def test_wrong_predict_requests_are_rejected(running: Server, model: str, body: Any, status: int, text: str) -> None:
    code, document = predict(running, body, f"/v1/models/{model}:predict")
    assert code == status
    assert text in document["error"]


def test_deep_nesting_is_an_error(running: Server) -> None:
    for depth in (70, 900, 100_000):
        code, document = predict(running, b'{"instances": ' + b"[" * depth + b"1" + b"]" * depth + b"}")
        assert code == 400
        assert len(document["error"]) < 1000


def test_quoted_value_is_shortened(running: Server) -> None:
    code, document = predict(running, {"instances": ["x" * 100_000]})
    assert code == 400
    assert len(document["error"]) < 500


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/v1/models/half", 400, "Malformed request: POST /v1/models/half"),
        ("POST", "/v1/models/half:explain", 400, "Malformed request: POST /v1/models/half:explain"),
        ("PUT", "/v1/models/half", 400, "Malformed request: PUT /v1/models/half"),
        ("GET", "/v1/nothing", 400, "Malformed request: GET /v1/nothing"),
        ("GET", "/v2/models/half", 404, "Malformed request: GET /v2/models/half"),
        ("GET", "/v1/models/none", 404, "Could not find any versions of model none"),
        ("GET", "/v1/models/half/versions/7", 404, "Could not find version 7 of model half"),
        ("GET", "/v1/models/none/metadata", 404, "Servable not found for request: Latest(none)"),
        ("GET", f"/v1/models/half/versions/{10**30}", 400, "Failed to convert version: 1000"),
        ("GET", f"/v1/models/half/versions/{'9' * 5000}", 400, "Failed to convert version: 9999"),
        ("POST", f"/v1/models/half/versions/{'9' * 5000}:predict", 400, "Failed to convert version: 9999"),
        ("GET", f"/v1/models/half/versions/{'0' * 5000}7", 404, "Could not find version 7 of model half"),
        (
            "GET",
            "/v1/models/..%2F..%2F..%2Fetc%2Fpasswd",
            404,
            "any versions of model ../../../etc/passwd",
        ),
        ("GET", "/v1/models/../../../etc/passwd", 400, "Malformed request"),
        ("GET", "/v1/models/half%00", 404, "Could not find any versions of model half\0"),
    ],
)
def test_wrong_paths_are_rejected(running: Server, method: str, path: str, status: int, text: str) -> None:
    code, document = send_request(running, method, path, b"{}" if method == "POST" else None)
    assert (code, text in document["error"]) == (status, True), document


def test_classify_and_regress_errors(running: Server) -> None:
    for body, text in [
        ({"instances": [1]}, "When method is classify, key 'examples' is expected and was not found"),
        ({"examples": 1}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [1, "a"]}]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"examples": [{"x": 1.0}]}, "Expected regression signature method_name to be tensorflow/serving/regress. Was: "
         "tensorflow/serving/predict"),
        ({"signature_name": "no", "examples": [{"x": 1.0}]}, "No signature was found with the name: no"),
        (b'{"examples": [{"x": [0.5, 1e400]}]}', "Number too big to be stored in double. at offset: 26"),
    ]:  # fmt: skip
        code, document = predict(running, body, "/v1/models/half:regress")
        assert (code, text in document["error"]) == (400, True), document


def test_body_above_the_size_limit_is_rejected(running: Server) -> None:
    body = json.dumps({"instances": [[0.5] * 300_000]}).encode()
    code, document = predict(running, body)
    assert code == 413
    assert "--max-request-bytes: 1000000" in document["error"]
    connection = http.client.HTTPConnection("127.0.0.1", running.rest_port or 0)
    chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    connection.request("POST", "/v1/models/half:predict", chunks, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_image_above_the_pixel_limit_is_rejected(running: Server) -> None:
    def decoded_size(encoded: bytes) -> tuple[int, Any]:
        return shapes(running, {"signature_name": "images", "instances": [{"b64": base64.b64encode(encoded).decode()}]})

    assert decoded_size(png(100, 100)) == (200, {"predictions": [[100, 100, 3]]})
    code, document = decoded_size(png(101, 100))
    assert code == 400
    assert (
        "an image of 100 x 101 pixels exceeds the limit of this server (--max-image-pixels: 10000)" in document["error"]
    )


def test_metrics_for_prometheus(running: Server) -> None:
    import urllib.request

    predict(running, {"instances": [1.0]})
    predict(running, {"instances": [1.0]}, "/v1/models/none:predict")
    with urllib.request.urlopen(f"http://127.0.0.1:{running.rest_port}/monitoring/prometheus/metrics") as response:
        page = response.read().decode()
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"}' in page
    assert 'model_name="none"' not in page  # otherwise requests with random names fill the memory
    assert ':tensorflow:serving:request_latency_bucket{model_name="half",API="predict",entrypoint="REST",le=' in page
    assert ':tensorflow:serving:runtime_latency_count{model_name="half",API="Predict"' in page


def test_newest_version_takes_over_unless_it_is_broken(tmp_path: Path) -> None:
    write_half_plus(tmp_path / "half" / "1", 2.0)
    settings = {"file_system_poll_wait_seconds": 0, "load_retry_interval_micros": 0, "max_num_load_retries": 0}
    with serving(config_of(half=tmp_path / "half"), **settings) as running:
        assert predict(running, {"instances": [1.0]}) == (200, {"predictions": [2.5]})
        write_half_plus(tmp_path / "new", 3.0)
        (tmp_path / "new").rename(tmp_path / "half" / "2")
        running.engine.models.poll()
        assert predict(running, {"instances": [1.0]}) == (200, {"predictions": [3.5]})
        _, document = send_request(running, "GET", "/v1/models/half")
        states = [(status["version"], status["state"]) for status in document["model_version_status"]]
        assert states == [("2", "AVAILABLE"), ("1", "END")]

        shutil.copytree(tmp_path / "half" / "2", tmp_path / "half" / "3")
        (tmp_path / "half" / "3" / "saved_model.pb").write_bytes(b"incomplete")
        running.engine.models.poll()
        assert predict(running, {"instances": [1.0]}) == (200, {"predictions": [3.5]})
        _, document = send_request(running, "GET", "/v1/models/half/versions/3")
        [broken] = document["model_version_status"]
        assert (broken["state"], broken["status"]["error_code"]) == ("END", "DATA_LOSS")

        shutil.rmtree(tmp_path / "half" / "3")
        shutil.rmtree(tmp_path / "half" / "2")  # a rollback
        running.engine.models.poll()
        assert predict(running, {"instances": [1.0]}) == (200, {"predictions": [2.5]})


def test_labels_beside_the_versions_are_followed(tmp_path: Path) -> None:
    base = tmp_path / "half"
    write_half_plus(base / "1", 2.0)
    write_half_plus(base / "2", 3.0)

    def write_labels(**labels: int) -> None:
        listed = " ".join(f"version_labels {{ key: '{label}' value: {number} }}" for label, number in labels.items())
        versions = " ".join(f"versions: {number}" for number in {2, *labels.values()})
        policy = f"model_version_policy {{ specific {{ {versions} }} }}"
        config = f"model_config_list {{ config {{ name: 'x' base_path: '/x' {policy} {listed} }} }}"
        (base / "staged").write_text(config)
        (base / "staged").rename(base / "models.config")

    def predict_label(label: str) -> tuple[int, Any]:
        return predict(running, {"instances": [1.0]}, f"/v1/models/half/labels/{label}:predict")

    write_labels(stable=1)
    with serving(config_of(half=base), follow_labels=True, file_system_poll_wait_seconds=0.05) as running:
        assert predict_label("stable") == (200, {"predictions": [2.5]})
        assert predict_label("canary")[0] == 400
        write_labels(stable=2, canary=1)
        wait_until(lambda: predict_label("canary")[0] == 200, "the new labels are read")
        assert predict_label("canary") == (200, {"predictions": [2.5]})
        assert predict_label("stable") == (200, {"predictions": [3.5]})
