"""`predict` over REST, gRPC and a SageMaker endpoint has the detections of the SavedModel."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving import config_of, serving

from unfreeze import predict
from unfreeze.cli import dispatch
from unfreeze.errors import ConfigError, RemoteError, SavedModelError, UnsupportedError
from unfreeze.prediction import remote
from unfreeze.server.process import Server
from unfreeze.server.sagemaker import SageMakerServer


class Detector(tf.Module):
    """Detects one object in every image: its box encodes the size of the image, its score the first red value."""

    def detect(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.cast(tf.shape(images), tf.float32)
        edges = tf.stack([0.1, 0.2, shape[1] / 1024.0, shape[2] / 1024.0])
        number = tf.shape(images)[0]
        return {
            "detection_boxes": tf.tile(edges[None, None], [number, 2, 1]),
            "detection_scores": tf.stack([tf.cast(images[:, 0, 0, 0], tf.float32) / 255.0, tf.zeros([number])], 1),
            "detection_classes": tf.tile([[3.0, 1.0]], [number, 1]),
            "num_detections": tf.fill([number], 2.0),
            "raw_detection_boxes": tf.zeros([number, 5000, 4]),
        }

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "inputs")])
    def pixels(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.detect(inputs)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def encoded(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        decode = lambda encoded: tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return self.detect(tf.map_fn(decode, inputs, tf.uint8))


LABEL_MAP = "".join(f"item {{ id: {number} name: '{name}' }}\n" for number, name in ((1, "one"), (3, "three")))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    module = Detector()
    signatures = {"serving_default": module.pixels, "encoded_image_string_tensor": module.encoded}
    tf.saved_model.save(module, str(folder / "both" / "1"), signatures=signatures)
    tf.saved_model.save(module, str(folder / "pixels" / "1"), signatures={"serving_default": module.pixels})
    (folder / "labels.pbtxt").write_text(LABEL_MAP)
    return folder


@pytest.fixture(scope="module")
def running(models: Path) -> Iterator[Server]:
    with serving(config_of(both=models / "both", pixels=models / "pixels")) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    pixels = np.full((60, 90, 3), 204, np.uint8)
    Image.fromarray(pixels).save(folder / "plain.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=turned, quality=95)
    Image.fromarray(pixels).save(folder / "other.webp", lossless=True)
    return sorted(folder.iterdir())


def detections(predictions: Any) -> list[Any]:
    return [prediction.to_dict()["detections"] for prediction in predictions]


@pytest.mark.parametrize("name", ["both", "pixels"])
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_server_has_the_detections_of_the_saved_model(
    running: Server, models: Path, images: list[Path], name: str, scheme: str
) -> None:
    address = {
        "http": f"http://127.0.0.1:{running.rest_port}/v1/models/{name}",
        "grpc": f"grpc://127.0.0.1:{running.grpc_port}/{name}",
    }[scheme]
    options: dict[str, Any] = {"label_map": models / "labels.pbtxt", "draw": False}
    local = predict(models / name / "1", images, **options)
    remote = predict(address, images, **options)
    assert detections(remote) == detections(local)
    assert [prediction.detections[0].name for prediction in remote] == ["three"] * 3
    sizes = {(60 / 1024, 90 / 1024), (90 / 1024, 60 / 1024)}
    assert {prediction.detections[0].box[2:] for prediction in remote} == sizes


class Masking(Detector):
    """Its response is larger than the 4 MB that gRPC clients accept by default."""

    def detect(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {**super().detect(images), "detection_masks": tf.ones([tf.shape(images)[0], 2, 800, 800])}


def test_response_of_more_than_four_megabytes(images: list[Path], tmp_path: Path) -> None:
    module = Masking()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.pixels})
    with serving(config_of(masking=tmp_path)) as running:
        [prediction] = predict(f"grpc://127.0.0.1:{running.grpc_port}/masking", images[0], draw=False)
    assert prediction.detections[0].mask is not None


def test_invalid_json_of_older_servers_is_shown() -> None:
    """TensorFlow Serving escaped quotes as in C: https://github.com/tensorflow/serving/issues/1141."""
    body = b'{ "error": "Can\\\'t parse" }'
    with pytest.raises(ValueError, match="escape"):
        json.loads(body)
    assert remote.error_message(body) == body.decode()


def test_address_with_a_version(running: Server, images: list[Path]) -> None:
    for address in (
        f"http://127.0.0.1:{running.rest_port}/v1/models/both",
        f"grpc://127.0.0.1:{running.grpc_port}/both",
    ):
        assert len(predict(f"{address}/versions/1", images[0], draw=False)) == 1
        with pytest.raises(RemoteError, match="Servable not found for request: Specific"):
            predict(f"{address}/versions/9", images[0], draw=False)


def test_files_are_sent_and_only_needed_outputs_requested(
    running: Server, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    run = running.engine.run

    def spy(model: Any, signature: str, inputs: Any, outputs: Any, **rest: Any) -> Any:
        calls.append((signature, inputs["inputs"], tuple(outputs)))
        return run(model, signature, inputs, outputs, **rest)

    monkeypatch.setattr(running.engine, "run", spy)
    plain = next(path for path in images if path.suffix == ".png")
    predict(f"grpc://127.0.0.1:{running.grpc_port}/both", plain, draw=False)
    [(signature, sent, outputs)] = calls
    assert signature == "encoded_image_string_tensor"
    assert sent[0] == plain.read_bytes()
    assert set(outputs) == {"detection_boxes", "detection_scores", "detection_classes", "num_detections"}


def test_command_takes_an_address(running: Server, images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    address = f"http://127.0.0.1:{running.rest_port}/v1/models/both"
    assert dispatch(["predict", address, str(images[0]), "--no-draw", "--json"]) == 0
    [prediction] = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["detections"][0]["score"] == pytest.approx(0.8)


def test_images_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["predict", "model"]) == 2
    assert "Missing argument 'IMAGES...'." in capsys.readouterr().err


def test_wrong_addresses_are_reported(running: Server, images: list[Path]) -> None:
    root = f"http://127.0.0.1:{running.rest_port}"
    for address, error, text in [
        ("ftp://x/y", UnsupportedError, "not supported yet: ftp://x/y"),
        ("http://127.0.0.1:9", RemoteError, "the request failed"),
        ("grpc://127.0.0.1:9/x", RemoteError, "UNAVAILABLE"),
        ("grpc://127.0.0.1:9", ConfigError, r"Pass grpc://HOST:8500/NAME"),
        (f"{root}/elsewhere", ConfigError, "is not the address of a model"),
        (
            f"{root}/v1/models/none",
            RemoteError,
            r"responded 404: Servable not found for request: Latest\(none\)",
        ),
        (root, ConfigError, r"has several models or none \(both, pixels\)\. Pass http.*/v1/models/NAME"),
    ]:
        with pytest.raises(error, match=text):
            predict(address, images[0], draw=False)


def test_model_that_is_not_a_detector_is_rejected() -> None:
    with pytest.raises(SavedModelError, match="is not a detector that takes images: it has the signatures a"):
        remote.choose_signature({"a": ({"x": ("string", (-1,))}, ("y",))}, "http://x")


def test_sagemaker_endpoint_has_the_detections_of_the_saved_model(
    models: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("boto3")
    shutil.copytree(models / "both", tmp_path / "both")
    running = SageMakerServer(tmp_path, port=0)
    running.start()
    try:
        assert running.http is not None
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{running.http.port}")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(variable, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        options: dict[str, Any] = {"label_map": models / "labels.pbtxt", "draw": False}
        local = predict(models / "both" / "1", images, **options)
        assert detections(predict("sagemaker://detector", images, **options)) == detections(local)
        assert dispatch(["predict", "--endpoint", "detector", *map(str, images), "--no-draw", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)["predictions"]
        assert [prediction["detections"][0]["score"] for prediction in listed] == pytest.approx([0.8] * 3, abs=0.02)
    finally:
        running.stop()


def test_responses_of_an_inference_script_are_parsed() -> None:
    detection = {"box": [0.1, 0.2, 0.3, 0.4], "score": 0.9, "class_id": 3, "name": "three"}
    for response in ([detection], {"detections": [detection]}, {"predictions": [{"detections": [detection]}]}):
        outputs = remote.parse_endpoint_response(response, "sagemaker://x")
        assert outputs["detection_boxes"].tolist() == [[pytest.approx(value) for value in detection["box"]]]  # type: ignore[attr-defined]
        assert outputs["detection_class_names"].tolist() == ["three"]
    with pytest.raises(RemoteError, match="the response has no detections"):
        remote.parse_endpoint_response("sorry", "sagemaker://x")


class BusyServer(ThreadingHTTPServer):
    """Rejects the first requests with the given status and headers, then responds `{"ready": true}`."""

    def __init__(self, rejections: list[tuple[int, dict[str, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), BusyHandler)
        self.rejections = rejections
        self.requests: list[tuple[str, bytes]] = []


class BusyHandler(BaseHTTPRequestHandler):
    server: BusyServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, body))
        status, headers = self.server.rejections.pop(0) if self.server.rejections else (200, {})
        content = b'{"ready": true}' if status == 200 else b'{"error": "the queue is full"}'
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def busy_server(*rejections: tuple[int, dict[str, str]]) -> Iterator[tuple[BusyServer, str]]:
    with BusyServer(list(rejections)) as busy:
        thread = threading.Thread(target=busy.serve_forever)
        thread.start()
        try:
            yield busy, f"http://127.0.0.1:{busy.server_port}/v1/models/m:predict"
        finally:
            busy.shutdown()
            thread.join()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client waited; it does not really wait."""
    seconds: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", seconds.append)
    return seconds


@pytest.mark.parametrize("status", [429, 503])
def test_request_is_repeated_after_the_seconds_of_retry_after(status: int, waits: list[float]) -> None:
    with busy_server((status, {"Retry-After": "3"}), (status, {"Retry-After": "7"})) as (busy, url):
        assert remote.request_json(remote.http_session(), url, {"inputs": [1]}) == {"ready": True}
    assert waits == [3, 7]
    assert busy.requests == [("/v1/models/m:predict", b'{"inputs": [1]}')] * 3


def test_request_is_repeated_at_the_date_of_retry_after(waits: list[float]) -> None:
    date = formatdate(time.time() + 20, usegmt=True)
    with busy_server((503, {"Retry-After": date})) as (_, url):
        assert remote.request_json(remote.http_session(), url, {}) == {"ready": True}
    assert waits == [pytest.approx(20, abs=3)]


def test_long_waits_are_bounded(waits: list[float]) -> None:
    date = formatdate(time.time() + 86400, usegmt=True)
    with busy_server((429, {"Retry-After": "86400"}), (429, {"Retry-After": date})) as (_, url):
        remote.request_json(remote.http_session(), url, {})
    assert waits == [remote.MAX_RETRY_AFTER_S] * 2


def test_retries_end(waits: list[float]) -> None:
    with (
        busy_server(*[(429, {"Retry-After": "1"})] * 100) as (busy, url),
        pytest.raises(RemoteError, match="the server responded 429: the queue is full"),
    ):
        remote.request_json(remote.http_session(), url, {})
    assert waits == [1] * remote.BUSY_RETRIES
    assert len(busy.requests) == remote.BUSY_RETRIES + 1


def test_invalid_retry_after_waits_for_the_default(waits: list[float]) -> None:
    with busy_server(*[(429, {"Retry-After": "soon"})] * 2) as (_, url):
        assert remote.request_json(remote.http_session(), url, {}) == {"ready": True}
    assert waits == [2 * remote.DEFAULT_BACKOFF_S]  # urllib3 does not wait before the first retry


@pytest.mark.parametrize("rejection", [(503, {}), (500, {"Retry-After": "1"}), (404, {})])
def test_other_errors_are_not_repeated(rejection: tuple[int, dict[str, str]], waits: list[float]) -> None:
    with (
        busy_server(rejection) as (busy, url),
        pytest.raises(RemoteError, match=f"the server responded {rejection[0]}: the queue is full"),
    ):
        remote.request_json(remote.http_session(), url, {})
    assert waits == []
    assert len(busy.requests) == 1
