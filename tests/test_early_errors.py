"""Errors that need no TensorFlow are reported before it is imported, which takes seconds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

class NotYet(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        assert name != "tensorflow", "TensorFlow is imported"

missing, arguments = sys.argv[1], sys.argv[2:]
if missing:
    sys.modules[missing] = None  # as if it were not installed
sys.meta_path.insert(0, NotYet())
from unfreeze.cli import main
main(arguments)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands below name."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(DIGITS / "run", folder / "run")
    shutil.copy(DIGITS / "pipeline.config", folder)
    shutil.copy(DIGITS / "scenes" / "scene_00.png", folder / "image.png")
    shutil.copy(DIGITS / "frozen_inference_graph.pb", folder / "frozen.pb")
    (folder / "bad.config").write_text("model { ssd { num_clases: 3 } }")
    (folder / "text.png").write_text("not an image")
    (folder / "empty").mkdir()
    (folder / "model").mkdir()
    (folder / "model" / "saved_model.pb").touch()  # enough for what looks for the file, and no model
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").touch()
    (folder / "exists" / "saved_model").mkdir(parents=True)
    (folder / "exists" / "exported" / "saved_model").mkdir(parents=True)
    (folder / "exists" / "models").mkdir()
    (folder / "report.html").touch()
    (folder / "versions" / "1").mkdir(parents=True)
    (folder / "coco.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    (folder / "list.txt").write_text("nothing.png\n")
    return folder


CASES = [
    ("export nothing", "no such checkpoint, folder or file"),
    ("export nothing.pb", "no such file or folder"),
    ("export empty", "no checkpoint in this folder"),
    ("export run --step 7", "no checkpoint of step 7"),
    ("export run --output-directory exists", "exists already"),
    ("export run --for windows", "windows"),
    ("export run --label-map nothing.pbtxt", "nothing.pbtxt: no such file"),
    ("export run --pipeline-config-path nothing.config", "nothing.config: no such file"),
    ("export run --pipeline-config-path bad.config", "num_clases"),
    ("export run --input-type jpeg", "--input-type jpeg. Use one of image_tensor"),
    ("export frozen.pb --input-type jpeg", "--input-type jpeg. Use one of image_tensor"),
    ("export run --report report.html", "exists already"),
    ("export run --dry-run", "--dry-run"),
    ("export run --input-shape 1,160,160,6", "images of 6 channels are not supported"),
    ("export run --input-shape 1,100000,100000,3", "30,000,000,000 values, and at most 536,870,912"),
    ("export run --max-detections 300", "the config allows 100 (max_total_detections)"),
    ("export gs://bucket/model.ckpt-1", "gs://bucket/model.ckpt-1 is a URL"),
    ("export frozen.pb --format onnx", "--write-checkpoint"),
    ("export run --format tflite --postprocessing none --max-detections 3", "--postprocessing none: --max-detections"),
    ("export frozen.pb --output-directory exists", "exists already"),
    ("export frozen.pb --label-map nothing.pbtxt", "nothing.pbtxt: no such file"),
    ("export frozen.pb --report report.html", "exists already"),
    ("export frozen.pb --trained-checkpoint-prefix nothing", "no such checkpoint, folder or file"),
    ("export frozen.pb --score-threshold 0.5", "--score-threshold"),
    ("demo nothing", "nothing"),
    ("demo --output-directory exists", "exists already"),
    ("inspect nothing", "no such file or folder"),
    ("inspect empty", "not a checkpoint, SavedModel, frozen graph, ONNX, OpenVINO or TFLite model"),
    ("inspect image.png", "PNG"),
    ("verify nothing", "does not exist"),
    ("verify model --report report.html", "exists already"),
    ("verify model --against nothing", "nothing: no such checkpoint, folder or file"),
    ("verify model --against nothing.pb", "nothing.pb does not exist"),
    ("verify model --against empty", "empty: no checkpoint in this folder"),
    ("verify model --against run", "has no export.json beside it"),
    ("verify model --image nothing.png", "nothing.png does not exist"),
    ("verify model --image text.png", "text.png is not an image"),
    ("diff nothing run", "nothing"),
    ("diff run nothing", "nothing"),
    ("evaluate nothing coco.json", "nothing"),
    ("evaluate model nothing.json", "nothing.json"),
    ("evaluate frozen.pb nothing.json", "nothing.json"),
    ("evaluate model coco.json --against nothing", "nothing"),
    ("evaluate model coco.json --label-map nothing.pbtxt", "nothing.pbtxt: no such file"),
    ("benchmark", "MODEL"),
    ("benchmark nothing", "nothing"),
    ("benchmark model nothing.pb", "nothing.pb"),
    ("benchmark frozen.pb --batch 0", "not a batch size"),
    ("benchmark frozen.pb --images empty", "empty has no images"),
    ("benchmark frozen.pb --annotations nothing.json", "nothing.json"),
    ("benchmark frozen.pb --chart chart.jpg", "only PNG"),
    ("benchmark frozen.pb --chart image.png", "exists already"),
    ("benchmark frozen.pb --label-map nothing.pbtxt", "nothing.pbtxt: no such file"),
    ("predict nothing image.png", "does not exist"),
    ("predict model nothing.png", "nothing.png does not exist"),
    ("predict model text.png", "text.png is not an image"),
    ("predict model image.png --label-map nothing.pbtxt", "nothing.pbtxt: no such file"),
    ("predict model empty", "empty"),
    ("predict model list.txt --format xml", "xml"),
    ("predict model nothing.txt", "nothing.txt"),
    ("predict model empty --annotations nothing.json", "nothing.json"),
    ("serve", "there is no model to serve"),
    ("serve nothing", "nothing does not exist"),
    ("serve image.png", "image.png is neither a folder nor a file that can be served"),
    ("serve --model-config-file nothing", "nothing cannot be read"),
    ("serve --model-config-file text.png", "text.png is not a ModelServerConfig"),
    ("serve versions --enable-batching --batching-parameters-file nothing", "nothing cannot be read"),
    ("serve versions --batching-parameters-file nothing", "--enable-batching"),
    ("serve versions --monitoring-config-file nothing", "nothing cannot be read"),
    ("serve nothing.tar.gz --sagemaker", "nothing.tar.gz does not exist"),
    ("publish nothing versions", "does not exist"),
    ("publish model versions", "model"),
    ("publish onnx versions", "onnx/model.onnx is a file of ONNX"),
    ("publish onnx/model.onnx versions", "publish takes SavedModels only"),
    ("publish model versions --label 1+1", "1+1"),
    ("watch nothing versions", "nothing: does not exist"),
    ("watch run versions --input-type jpeg", "--input-type jpeg"),
    ("watch run versions --label 1+1", "1+1"),
    ("watch run versions --for windows", "--for windows"),
    ("rollback empty", "empty: no versions here"),
    ("rollback nothing", "nothing: no versions here"),
    ("prune empty --keep 1", "empty: no versions here"),
    ("prune nothing --keep 1", "nothing: no versions here"),
    ("labels nothing", "nothing: no versions here"),
    ("labels nothing a=1", "nothing: no versions here"),
    ("labels versions a=7", "7"),
    ("package tensorflow-serving nothing", "nothing does not exist"),
    ("package tensorflow-serving model", "model"),
    ("package tensorflow-serving model --memory much", "--memory much"),
    ("package kserve nothing", "nothing does not exist"),
    ("package kserve model --name A.B", "A.B"),
    ("package sagemaker nothing", "nothing does not exist"),
    ("package sagemaker model --region moon", "moon"),
]
NOT_INSTALLED = [
    ("uvicorn", "serve versions", "pip install 'unfreeze[serve]'"),
    ("uvicorn", "demo --serve", "pip install 'unfreeze[serve]'"),
    ("fsspec", "predict model s3://bucket/images", "pip install"),
    ("fsspec", "publish model s3://bucket/models", "pip install"),
    ("ray", "predict model image.png --engine ray", "pip install"),
    ("pyarrow", "predict model image.png --format parquet", "pip install"),
]


def check(folder: Path, command: str, message: str, missing: str = "") -> None:
    environment = {**os.environ, "UNFREEZE_TRACEBACK": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, missing, *command.split()],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "TensorFlow is imported" not in done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(("command", "message"), CASES, ids=[command for command, _ in CASES])
def test_error_is_reported_before_tensorflow_is_imported(folder: Path, command: str, message: str) -> None:
    check(folder, command, message)


@pytest.mark.parametrize(("package", "command", "message"), NOT_INSTALLED, ids=[case[1] for case in NOT_INSTALLED])
def test_missing_package_is_reported_before_tensorflow_is_imported(
    folder: Path, package: str, command: str, message: str
) -> None:
    check(folder, command, message, missing=package)
