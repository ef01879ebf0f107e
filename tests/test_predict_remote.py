"""`predict` over REST, gRPC and a SageMaker endpoint answers as on the folder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving import config_of, serving

from unfreeze import predict, server
from unfreeze.cli import dispatch
from unfreeze.errors import ConfigError, RemoteError, SavedModelError, UnsupportedError
from unfreeze.prediction import remote


class Detector(tf.Module):
    """Finds one thing in every picture: its box is told by the picture's size, its score by the first red value."""

    def detect(self, pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.cast(tf.shape(pictures), tf.float32)
        edges = tf.stack([0.1, 0.2, shape[1] / 1024.0, shape[2] / 1024.0])
        number = tf.shape(pictures)[0]
        return {
            "detection_boxes": tf.tile(edges[None, None], [number, 2, 1]),
            "detection_scores": tf.stack([tf.cast(pictures[:, 0, 0, 0], tf.float32) / 255.0, tf.zeros([number])], 1),
            "detection_classes": tf.tile([[3.0, 1.0]], [number, 1]),
            "num_detections": tf.fill([number], 2.0),
            "raw_detection_boxes": tf.zeros([number, 5000, 4]),
        }

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "inputs")])
    def pixels(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.detect(inputs)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def encoded(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        decode = lambda one: tf.io.decode_image(one, channels=3, expand_animations=False)
        return self.detect(tf.map_fn(decode, inputs, tf.uint8))


LABEL_MAP = "".join(f"item {{ id: {number} name: '{name}' }}\n" for number, name in ((1, "one"), (3, "three")))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    module = Detector()
    both = {"serving_default": module.pixels, "encoded_image_string_tensor": module.encoded}
    tf.saved_model.save(module, str(folder / "both" / "1"), signatures=both)
    tf.saved_model.save(module, str(folder / "pixels" / "1"), signatures={"serving_default": module.pixels})
    (folder / "labels.pbtxt").write_text(LABEL_MAP)
    return folder


@pytest.fixture(scope="module")
def running(models: Path) -> Iterator[server.Server]:
    with serving(config_of(both=models / "both", pixels=models / "pixels")) as running:
        yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.full((60, 90, 3), 204, np.uint8)
    Image.fromarray(pixels).save(folder / "plain.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=turned, quality=95)
    Image.fromarray(pixels).save(folder / "other.webp", lossless=True)
    return sorted(folder.iterdir())


def told(found: list[Any]) -> list[Any]:
    return [prediction.to_dict()["detections"] for prediction in found]


@pytest.mark.parametrize("name", ["both", "pixels"])
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_answers_as_the_folder(
    running: server.Server, models: Path, pictures: list[Path], name: str, scheme: str
) -> None:
    address = {
        "http": f"http://127.0.0.1:{running.rest_port}/v1/models/{name}",
        "grpc": f"grpc://127.0.0.1:{running.grpc_port}/{name}",
    }[scheme]
    options: dict[str, Any] = {"label_map": models / "labels.pbtxt", "draw": False}
    local = predict(models / name / "1", pictures, **options)
    remote = predict(address, pictures, **options)
    assert told(remote) == told(local)
    assert [prediction.detections[0].name for prediction in remote] == ["three"] * 3
    sizes = {(60 / 1024, 90 / 1024), (90 / 1024, 60 / 1024)}
    assert {prediction.detections[0].box[2:] for prediction in remote} == sizes


class Masking(Detector):
    """Whose answer is larger than the 4 MB that gRPC's clients take unless they are told otherwise."""

    def detect(self, pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {**super().detect(pictures), "detection_masks": tf.ones([tf.shape(pictures)[0], 2, 800, 800])}


def test_an_answer_of_more_than_four_megabytes(pictures: list[Path], tmp_path: Path) -> None:
    module = Masking()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.pixels})
    with serving(config_of(masking=tmp_path)) as running:
        [prediction] = predict(f"grpc://127.0.0.1:{running.grpc_port}/masking", pictures[0], draw=False)
    assert prediction.detections[0].mask is not None


def test_an_error_of_an_older_server_whose_json_is_none() -> None:
    """TensorFlow Serving wrote quotes as in C: https://github.com/tensorflow/serving/issues/1141."""
    body = b'{ "error": "Can\\\'t parse" }'
    with pytest.raises(ValueError, match="escape"):
        json.loads(body)
    assert remote.told(body) == body.decode()


def test_a_version_in_the_address(running: server.Server, pictures: list[Path]) -> None:
    for address in (
        f"http://127.0.0.1:{running.rest_port}/v1/models/both",
        f"grpc://127.0.0.1:{running.grpc_port}/both",
    ):
        assert len(predict(f"{address}/versions/1", pictures[0], draw=False)) == 1
        with pytest.raises(RemoteError, match="Servable not found for request: Specific"):
            predict(f"{address}/versions/9", pictures[0], draw=False)


def test_encoded_bytes_and_just_the_needed_outputs(
    running: server.Server, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    answer = running.engine.run

    def spy(model: Any, signature: str, inputs: Any, outputs: Any, **rest: Any) -> Any:
        seen.append((signature, inputs["inputs"], tuple(outputs)))
        return answer(model, signature, inputs, outputs, **rest)

    monkeypatch.setattr(running.engine, "run", spy)
    plain = next(path for path in pictures if path.suffix == ".png")
    predict(f"grpc://127.0.0.1:{running.grpc_port}/both", plain, draw=False)
    [(signature, sent, outputs)] = seen
    assert signature == "encoded_image_string_tensor"
    assert sent[0] == plain.read_bytes()
    assert set(outputs) == {"detection_boxes", "detection_scores", "detection_classes", "num_detections"}


def test_the_command_line(running: server.Server, pictures: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    address = f"http://127.0.0.1:{running.rest_port}/v1/models/both"
    assert dispatch(["predict", address, str(pictures[0]), "--no-draw", "--json"]) == 0
    [prediction] = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["detections"][0]["score"] == pytest.approx(0.8)


def test_pictures_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["predict", "model"]) == 2
    assert "Missing argument 'IMAGES...'." in capsys.readouterr().err


def test_an_address_that_is_wrong(running: server.Server, pictures: list[Path]) -> None:
    root = f"http://127.0.0.1:{running.rest_port}"
    for address, error, text in [
        ("ftp://x/y", UnsupportedError, "not supported yet: ftp://x/y"),
        ("http://127.0.0.1:9", RemoteError, "cannot be asked"),
        ("grpc://127.0.0.1:9/x", RemoteError, "UNAVAILABLE"),
        ("grpc://127.0.0.1:9", ConfigError, "give grpc://HOST:8500/NAME"),
        (f"{root}/elsewhere", ConfigError, "is not the address of a model"),
        (f"{root}/v1/models/none", RemoteError, r"answered 404: Servable not found for request: Latest\(none\)"),
        (root, ConfigError, "has the models both, pixels: say which"),
    ]:
        with pytest.raises(error, match=text):
            predict(address, pictures[0], draw=False)


def test_a_model_that_is_no_detector() -> None:
    with pytest.raises(SavedModelError, match="is no detector that takes pictures: it has the signatures a"):
        remote.chosen({"a": ({"x": ("string", (-1,))}, ("y",))}, "http://x")


def test_a_sagemaker_endpoint(
    models: Path,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("boto3")
    shutil.copytree(models / "both", tmp_path / "both")
    running = server.SageMakerServer(tmp_path, {}, "127.0.0.1", 0)
    running.start()
    try:
        assert running.http is not None
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", f"http://127.0.0.1:{running.http.port}")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(variable, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        options: dict[str, Any] = {"label_map": models / "labels.pbtxt", "draw": False}
        local = predict(models / "both" / "1", pictures, **options)
        assert told(predict("sagemaker://detector", pictures, **options)) == told(local)
        assert dispatch(["predict", "--endpoint", "detector", *map(str, pictures), "--no-draw", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)["predictions"]
        assert [each["detections"][0]["score"] for each in listed] == pytest.approx([0.8] * 3, abs=0.02)
    finally:
        running.stop()


def test_what_an_endpoint_with_a_script_answers() -> None:
    found = {"box": [0.1, 0.2, 0.3, 0.4], "score": 0.9, "class_id": 3, "name": "three"}
    for answered in ([found], {"detections": [found]}, {"predictions": [{"detections": [found]}]}):
        outputs = remote.endpoint_arrays(answered, "sagemaker://x")
        assert outputs["detection_boxes"].tolist() == [[pytest.approx(value) for value in found["box"]]]  # type: ignore[attr-defined]
        assert outputs["detection_class_names"].tolist() == ["three"]
    with pytest.raises(RemoteError, match="does not answer with detections"):
        remote.endpoint_arrays("sorry", "sagemaker://x")
