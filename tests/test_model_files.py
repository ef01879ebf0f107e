"""`unfreeze verify`, `inspect` and `diff` of files for ONNX Runtime, OpenVINO and LiteRT, and of frozen graphs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import tensorflow as tf
import tf2onnx
from tensorflow.lite.python.schema_py_generated import BuiltinOperator

from unfreeze import cli
from unfreeze.child_process import ModuleError
from unfreeze.comparison import verify as comparison_verify
from unfreeze.comparison.diff import diff
from unfreeze.comparison.verify import verify
from unfreeze.errors import ConfigError, MissingExtraError, SavedModelError, UnfreezeError, UnsupportedError
from unfreeze.export_record import ExportRecord, FormatRecord, file_digest, write_record
from unfreeze.inspection import model_files
from unfreeze.inspection.inspect import inspect
from unfreeze.inspection.tflite_file import OPERATIONS
from unfreeze.runtimes.process import run_in_process
from unfreeze.verification import Check, Report, Status
from unfreeze.verification.model_file import invalid_values

FILES = ("model.onnx", "openvino/model.xml", "model.tflite", "frozen_inference_graph.pb")
OTHER_RUNTIMES = FILES[:3]
WEIGHTS = np.array([0.3, 0.4, 0.3], np.float32) / 255  # their bytes are in the files
OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
DIGITS = Path(__file__).parents[1] / "examples" / "digits"


def detect(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    """A detector of two boxes that depend on the mean color of the image."""
    colors = tf.reduce_mean(tf.cast(inputs, tf.float32), [1, 2])
    mean = tf.reduce_sum(colors * WEIGHTS, -1, keepdims=True)
    corner = tf.concat([mean, mean / 2], 1)
    zeros = tf.zeros_like(corner)
    return {
        "detection_boxes": tf.stack([zeros, zeros, corner, corner], -1),
        "detection_scores": corner,
        "detection_classes": zeros + 1,
        "num_detections": tf.reduce_sum(zeros + 1, 1),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export folder with a SavedModel and a file of each other runtime."""
    folder = tmp_path_factory.mktemp("files") / "export"
    shape = (None, None, None, 3)
    module = tf.Module()
    module.detect = tf.function(detect, input_signature=[tf.TensorSpec(shape, tf.uint8, name="inputs")])
    tf.saved_model.save(module, str(folder / "saved_model"), signatures={"serving_default": module.detect})
    signature = [tf.TensorSpec(shape, tf.uint8, name="inputs")]
    converted, _ = tf2onnx.convert.from_function(tf.function(detect), signature, opset=18)
    onnx.save(converted, str(folder / "model.onnx"))
    openvino.save_model(
        openvino.convert_model(str(folder / "model.onnx")), str(folder / "openvino" / "model.xml"), False
    )
    module.call = tf.function(detect, input_signature=[tf.TensorSpec([1, 40, 60, 3], tf.uint8, name="inputs")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.call.get_concrete_function()], module)
    (folder / "model.tflite").write_bytes(converter.convert())
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.uint8, shape, name="image_tensor")
        for name, output in detect(images).items():
            tf.identity(output, name=name)
    (folder / "frozen_inference_graph.pb").write_bytes(graph.as_graph_def().SerializeToString())
    record(folder, *FILES)
    return folder


def record(folder: Path, *files: str) -> None:
    """Writes an export.json that lists files."""

    def digests(file: str) -> Mapping[str, Any]:
        path = folder / file
        every = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
        return {entry.relative_to(folder).as_posix(): file_digest(entry) for entry in every}

    formats = {
        Path(file).suffix[1:]: FormatRecord(file, ("inputs",), OUTPUTS, digests(file), True, "2 of 2 match")
        for file in files
    }
    write_record(folder, ExportRecord(unfreeze="0.3.0", model="ssd", formats=formats))


@pytest.fixture
def export(written: Path, tmp_path: Path) -> Path:
    """A copy of the export without its SavedModel and its frozen graph, so that no check needs TensorFlow."""
    folder = tmp_path / "export"
    shutil.copytree(written, folder, ignore=shutil.ignore_patterns("saved_model", "*.pb"))
    record(folder, *OTHER_RUNTIMES)
    return folder


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def statuses(report: Report) -> dict[str, str]:
    return {check.name: check.status.value for check in report.checks}


def exit_code(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


# inspect


@pytest.mark.parametrize(("file", "kind"), list(zip(OTHER_RUNTIMES, ("ONNX", "OpenVINO", "TFLite"), strict=True)))
def test_inspection_of_a_file(written: Path, file: str, kind: str) -> None:
    result = inspect(written / file)
    assert (result.kind, result.problems) == (f"{kind} model", [])
    size = "[1, 40, 60, 3]" if kind == "TFLite" else "[?, ?, ?, 3]"
    assert result["inputs"] == {"inputs": f"uint8 {size}"}
    assert sorted(result["outputs"]) == sorted(OUTPUTS)
    assert all(tensor.startswith("float32 [") for tensor in result["outputs"].values())
    assert sum(result["operations"].values()) > 5
    assert 0 < result["constants"]["bytes"] < result["size"]["bytes"]
    assert result["runtime"]["version"]
    assert (result["model"], result["verified"], result["written_by"]) == ("ssd", True, "unfreeze 0.3.0")
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()


def test_inspection_has_what_each_format_adds(written: Path) -> None:
    described = inspect(written / "model.onnx")
    assert described["opset"]["ai.onnx"] == 18
    assert described["producer"].startswith("tf2onnx ")
    assert inspect(written / "openvino")["producer"].startswith("OpenVINO ")
    described = inspect(written / "model.tflite")
    assert described["signatures"] == ["serving_default"]
    assert set(described["operation_versions"]) == set(described["operations"])
    assert "yes: 2 of 2 match" in str(inspect(written / "frozen_inference_graph.pb"))


def test_operations_of_tflite_are_those_of_its_schema() -> None:
    codes = {name: code for name, code in vars(BuiltinOperator).items() if not name.startswith("_")}
    assert {name: codes[name] for name in OPERATIONS} == {name: code for code, name in enumerate(OPERATIONS)}


def test_inspection_imports_no_runtime(written: Path) -> None:
    program = (
        "import sys; from unfreeze import cli; files = sys.argv[1:]\n"
        "from unfreeze.inspection.inspect import inspect\n"
        "assert all(inspect(file).problems == [] for file in files)\n"
        "print(sorted({'tensorflow', 'onnx', 'onnxruntime', 'openvino', 'ai_edge_litert'} & set(sys.modules)))"
    )
    files = [str(written / file) for file in OTHER_RUNTIMES]
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("file", OTHER_RUNTIMES)
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.95])
def test_file_that_is_cut_short_is_one_line(
    export: Path, file: str, kept: float, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export / file
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    code, out, err = exit_code(capsys, "inspect", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    kind = {".onnx": "an ONNX", ".xml": "an OpenVINO", ".tflite": "a TFLite"}[path.suffix]
    problem = f"not {kind} model, or damaged: " if kept else f"is an empty file, not {kind} model; copy it again"
    assert f"{path}: {problem}" in err


def test_file_of_another_kind_is_one_line(export: Path, tmp_path: Path) -> None:
    def message(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnfreezeError) as raised:
            inspect(tmp_path / name)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    tflite = (export / "model.tflite").read_bytes()
    assert "is a TensorFlow Lite model; rename it to *.tflite" in message("model.onnx", tflite)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"
    assert "is a Git LFS pointer, not an ONNX model; run git lfs pull to get the file" in message("lfs.onnx", pointer)
    assert "not a TFLite model" in message("text.tflite", b"some words")
    assert "not an ONNX model" in message("text.onnx", b"some words")
    assert "XML of another kind (found <annotation>" in message("voc.xml", b"<annotation></annotation>")
    entities = b'<!DOCTYPE net [<!ENTITY a "b">]><net><layers>&a;</layers></net>'
    assert "it defines XML entities" in message("entities.xml", entities)


def test_problems_of_files_are_reported(export: Path, tmp_path: Path) -> None:
    replace_bytes(export / "model.onnx", WEIGHTS.tobytes(), WEIGHTS[::-1].copy().tobytes()[:-1] + b"?")
    assert inspect(export / "model.onnx").problems == [
        "model.onnx is not the file that was exported: its SHA-256 differs from export.json"
    ]
    (export / "openvino" / "model.bin").unlink()
    assert inspect(export / "openvino" / "model.xml").problems == [
        "model.bin, which has the weights, is missing beside it",
        "openvino/model.bin is missing, but export.json lists it",
    ]
    classifier = tmp_path / "classifier.onnx"
    write_identity(classifier, ["N", 10], "probabilities")
    first, second = inspect(classifier).problems
    assert first == "it must take one input, images [N, H, W, 3]; it takes x: float32 [?, 10]"
    assert second.startswith("not a detector of the Object Detection API: no output detection_boxes, ")


def write_identity(path: Path, shape: list[Any], *outputs: str) -> None:
    """Writes an ONNX model of float32 whose outputs are its input."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], [name]) for name in outputs],
        "identity",
        [helper.make_tensor_value_info("x", float32, shape)],
        [helper.make_tensor_value_info(name, float32, shape) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def test_folder_of_files_is_inspected_file_by_file(export: Path) -> None:
    (export / "model.tflite").write_bytes(b"")
    result = inspect(export)
    assert [part.kind for part in result.parts] == ["ONNX model", "TFLite model", "OpenVINO model"]
    (problem,) = result.problems
    assert "model.tflite: is an empty file, not a TFLite model" in problem


# verify


@pytest.mark.parametrize("file", OTHER_RUNTIMES)
def test_file_is_verified_by_its_runtime(export: Path, file: str) -> None:
    other = export / ("model.tflite" if file == "model.onnx" else "model.onnx")
    report = verify(export / file, against=other)
    batch = "skipped" if file == "model.tflite" else "passed"
    passed = dict.fromkeys(("files", "interface", "runtime", "batch", "outputs", "against"), "passed")
    assert statuses(report) == passed | {"batch": batch}, report.table()
    assert report["against"].detail.startswith(f"{other}: 4 of 4 detections match")
    assert report["runtime"].numbers["load_s"] > 0
    assert report.to_dict()["file"] == str(export / file)


def test_file_is_compared_with_the_saved_model_of_its_export(written: Path) -> None:
    report = verify(written / "openvino", images=[DIGITS / "scenes" / "scene_00.png"])
    assert set(statuses(report).values()) == {"passed"}, report.table()
    assert report["against"].detail.startswith(f"{written / 'saved_model'}: 4 of 4 detections match")


def test_frozen_graph_is_verified(written: Path) -> None:
    report = verify(written / "frozen_inference_graph.pb", against=written / "model.onnx")
    assert statuses(report) == dict.fromkeys(("files", "interface", "runtime", "outputs", "against"), "passed") | {
        "batch": "skipped"
    }


def test_export_without_a_saved_model_is_verified_file_by_file(
    export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    code, out, _ = exit_code(capsys, "verify", export, "--report", page, "--json")
    result = json.loads(out)
    assert (code, result["folder"], result["passed"], result["checks"]) == (0, str(export), True, [])
    assert [Path(part["file"]).name for part in result["files"]] == ["model.onnx", "model.xml", "model.tflite"]
    against = [part["checks"][-1]["status"] for part in result["files"]]
    assert against == ["skipped"] * 3
    text = page.read_text()
    assert "<h1>Verified</h1>" in text
    assert all(f"<h2>{file}</h2>" in text for file in OTHER_RUNTIMES)
    verify(export / "openvino" / "model.xml", report_path=page, overwrite=True)
    assert "unfreeze 0.3.0" in page.read_text()  # of the export.json in the folder above


def test_export_with_a_saved_model_is_verified_as_a_whole(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(written / "saved_model", tmp_path / "saved_model")
    shutil.copy(written / "model.onnx", tmp_path)
    (tmp_path / "model.tflite").touch()
    record(tmp_path, "model.onnx", "model.tflite")
    (tmp_path / "model.tflite").unlink()
    saved_model = Report(tmp_path / "saved_model", (Check("files", Status.PASSED, "five files"),))
    monkeypatch.setattr(comparison_verify, "verify_saved_model", lambda *_, **__: saved_model)
    report = verify(tmp_path)
    assert [report.title_of(part) for part in report.parts] == ["model.onnx", "model.tflite"]
    assert [part.passed for part in report.parts] == [True, False]
    assert not report.passed
    assert report.parts[0]["against"].status == "passed"
    assert report.parts[1]["files"].detail == "model.tflite is missing, but export.json lists it"
    lines = report.table().splitlines()
    assert [line.split()[0] for line in lines if line.startswith("model.")] == ["model.onnx", "model.tflite"]


def test_damaged_saved_model_does_not_hide_the_files(written: Path, tmp_path: Path) -> None:
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"words")
    shutil.copy(written / "model.onnx", tmp_path)
    report = verify(tmp_path / "model.onnx")
    assert statuses(report)["runtime"] == "passed"
    assert statuses(report)["against"] == "failed"
    assert f"{tmp_path / 'saved_model'}: " in report["against"].detail


@pytest.mark.parametrize("file", ["model.onnx", "openvino/model.bin", "model.tflite"])
def test_changed_weight_fails(export: Path, written: Path, file: str) -> None:
    changed = np.frombuffer(WEIGHTS.tobytes()[:3] + b"\x39" + WEIGHTS.tobytes()[4:], np.float32)
    replace_bytes(export / file, WEIGHTS.tobytes(), changed.tobytes())
    report = verify(
        (export / file).with_suffix(".xml" if "openvino" in file else Path(file).suffix), against=written / "model.onnx"
    )
    failed = {name for name, status in statuses(report).items() if status == "failed"}
    assert failed == {"files", "against"}, report.table()
    assert "SHA-256 differs from export.json" in report["files"].detail
    assert "has no match" in report["against"].detail


def broken(export: Path, fault: str) -> Path:
    """Breaks a file of an export, and returns its path."""
    if fault == "no weights":
        (export / "openvino" / "model.bin").unlink()
        return export / "openvino" / "model.xml"
    if fault == "other suffix":
        return Path(shutil.copy(export / "model.onnx", export / "other.tflite"))
    if fault == "no detector":
        write_identity(export / "other.onnx", ["N", "H", "W", 3], "features")
        return export / "other.onnx"
    path = export / {"cut .onnx": "model.onnx", "cut .xml": "openvino/model.xml", "cut .tflite": "model.tflite"}[fault]
    path.write_bytes(path.read_bytes()[:-400])
    return path


@pytest.mark.parametrize(
    ("fault", "failed", "detail"),
    [
        ("cut .onnx", {"files", "interface", "runtime"}, "not an ONNX model, or damaged"),
        ("cut .xml", {"files", "interface", "runtime"}, "not an OpenVINO model, or damaged"),
        ("cut .tflite", {"files", "interface", "runtime"}, "not a TFLite model, or damaged"),
        ("no weights", {"files", "runtime"}, "model.bin is missing, but export.json lists it"),
        ("other suffix", {"interface", "runtime"}, "it does not have the bytes TFL3"),
        ("no detector", {"interface"}, "not a detector of the Object Detection API: no output detection_boxes"),
    ],
)
def test_broken_file_fails_its_checks(
    export: Path, fault: str, failed: set[str], detail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = exit_code(capsys, "verify", broken(export, fault), "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (code, err) == (1, "")
    assert {name for name, check in checks.items() if check["status"] == "failed"} == failed
    assert detail in " ".join(check["detail"] for check in checks.values())
    assert "Traceback" not in out


def test_raw_outputs_are_compared_too(tmp_path: Path) -> None:
    raw = ("raw_detection_boxes", "raw_detection_scores")
    write_identity(tmp_path / "one.onnx", [1, 24, 32, 3], *raw)
    write_identity(tmp_path / "other.onnx", [1, 24, 32, 3], *raw)
    report = verify(tmp_path / "one.onnx", against=tmp_path / "other.onnx")
    assert report.passed
    assert report["against"].detail.splitlines()[0].startswith(f"{tmp_path / 'other.onnx'}: largest difference 0.0e+00")
    replace_bytes(tmp_path / "other.onnx", b"Identity", b"Softplus")
    report = verify(tmp_path / "one.onnx", against=tmp_path / "other.onnx")
    assert "raw_detection_boxes differs by 0.69" in report["against"].detail


def test_batch_that_mixes_images_fails(tmp_path: Path) -> None:
    write_identity(tmp_path / "model.onnx", ["N", "H", "W", 3], "raw_detection_boxes", "raw_detection_scores")
    model = onnx.load(str(tmp_path / "model.onnx"))
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Softmax", ["x"], ["raw_detection_boxes"], axis=0))
    onnx.save(model, str(tmp_path / "model.onnx"))
    report = verify(tmp_path / "model.onnx")
    assert {name for name, status in statuses(report).items() if status == "failed"} == {"batch"}
    assert "raw_detection_boxes differs by" in report["batch"].detail


def test_saved_model_is_compared_with_a_file(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(comparison_verify, "verify_saved_model", lambda folder, **options: calls.append(options))
    verify(written / "saved_model", against=written / "model.tflite")
    (options,) = calls
    (sample,) = options["images"]
    assert sample.images.shape == (2, 40, 60, 3)  # the size that the file needs
    assert options["against_name"] == str(written / "model.tflite")
    assert options["against"](sample.images)["detection_boxes"].shape == (2, 2, 4)


def test_checkpoint_is_exported_again_for_a_file(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def export_checkpoint(prefix: Path, **options: Any) -> Any:
        calls.append(options)
        raise ConfigError("enough")

    monkeypatch.setattr("unfreeze.exporting.from_checkpoint.export_checkpoint", export_checkpoint)
    with pytest.raises(ConfigError, match="enough"):
        verify(export / "model.onnx", against=DIGITS / "run")
    assert calls[0]["pipeline_config_path"] == DIGITS / "pipeline.config"
    shutil.copy(export / "model.onnx", export / "unlisted.onnx")
    with pytest.raises(SavedModelError, match=r"unlisted\.onnx is not listed in an export\.json"):
        verify(export / "unlisted.onnx", against=DIGITS / "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "nothing.onnx"], "nothing.onnx does not exist. Pass a SavedModel"),
        (["verify", "notes.txt"], "notes.txt is not a model. Pass a SavedModel"),
        (["verify", "empty"], "empty has no model. Pass a SavedModel"),
        (["verify", "export/model.onnx", "--against", "nothing.tflite"], "nothing.tflite does not exist"),
        (["verify", "export/model.onnx", "--image", "nothing.png"], "nothing.png does not exist"),
        (["diff", "export/model.onnx", "nothing.xml"], "nothing.xml does not exist"),
        (["inspect", "nothing.tflite"], "nothing.tflite: no such file or folder"),
    ],
)
def test_bad_input_is_one_line(
    export: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(export.parent)
    Path("notes.txt").write_text("words")
    Path("empty").mkdir()
    code, out, err = exit_code(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_missing_runtime_is_reported_first(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"needs OpenVINO to run; run pip install 'unfreeze\[openvino\]'"):
        verify(export / "openvino")
    assert "which is not installed (pip install 'unfreeze[openvino]')" in str(inspect(export / "openvino"))


def changed(**outputs: Any) -> dict[str, np.ndarray]:
    """Valid outputs of one image, of which some are replaced."""
    valid: dict[str, Any] = {
        "detection_boxes": [[[0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]]],
        "detection_scores": [[0.9, 0.5]],
        "detection_classes": [[1, 2]],
        "num_detections": [2],
    }
    return {name: np.array(value, np.float32) for name, value in (valid | outputs).items()}


@pytest.mark.parametrize(
    ("outputs", "kinds"),
    [
        ({}, []),
        ({"detection_scores": [[float("nan"), 0]]}, ["detection_scores is not finite"]),
        ({"detection_scores": [[4.5, 0]]}, ["detection_scores"]),
        ({"detection_boxes": [[[0, 0, 300, 300]] * 2]}, ["detection_boxes"]),
        ({"detection_boxes": [[[0.5, 0, 0.2, 1]] * 2]}, ["box"]),
        ({"num_detections": [3]}, ["count"]),
        ({"num_detections": [1.5]}, ["count"]),
        ({"detection_classes": [[1]]}, ["rows"]),
    ],
)
def test_invalid_outputs_are_found(outputs: dict[str, Any], kinds: list[str]) -> None:
    assert [kind for kind, _ in invalid_values(changed(**outputs))] == kinds


def test_failed_batch_does_not_stop_the_others(tmp_path: Path) -> None:
    write_identity(tmp_path / "model.onnx", ["N", "H", "W", 3], "raw_detection_boxes", "raw_detection_scores")
    run = run_in_process(tmp_path / "model.onnx", [np.zeros([1, 2, 2, 3], np.uint8), np.zeros([1, 2, 2], np.uint8)])
    assert isinstance(run.outputs[0], dict)
    assert isinstance(run.outputs[1], str)
    with pytest.raises(ModuleError):
        run_in_process(tmp_path / "nothing.onnx", [])


# diff


def test_difference_of_two_files(export: Path) -> None:
    difference = diff(export / "model.onnx", export / "model.tflite")
    assert (difference.old.kind, difference.new.kind) == ("ONNX model", "TFLite model")
    assert difference.signatures == {"input inputs": ("uint8 [?, ?, ?, 3]", "uint8 [1, 40, 60, 3]")}
    assert difference.outputs is not None
    assert difference.outputs.same is True
    lines = str(difference).splitlines()
    assert lines[2].startswith("  weights     not compared:")
    assert "has no layer whose weights are constants" in lines[2]
    assert lines[3].startswith("  size        ")
    assert lines[6].startswith("  outputs     the same for a generated image: 4 of 4 detections match")
    assert json.loads(json.dumps(difference.to_dict()))["weights"]["compared"] is False


def test_difference_of_a_file_and_its_saved_model(written: Path) -> None:
    difference = diff(written, written / "model.onnx")
    assert difference.same, str(difference)
    assert difference.old.kind == "SavedModel"


def test_changed_weight_is_a_difference(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copy(export / "model.onnx", tmp_path / "other.onnx"))
    replace_bytes(other, WEIGHTS.tobytes(), (WEIGHTS * 2).tobytes())
    image = DIGITS / "scenes" / "scene_00.png"
    code, out, _ = exit_code(capsys, "diff", export / "model.onnx", other, "--exit-code", "--image", image)
    assert code == 1
    assert f"outputs  differ for {image}: " in out
    assert exit_code(capsys, "diff", export / "model.onnx", export / "model.onnx", "--exit-code")[0] == 0


@pytest.mark.parametrize(
    ("arrange", "detail"),
    [
        (lambda folder: write_identity(folder / "b.onnx", [1, 24, 48, 3], "raw_detection_boxes"), "24 x 32"),
        (lambda folder: (folder / "b.onnx").write_bytes(b"words"), None),
    ],
)
def test_models_that_cannot_be_compared(tmp_path: Path, arrange: Callable[[Path], object], detail: str | None) -> None:
    write_identity(tmp_path / "a.onnx", [1, 24, 32, 3], "raw_detection_boxes")
    arrange(tmp_path)
    if detail is None:
        with pytest.raises(SavedModelError, match=r"b\.onnx: not an ONNX model"):
            diff(tmp_path / "a.onnx", tmp_path / "b.onnx")
        return
    outputs = diff(tmp_path / "a.onnx", tmp_path / "b.onnx").outputs
    assert outputs is not None
    assert outputs.same is None
    assert outputs.detail == "not compared: the images of one are 24 x 32, those of the other 24 x 48"


def test_checkpoint_cannot_be_compared_with_a_file(export: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"run: a checkpoint cannot be run"):
        diff(export / "model.onnx", DIGITS / "run")
