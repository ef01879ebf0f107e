"""`unfreeze inspect`: what a path is and what is wrong with it, without running it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saver_pb2

from unfreeze import cli
from unfreeze.errors import UnfreezeError
from unfreeze.inspection.inspect import inspect
from unfreeze.inspection.inspection import Inspection

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
PUBLISHED = Path(__file__).parent / "published" / "tf1"
NO_CONFIG = "no pipeline.config beside it or in the folder above; an export needs one (--pipeline-config-path)"
OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
EXPECTED = "not a checkpoint, SavedModel, frozen graph, ONNX, OpenVINO or TFLite model, pipeline.config or label map"


@pytest.fixture(scope="module")
def digits() -> Inspection:
    return inspect(DIGITS / "run")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The digits checkpoints without their config, which is what takes long."""
    return Path(shutil.copytree(DIGITS / "run", tmp_path / "deep" / "run"))


def test_training_folder_as_json(digits: Inspection) -> None:
    report = digits.to_dict()
    assert json.loads(json.dumps(report)) == report
    assert (report["path"], report["kind"]) == (str(DIGITS / "run"), "training folder")
    assert report["checkpoints"] == [
        {"name": "model.ckpt-5500", "step": 5500, "complete": True, "missing": ""},
        {"name": "model.ckpt-8000", "step": 8000, "complete": True, "missing": ""},
    ]
    assert (report["prefix"], report["step"], report["format"]) == (
        str(DIGITS / "run" / "model.ckpt-8000"),
        8000,
        "tf1",
    )
    assert report["tensors"] == {"count": 458, "parameters": 1230046, "bytes": 4920188}
    assert report["weights"]["count"] == 199
    assert report["moving_averages"] == report["optimizer_slots"]
    assert report["moving_averages"]["count"] == 129
    assert report["counters"] == {"count": 1, "parameters": 1, "bytes": 8}
    assert report["pipeline_config"] == str(DIGITS / "pipeline.config")
    assert (report["model"], report["feature_extractor"], report["num_classes"]) == ("ssd", "ssd_mobilenet_v1", 10)
    assert report["image_resizer"] == "fixed_shape_resizer { height: 160 width: 160 }"
    assert (report["use_moving_averages"], report["moving_averages_used"]) == (True, 129)
    assert (report["config_fits"], report["unused"], report["problems"]) == (True, [], [])


def test_training_folder_as_text(digits: Inspection) -> None:
    lines = str(digits).splitlines()
    assert lines[0] == f"{DIGITS / 'run'}: training folder"
    assert lines[1] == "  checkpoints           model.ckpt-5500: complete"
    assert lines[2] == "                        model.ckpt-8000: complete, the one to export"
    assert "  weights               199, 414,239 parameters, 1.7 MB" in lines
    assert "  config fits           yes: the checkpoint has all 199 weights" in lines
    assert "  moving averages used  129 of 129: use_moving_averages is true" in lines
    assert lines[-1] == "  no problem found"


@pytest.mark.parametrize("name", ["", ".index", ".data-00000-of-00001", ".meta"])
def test_checkpoint_is_found_by_any_of_its_files(run: Path, name: str) -> None:
    result = inspect(run / f"model.ckpt-5500{name}")
    assert result.kind == "checkpoint"
    assert (result["prefix"], result["step"], result["pipeline_config"]) == (
        str(run / "model.ckpt-5500"),
        5500,
        None,
    )
    assert result["looks_like"] == "ssd on MobilenetV1"
    assert result.problems == [NO_CONFIG]


def test_state_file_means_its_folder(run: Path) -> None:
    result = inspect(run / "checkpoint")
    assert (result.kind, result["step"]) == ("state file of a training folder", 8000)


def test_incomplete_checkpoints_are_reported(run: Path) -> None:
    (run / "model.ckpt-8000.data-00000-of-00001").unlink()
    (run / "model.ckpt-9000.data-00000-of-00001").write_bytes(b"")
    result = inspect(run)
    assert (result["step"], result["checkpoints"][1]["complete"], result["weights"]["count"]) == (
        5500,
        False,
        199,
    )
    assert result.problems == [
        "model.ckpt-8000 is incomplete: model.ckpt-8000.data-00000-of-00001 is missing",
        "model.ckpt-9000 is incomplete: model.ckpt-9000.index is missing",
        NO_CONFIG,
    ]
    assert inspect(run / "model.ckpt-8000")["weights"]["count"] == 199
    assert inspect(run / "model.ckpt-9000").problems == result.problems[1:2]


def test_checkpoint_that_is_cut_short_is_reported(run: Path) -> None:
    data = run / "model.ckpt-8000.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    assert inspect(run).problems == [
        f"model.ckpt-8000 is incomplete: {data.name} is cut short: 1000 of 4920188 bytes",
        NO_CONFIG,
    ]
    index = run / "model.ckpt-8000.index"
    index.write_bytes(index.read_bytes()[:1000])
    assert inspect(run).problems == [
        f"{index}: not the index of a checkpoint, or cut short (1000 bytes); copy it again"
    ]


def test_config_that_does_not_fit_is_reported(run: Path) -> None:
    text = (DIGITS / "pipeline.config").read_text()
    (run / "pipeline.config").write_text(text.replace("num_classes: 10", "num_classes: 3"))
    result = inspect(run)
    assert result["config_fits"] is False
    [problem] = result.problems
    assert "likely cause: num_classes (3 in the config; the checkpoint has 10). " in problem
    assert str(result).splitlines()[-2:] == ["  1 problem", f"  - {problem}"]


def test_missing_moving_averages_are_reported(tmp_path: Path) -> None:
    shutil.copytree(PUBLISHED / "fine_tuned_ssd_mobilenet_v2", tmp_path / "run")
    config = tmp_path / "run" / "pipeline.config"
    config.write_text(config.read_text().replace("use_moving_averages: false", "use_moving_averages: true"))
    result = inspect(tmp_path / "run")
    assert (result["config_fits"], result["moving_averages_used"], result["step"]) == (True, 0, None)
    missing, averages = result.problems
    assert missing == "model.ckpt is incomplete: model.ckpt.data-00000-of-00001 is missing"
    assert re.fullmatch(
        r"use_moving_averages is true, but \d+ variables have no moving average \(FeatureExtractor/.*, …\); "
        "an export uses their plain values",
        averages,
    )


def test_quantization_without_graph_rewriter_is_reported(tmp_path: Path) -> None:
    published = PUBLISHED / "ssd_mobilenet_v2_quantized_300x300_coco_2019_01_03"
    result = inspect(published / "model.ckpt")
    assert (result["quantization_aware"], result["quantization_state"]["count"]) == (True, 636)
    assert (result["config_fits"], result["moving_averages_used"]) == (True, 204)
    shutil.copy(published / "model.ckpt.index", tmp_path)
    text = (published / "pipeline.config").read_text()
    (tmp_path / "pipeline.config").write_text(text[: text.index("graph_rewriter")])
    result = inspect(tmp_path)
    assert (result["config_fits"], result["quantization_aware"]) == (True, False)
    assert result.problems[1:] == [
        "the model was trained quantization-aware, but the config has no graph_rewriter; an export has no quantization"
    ]


def test_tensorflow_2_checkpoint(tmp_path: Path) -> None:
    tf.train.Checkpoint(model=tf.Variable([1.0, 2.0])).write(str(tmp_path / "ckpt-3"))
    result = inspect(tmp_path)
    assert (result["format"], result["step"], result["weights"]["count"]) == ("tf2", 3, 1)
    assert result.problems == [NO_CONFIG]
    config = (PUBLISHED / "fine_tuned_ssd_mobilenet_v2" / "pipeline.config").read_text()
    (tmp_path / "pipeline.config").write_text(config)
    assert inspect(tmp_path).problems == [
        f"{tmp_path}/ckpt-3: this is a TensorFlow 2 checkpoint (object-based), but the config's "
        "ssd_mobilenet_v2 is an extractor of TensorFlow 1; use the pipeline.config that the checkpoint was trained with"
    ]


def test_single_file_checkpoint(tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("FirstStageFeatureExtractor/resnet_v1_50/conv1/weights", [7, 7, 3, 64])
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=saver_pb2.SaverDef.V1)
        saver.save(session, str(tmp_path / "model.ckpt"), global_step=7)
    for path in (tmp_path, tmp_path / "model.ckpt-7", tmp_path / "checkpoint"):
        result = inspect(path)
        assert (result["format"], result["step"], result["looks_like"]) == (
            "tf1-v1",
            7,
            "faster_rcnn on resnet_v1_50",
        )
    renamed = (tmp_path / "model.ckpt-7").rename(tmp_path / "weights")
    assert inspect(renamed)["format"] == "tf1-v1"


def detector(value: float) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Something with a detector's outputs."""

    def detect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.shape(images)[0]
        boxes = tf.ensure_shape(tf.ones([batch, 5, 4]) * value, [None, 5, 4])
        return {
            "detection_boxes": boxes,
            "detection_scores": boxes[:, :, 0],
            "detection_classes": boxes[:, :, 1],
            "num_detections": boxes[:, 0, 0],
        }

    return detect


def save(folder: Path, batched: bool = True) -> Path:
    """A small unfrozen SavedModel with a detector's signature."""
    root = tf.Module()
    root.weights = [tf.Variable(tf.ones([1000]), name="weights")]

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="inputs")])
    def serve(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = detector(1.0)(inputs) | {"used": root.weights[0][:1]}
        return outputs if batched else outputs | {"num_detections": tf.constant(5.0)}

    tf.saved_model.save(root, str(folder), signatures={"serving_default": serve})
    return folder


def test_saved_model_with_variables(tmp_path: Path) -> None:
    result = inspect(save(tmp_path / "model"))
    assert (result.kind, result["frozen"], result["variables"]) == (
        "SavedModel",
        False,
        {"count": 1, "bytes": 4000},
    )
    assert result["signatures"]["serving_default"]["inputs"] == {
        "inputs": {"dtype": "uint8", "shape": [None, None, None, 3], "tensor": "serving_default_inputs:0"}
    }
    assert result["signatures"]["serving_default"]["outputs"]["detection_boxes"] == {
        "dtype": "float32",
        "shape": [None, 5, 4],
        "tensor": "StatefulPartitionedCall:0",
    }
    assert (result["written_by"], result["tensorflow_version"]) == ("unknown", tf.__version__)
    assert result.problems == ["serving_default: used is float32 [1], its first dimension is not the batch"]
    assert "serving_default(inputs: uint8 [?, ?, ?, 3], tensor serving_default_inputs:0) -> 5 outputs" in str(result)


def test_faults_of_a_saved_model_are_reported(tmp_path: Path) -> None:
    model = save(tmp_path / "model", batched=False)
    assert (
        "serving_default: num_detections is float32 [], its first dimension is not the batch" in inspect(model).problems
    )
    data = model / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    assert f"variables/: {data.name} is cut short: 100 of 4000 bytes" in inspect(model).problems
    data.unlink()
    assert "variables/variables.data-00000-of-00001 is missing" in inspect(model).problems
    program = model / "saved_model.pb"
    program.write_bytes(program.read_bytes()[:-5])
    [problem] = inspect(model).problems
    assert problem.startswith(f"{program}: damaged, or not a SavedModel: ")


def test_export_reports_its_source(tmp_path: Path) -> None:
    save(tmp_path / "saved_model")
    record: dict[str, Any] = {
        "unfreeze": "0.1.0",
        "checkpoint": {"prefix": "run/model.ckpt-9", "step": 9},
        "model": "ssd",
        "feature_extractor": "ssd_mobilenet_v1",
        "num_classes": 3,
        "exported_at": "2026-01-02T03:04:05+00:00",
        "verified": True,
        "checks": [
            {"name": "files", "status": "passed"},
            {"name": "weights", "status": "passed"},
            {"name": "against", "status": "skipped"},
        ],
        "files": {"gone.txt": {"size_bytes": 3, "sha256": "00"}},
    }
    (tmp_path / "export.json").write_text(json.dumps(record))
    result = inspect(tmp_path)
    assert (result.path, result["written_by"], result["verified"]) == (
        tmp_path / "saved_model",
        "unfreeze 0.1.0",
        True,
    )
    assert (result["checkpoint"], result["step"], result["num_classes"]) == ("run/model.ckpt-9", 9, 3)
    assert "yes, 2 checks passed" in str(result)
    assert "gone.txt is missing, but export.json lists it" in result.problems
    (tmp_path / "export.json").write_text(json.dumps(record | {"verified": False}))
    assert "no: run `unfreeze verify`" in str(inspect(tmp_path))
    (tmp_path / "export.json").write_text(json.dumps({"unfreeze": "0.1.0", "graph": {"path": "frozen.pb"}}))
    of_graph = inspect(tmp_path)
    assert of_graph["from_graph"] == "frozen.pb"
    assert "None" not in str(of_graph)
    (tmp_path / "export.json").write_text("{")
    assert inspect(tmp_path).problems[0].startswith(f"{tmp_path}/export.json: not JSON: ")


def graph(*, variables: bool = False, operation: str = "") -> Any:
    """The GraphDef of a small detector, as the OD API's exporter names it."""
    with tf.Graph().as_default() as made:
        images = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], name="image_tensor")
        if variables:
            tf.compat.v1.get_variable("weights", [3], use_resource=False)
        for name, output in detector(1.0)(images).items():
            tf.identity(output, name=name)
    graph_def = made.as_graph_def()
    if operation:
        graph_def.node.add(name="extra", op=operation)
    return graph_def


def test_frozen_graph_inputs_and_outputs(tmp_path: Path) -> None:
    path = tmp_path / "frozen_inference_graph.pb"
    path.write_bytes(graph().SerializeToString())
    result = inspect(path)
    assert (result.kind, result["frozen"], result.problems) == ("frozen graph", True, [])
    assert result["inputs"] == {"image_tensor": "uint8 [?, ?, ?, 3]"}
    assert sorted(result["outputs"]) == sorted(OUTPUTS)
    assert result["outputs"]["detection_boxes"] == "float32 [?, 5, 4]"
    assert 0 < result["constants_bytes"] < path.stat().st_size
    assert inspect(tmp_path).path == path


def test_frozen_graph_of_the_od_api() -> None:
    result = inspect(DIGITS / "frozen_inference_graph.pb")
    assert (result["frozen"], result["inputs"]) == (True, {"image_tensor": "uint8 [?, ?, ?, 3]"})
    assert {*OUTPUTS, "raw_detection_boxes", "raw_detection_scores"} <= set(result["outputs"])
    assert result["constants_bytes"] > 1_600_000
    assert result.problems == []


def test_graphs_that_cannot_be_served_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(variables=True).SerializeToString())
    result = inspect(path)
    assert (result.kind, result["frozen"]) == ("graph with variables", False)
    assert result.problems == ["1 variable without values; export the checkpoint that belongs to the graph"]
    path.write_bytes(graph(operation="NoSuchOperation").SerializeToString())
    assert inspect(path).problems[0] == f"this TensorFlow ({tf.__version__}) does not know NoSuchOperation"
    with tf.Graph().as_default() as other:
        tf.identity(tf.compat.v1.placeholder(tf.float32, [2], name="x"), name="y")
    path.write_bytes(other.as_graph_def().SerializeToString())
    assert inspect(path).problems == [
        "not a detector of the Object Detection API: no output "
        "detection_boxes, detection_scores, detection_classes, num_detections"
    ]


def test_saved_model_with_constants_is_frozen(tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], name="image_tensor")
        outputs = {name: tf.identity(output, name=name) for name, output in detector(1.0)(images).items()}
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "model"), {"inputs": images}, outputs)
    result = inspect(tmp_path / "model" / "saved_model.pb")
    assert result["frozen"] is True
    assert result["written_by"] == "export_inference_graph of the Object Detection API (TensorFlow 1)"
    assert [problem.split(":")[0] for problem in result.problems] == ["variables/ is empty"]


def test_folder_with_several_models_has_parts(run: Path) -> None:
    save(run / "saved_model")
    (run / "frozen_inference_graph.pb").write_bytes(graph().SerializeToString())
    (run / "notes.pb").write_bytes(b"no graph")
    result = inspect(run)
    assert result.kind == "folder with 3 items"
    assert [part["kind"] for part in result.to_dict()["parts"]] == ["training folder", "SavedModel", "frozen graph"]
    assert result.problems[0] == f"{run}: {NO_CONFIG}"
    assert str(result).count("problem") == 3


def test_pipeline_config_fields() -> None:
    result = inspect(DIGITS / "pipeline.config")
    assert (result.kind, result["model"], result["feature_extractor"]) == (
        "pipeline.config",
        "ssd",
        "ssd_mobilenet_v1",
    )
    assert result["weights"] == {"count": 199, "parameters": 414239}
    assert result.problems == []


def test_faults_of_a_pipeline_config_are_reported(tmp_path: Path) -> None:
    text = (DIGITS / "pipeline.config").read_text()
    path = tmp_path / "my.config"
    line = text.splitlines().index("    num_classes: 10") + 1
    path.write_text(text.replace("num_classes: 10", "num_clases: 10"))
    result = inspect(path)
    assert result.problems[0].startswith(f"{path}:{line}: Ssd has no field 'num_clases', did you mean 'num_classes'?")
    assert result["feature_extractor"] == "ssd_mobilenet_v1"  # the rest is reported all the same
    path.write_text(text[: text.index("box_predictor")])
    result = inspect(path)
    assert (result.fields, len(result.problems)) == ((), 1)
    assert "is opened here and never closed" in result.problems[0]
    path.write_text(text.replace("'ssd_mobilenet_v1'", "'ssd_no_such_net'"))
    report = "feature_extractor.type 'ssd_no_such_net' is not an SSD extractor of the Object Detection API; "
    assert inspect(path).problems[0].startswith(report)
    path.write_text("some words")
    [problem] = inspect(path).problems
    assert problem.startswith(f"{path}:1: ")
    (tmp_path / "config.txt").write_text(text.replace("use_moving_averages: true", ""))
    assert inspect(tmp_path / "config.txt")["use_moving_averages"] is False


def test_label_map_fields(tmp_path: Path) -> None:
    result = inspect(DIGITS / "label_map.pbtxt")
    assert (result.kind, result["classes"], result["ids"]) == ("label map", 10, list(range(1, 11)))
    assert (result["names"]["10"], list(result.problems)) == ("nine", [])
    path = tmp_path / "labels.txt"
    path.write_text(
        "item { id: 1 name: 'a' } item { id: 4 name: 'b' display_name: 'Bee' keypoints { id: 2 label: 'x' } }"
    )
    result = inspect(path)
    assert result["names"] == {"1": "a", "4": "Bee"}
    assert "1 to 4, without 2, 3" in str(result)
    assert result["keypoints"] == {"4": {2: "x"}}
    path.write_text("item { id: 1 name: 'a' } item { id: 1 name: 'b' }")
    assert inspect(path).problems == [f"{path}:1: 'a' and 'b' both have id 1; ids must be unique"]


def test_other_files_are_rejected(tmp_path: Path) -> None:
    def error_of(name: str, content: bytes | None = None) -> str:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UnfreezeError) as raised:
            inspect(tmp_path / name)
        assert "\n" not in str(raised.value)
        return str(raised.value).removeprefix(f"{tmp_path / name}: ")

    assert error_of("nothing") == "no such file or folder, and no checkpoint has this prefix"
    assert error_of("nowhere/model.ckpt") == "no such file or folder, and no checkpoint has this prefix"
    assert error_of("random.bin", bytes(range(256)) * 10) == EXPECTED
    assert error_of("empty.txt", b"") == f"{EXPECTED}, but an empty file; copy it again"
    assert error_of("damaged.pb", b"\x08\xff") == f"{EXPECTED} (damaged.pb may be damaged)"
    assert error_of("words.txt", b"just words") == EXPECTED
    assert error_of("renamed.pb", b"\x1c\x00\x00\x00TFL3") == (
        "is a TensorFlow Lite model; rename it to *.tflite, by which its runtime is found"
    )
    assert error_of("graph.pbtxt", b'node { name: "x" op: "NoOp" }') == (
        f"not supported: {tmp_path}/graph.pbtxt: a graph in text form. Pass the checkpoint or the .pb file."
    )
    empty = tmp_path / "folder"
    empty.mkdir()
    assert error_of("folder") == f"{EXPECTED} (it is empty)"
    (empty / "notes.txt").write_text("x")
    assert error_of("folder") == EXPECTED
    save(empty / "export" / "saved_model")
    assert error_of("folder") == f"{EXPECTED}; there is saved_model.pb in {empty}/export/saved_model"


def test_inspect_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("inspect", str(run / "model.ckpt-5500")) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["  1 problem", f"  - {NO_CONFIG}"]
    assert exit_code("inspect", str(run / "model.ckpt-5500"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == [NO_CONFIG]
    assert exit_code("inspect", str(run / "nothing")) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def exit_code(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return ended.value.code


@pytest.mark.parametrize(("anchors", "takers"), [(1917, 0), (51150, 3), (None, 0)])
def test_large_responses_are_reported(tmp_path: Path, anchors: int | None, takers: int) -> None:
    spec = tf.TensorSpec([None, anchors, 91])
    model = tf.Module()
    model.factor = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "input_tensor"), spec])
    def detect(input_tensor: tf.Tensor, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        number = tf.shape(input_tensor)[0]
        boxes = tf.zeros([number, 100, 4]) * model.factor
        outputs = {"detection_boxes": boxes, "num_detections": tf.fill([number], 100.0), "raw_detection_scores": raw}
        return outputs | {"detection_scores": boxes[..., 0], "detection_classes": boxes[..., 1]}

    tf.saved_model.save(model, str(tmp_path), signatures={"serving_default": detect})
    result = inspect(tmp_path)
    assert len(result["serving_findings"]) == takers
    conclusion = f"see the {takers} finding{'s' * (takers > 1)} above" if takers else "no problem found"
    assert str(result).splitlines()[-1].endswith(conclusion)
    assert result.problems == []
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
    if anchors is None:
        assert result["response_bytes_per_image"] is None
        assert "unknown from the shapes" in str(result)
    else:
        size = result["response_bytes_per_image"]
        assert size["proto"] == pytest.approx(anchors * 91 * 4 + 100 * 6 * 4, rel=0.01)
        assert size["proto_without_raw"] < 3000
    if takers:
        assert "the limit of a serverless endpoint of SageMaker is 4.2 MB. Export with --kept-outputs" in str(result)
