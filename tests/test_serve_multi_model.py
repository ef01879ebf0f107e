"""`serve --sagemaker --multi-model`: the interface of SageMaker's multi-model endpoints."""

import http.client
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from serving import write_half_plus

from unfreeze.errors import ConfigError
from unfreeze.server.sagemaker import SageMakerServer
from unfreeze.server.serve import start_sagemaker

SCRIPT = """
import json
def handler(data, context):
    message = {"model": context.model_name, "uri": context.rest_uri, "channel": context.channel}
    return json.dumps(message), "application/x-test"
"""


@pytest.fixture(scope="module")
def running() -> Iterator[SageMakerServer]:
    running = start_sagemaker(multi_model=True, port=0)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    write_half_plus(folder / "1", 2.0)
    return folder


def send(
    running: SageMakerServer, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    assert running.http is not None
    connection = http.client.HTTPConnection("127.0.0.1", running.http.port, timeout=60)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers or {})
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text else None
    finally:
        connection.close()


def load(running: SageMakerServer, name: str, url: Path) -> tuple[int, Any]:
    return send(running, "POST", "/models", {"model_name": name, "url": str(url)})


def test_model_is_loaded_called_listed_and_unloaded(running: SageMakerServer, half: Path) -> None:
    assert send(running, "GET", "/ping") == (200, None)
    assert send(running, "GET", "/models") == (200, {"models": []})
    status, message = load(running, "first", half)
    assert status == 200
    assert message["success"].startswith("Successfully loaded model first, listening on rest port ")
    assert load(running, "first", half) == (409, {"error": "Model first is already loaded."})
    assert load(running, "second", half)[0] == 200

    entry = {"modelName": "first", "modelUrl": str(half)}
    status, listed = send(running, "GET", "/models")
    assert (status, listed["models"][0], len(listed["models"])) == (200, entry, 2)
    [version] = listed["first"]["model_version_status"]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")
    assert send(running, "GET", "/models/first") == (200, {"model": listed["first"], **entry})

    body = {"instances": [1.0]}
    assert send(running, "POST", "/models/first/invoke", body) == (200, {"predictions": [2.5]})
    for name in ("first", "second"):
        headers = {"X-Amzn-SageMaker-Target-Model": name}
        assert send(running, "POST", "/endpoints/any/invocations", body, headers) == (200, {"predictions": [2.5]})
    status, failed = send(running, "POST", "/models/first/invoke", {"instances": ["x"]})
    assert (status, failed["title"]) == (400, "400 Bad Request")
    assert "error" in json.loads(failed["description"])
    headers = {"Content-Type": "application/x-image"}
    unsupported = (415, {"error": "Unsupported Media Type: application/x-image"})
    assert send(running, "POST", "/models/first/invoke", body, headers) == unsupported

    unloaded = (200, {"success": "Successfully unloaded model first."})
    assert send(running, "DELETE", "/models/first") == unloaded
    assert send(running, "DELETE", "/models/first") == (404, {"error": "Model first is not loaded yet"})
    for method, path in (("GET", "/models/first"), ("POST", "/models/first/invoke")):
        assert send(running, method, path, body) == (404, {"error": "Model first is not loaded yet."})
    assert send(running, "POST", "/models/second/invoke", body) == (200, {"predictions": [2.5]})
    assert send(running, "DELETE", "/models/second")[0] == 200


def test_archive_with_a_script_is_loaded(running: SageMakerServer, half: Path, tmp_path: Path) -> None:
    (tmp_path / "inference.py").write_text(SCRIPT)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(half / "1", "1")
        tar.add(tmp_path / "inference.py", "code/inference.py")
    assert load(running, "a.tar.gz", tmp_path / "a.tar.gz")[0] == 200
    status, message = send(running, "POST", "/models/a.tar.gz/invoke", {}, {"Content-Type": "application/x-image"})
    assert (status, message["model"], message["channel"]) == (200, "a.tar.gz", None)
    assert message["uri"].endswith("/v1/models/a.tar.gz:predict")
    assert send(running, "DELETE", "/models/a.tar.gz")[0] == 200
    assert list(Path(running.unpacked.name).iterdir()) == []


def test_wrong_requests_are_rejected(running: SageMakerServer, half: Path, tmp_path: Path) -> None:
    (tmp_path / "named" / "1").mkdir(parents=True)
    (tmp_path / "too_large" / str(2**63)).mkdir(parents=True)
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "saved_model.pb").write_bytes(b"\xff")
    (tmp_path / "script" / "code").mkdir(parents=True)
    (tmp_path / "script" / "1").symlink_to(half / "1")
    (tmp_path / "script" / "code" / "inference.py").write_text("import no_such_module")
    for name, url, status, message in [
        ("../x", half, 400, "invalid model_name: '../x'"),
        ("x", tmp_path / "nothing", 404, "Could not find valid base path"),
        ("x", tmp_path, 404, "must have a version folder such as 1/ at its root"),
        ("x", tmp_path / "too_large", 404, "must have a version folder such as 1/ at its root"),
        ("x", tmp_path / "broken", 500, "Can't parse"),
        ("x", tmp_path / "script", 500, "code/inference.py cannot be imported"),
        ("x", tmp_path / "\ud800", 404, "Could not find valid base path"),
    ]:
        actual, response = load(running, name, url)
        assert (actual, message in response["error"]) == (status, True), response
    for body in (None, [], {"model_name": "x"}):
        status, response = send(running, "POST", "/models", body)
        assert (status, response["error"]) == (400, 'The body must be {"model_name": NAME, "url": FOLDER}.')
    status, response = send(running, "POST", "/invocations", {})
    assert (status, response["error"]) == (400, "Invocation request does not contain model name.")
    assert send(running, "GET", "/models") == (200, {"models": []})


def test_model_that_does_not_load_leaves_nothing_and_is_507_if_memory_is_short(
    running: SageMakerServer, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unfreeze.server.multi_model.available_memory_bytes", lambda: 1000)
    status, response = load(running, "half", half)
    assert status == 507
    assert response["error"].startswith("Memory exhausted: not enough memory to load the model: 0.0 MB needed")

    monkeypatch.undo()

    for loader, raised, expected in (
        (tf.saved_model, MemoryError(), 507),
        (tf.saved_model, tf.errors.ResourceExhaustedError(None, None, "OOM"), 507),
        (running.server.engine.models, KeyError("key"), 500),
    ):

        def fail(path: Any, error: Exception = raised) -> Any:
            raise error

        monkeypatch.setattr(loader, "load", fail)
        assert load(running, "half", half)[0] == expected
        monkeypatch.undo()
    assert load(running, "half", half)[0] == 200
    assert send(running, "POST", "/models/half/invoke", {"instances": [1.0]}) == (200, {"predictions": [2.5]})
    assert send(running, "DELETE", "/models/half")[0] == 200


def test_environment_variable_that_is_not_a_number_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_TFS_WAIT_TIME_SECONDS", "1m")
    with pytest.raises(ConfigError, match=r"SAGEMAKER_TFS_WAIT_TIME_SECONDS must be a whole number \(found: '1m'\)"):
        start_sagemaker(multi_model=True, port=0)


def test_archive_and_multi_model_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--multi-model takes no archive"):
        start_sagemaker("model.tar.gz", multi_model=True)
    with pytest.raises(ConfigError, match="there is no archive to serve"):
        start_sagemaker()
