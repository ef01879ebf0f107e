"""The table of runtimes: how a model file finds its runtime, and that a new runtime is one row and one module."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from unfreeze import runtimes
from unfreeze.errors import OutputError, SavedModelError, UnsupportedError
from unfreeze.prediction.predict import predict
from unfreeze.prediction.predict_many import PredictionRun, predict_many
from unfreeze.runtimes import RUNTIMES, Runtime, find_model
from unfreeze.runtimes.image_input import resized


class MeanModel:
    """A model whose one box encodes the mean of the image."""

    title = "model.mean"
    output_names = ("detection_boxes", "detection_scores", "detection_classes")
    uses_gpu = False

    def __init__(self, content: bytes, threads: int | None) -> None:
        self.class_id, self.threads = int(content), threads
        self.batch_sizes: list[int] = []

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        assert images.dtype == np.uint8
        self.batch_sizes.append(len(images))
        means = images.mean(axis=(1, 2, 3)) / 256
        return {
            "detection_boxes": np.stack([0 * means, 0 * means, means, means], axis=-1)[:, np.newaxis],
            "detection_scores": np.full((len(images), 1), 0.75),
            "detection_classes": np.full((len(images), 1), self.class_id),
        }


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[MeanModel]:
    """Adds a runtime for files `.mean`; the list receives the models that it loads."""
    models: list[MeanModel] = []
    module: Any = ModuleType("mean_runtime")

    def load_model(path: Path, threads: int | None) -> MeanModel:
        models.append(MeanModel(path.read_bytes(), threads))
        return models[-1]

    module.load_model = load_model
    monkeypatch.setitem(sys.modules, "mean_runtime", module)
    monkeypatch.setattr(runtimes, "RUNTIMES", (*RUNTIMES, Runtime("mean", ".mean", "mean_runtime")))
    return models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.mean"
    path.write_text("7")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (32 + number % 2, 24), (number,) * 3).save(folder / f"{number:02d}.png")
    return folder


def test_model_is_found_by_its_suffix_or_folder(tmp_path: Path) -> None:
    saved_model, *others = RUNTIMES
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"")
    for path in (tmp_path, tmp_path / "saved_model", tmp_path / "saved_model" / "saved_model.pb"):
        assert find_model(path) == runtimes.ModelFile(tmp_path / "saved_model", saved_model)
    for runtime in others:
        path = tmp_path / f"model{runtime.suffix}"
        assert find_model(path) == runtimes.ModelFile(path, runtime)
    (tmp_path / "saved_model" / "saved_model.pb").unlink()
    for name in ("model.tflite", "openvino/model.xml", "model.xml", "model.onnx"):  # the first choice comes last
        file = tmp_path / "export" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        assert find_model(tmp_path / "export").path == file
    assert find_model(tmp_path / "export" / "openvino").path == tmp_path / "export" / "openvino" / "model.xml"
    with pytest.raises(SavedModelError, match="does not exist"):
        find_model(tmp_path / "none")
    with pytest.raises(UnsupportedError, match=r"s3://bucket/frozen\.pb"):
        find_model("s3://bucket/frozen.pb")


def test_every_runtime_has_a_module_that_loads_models() -> None:
    for runtime in RUNTIMES:
        assert callable(import_module(runtime.module).load_model)


def test_predict_uses_an_added_runtime(loaded: list[MeanModel], model: Path, images: Path) -> None:
    predictions = predict(model, sorted(images.iterdir()), draw=False)
    assert not isinstance(predictions, PredictionRun)
    assert [round(prediction.detections[0].box[2] * 256) for prediction in predictions] == list(range(20))
    assert {prediction.detections[0].name for prediction in predictions} == {"class 7"}
    assert [runtime.threads for runtime in loaded] == [None]


def test_predict_many_uses_an_added_runtime(loaded: list[MeanModel], model: Path, images: Path) -> None:
    output_directory = images.parent / "out"
    run = predict_many(model, images, output_directory=output_directory, batch_size=4)
    assert (run.images, run.detections, run.failures) == (20, 20, 0)
    records = [json.loads(line) for line in (output_directory / "predictions.jsonl").read_text().splitlines()]
    assert [round(record["detections"][0]["box"][2] * 256) for record in records] == list(range(20))
    [runtime] = loaded
    assert runtime.threads == 1
    assert sorted(runtime.batch_sizes) == [2, 2, 4, 4, 4, 4]  # two sizes of ten images each
    assert predict_many(model, images, output_directory=output_directory).resumed == 20
    model.write_text("8")  # another model, whose results must not be mixed with those of the first
    with pytest.raises(OutputError, match="results of other settings"):
        predict_many(model, images, output_directory=output_directory)


@pytest.mark.parametrize(("size", "new_size"), [((48, 64), (30, 30)), ((10, 9), (30, 32)), ((33, 47), (16, 160))])
def test_images_are_resized_as_by_the_object_detection_api(size: tuple[int, int], new_size: tuple[int, int]) -> None:
    images = np.random.default_rng(8).integers(0, 256, [2, *size, 3]).astype(np.uint8)
    expected = tf.compat.v1.image.resize_images(images, new_size).numpy()
    np.testing.assert_allclose(resized(images, *new_size, np.dtype(np.float32)), expected, atol=1e-4)
    np.testing.assert_allclose(resized(images, *new_size, np.dtype(np.uint8)), expected, atol=0.501)
