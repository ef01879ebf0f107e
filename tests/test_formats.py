"""Exports in the formats of other runtimes: the recorded detections, through each runtime, and what is rejected."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import docs_pages
import numpy as np
import pytest
import reference
import tensorflow as tf

import unfreeze
from unfreeze import cli
from unfreeze.child_process import ModuleError
from unfreeze.comparison.diff_files import model_layers
from unfreeze.comparison.layers import LayerDifference, compare_layers
from unfreeze.config import parse_pipeline_config, with_keypoint_labels
from unfreeze.detectors import Forms, build_detector
from unfreeze.detectors.raw_outputs import with_raw_outputs
from unfreeze.errors import (
    ConversionError,
    MissingExtraError,
    SavedModelError,
    UnfreezeError,
    UnsupportedError,
    VerificationError,
)
from unfreeze.formats import FORMATS, conversion, other_formats
from unfreeze.runtimes import find_model, load_any_model, load_model
from unfreeze.runtimes.process import ProcessRun, run_in_process
from unfreeze.savedmodel import trace
from unfreeze.verification import compare_detections
from unfreeze.weights import Weights, open_checkpoint

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
ALL = ("saved_model", "frozen_graph", "onnx", "openvino", "tflite")
FILES = {name: FORMATS[name] for name in ALL[1:]}  # test_tfjs.py has the format of TensorFlow.js


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats") / "all"
    unfreeze.export(DIGITS / "run", output_directory=folder, formats=ALL)
    return folder


def test_export_writes_and_verifies_every_format(exported: Path) -> None:
    record = json.loads((exported / "export.json").read_text())
    assert set(record["formats"]) == set(FILES)
    for name, written in record["formats"].items():
        assert written["verified"] is True, name
        assert (exported / FILES[name].file).is_file()
        assert {path for path in written["files"] if (exported / path).is_file()} == set(written["files"])


def test_every_file_has_the_detections_of_the_saved_model(exported: Path) -> None:
    image = np.random.default_rng(5).integers(0, 256, [1, 160, 160, 3]).astype(np.uint8)
    images = np.concatenate([image, image[:, ::-1]])
    expected = load_model(find_model(exported)).run(images)
    for chosen in FILES.values():
        outputs = load_model(find_model(exported / chosen.file)).run(images)
        comparison = compare_detections(outputs, expected)
        assert comparison.ok, (chosen.name, comparison.problems)


@pytest.mark.parametrize("name", [*(row.file for row in FILES.values()), "saved_model"])
def test_every_file_has_the_folded_layers_of_the_frozen_graph(name: str, exported: Path) -> None:
    """The frozen graph is one of the Object Detection API, with batch normalization beside the weights."""
    layers = model_layers(DIGITS / "frozen_inference_graph.pb")
    difference = compare_layers(layers, model_layers(exported / name))
    assert difference == LayerDifference(count=47, equal=91)


def test_an_unfrozen_export_is_the_source_of_other_formats(exported: Path, tmp_path: Path) -> None:
    unfreeze.export(exported, output_directory=tmp_path / "again", formats=["frozen_graph"])
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "export.json",
        "frozen_inference_graph.pb",
        "pipeline.config",
    ]


def test_frozen_graph_has_no_functions_and_attributes_that_old_versions_do_not_know(exported: Path) -> None:
    graph_def = tf.compat.v1.GraphDef.FromString((exported / "frozen_inference_graph.pb").read_bytes())
    assert not graph_def.library.function
    depthwise = [node for node in graph_def.node if node.op == "DepthwiseConv2dNative"]
    assert depthwise
    assert all("explicit_paddings" not in node.attr for node in depthwise)  # TensorFlow 1.15 does not have it


def test_frozen_graph_has_the_tensor_names_of_the_object_detection_api(exported: Path) -> None:
    graph_def = tf.compat.v1.GraphDef.FromString((exported / "frozen_inference_graph.pb").read_bytes())
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        feeds = {"image_tensor:0": np.zeros([1, 160, 160, 3], np.uint8)}
        boxes, number = session.run(["detection_boxes:0", "num_detections:0"], feeds)
    assert boxes.shape[2] == 4
    assert number.shape == (1,)


@pytest.fixture(scope="module")
def workplace(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the docs work: with `examples/`, and an export in `build/digits-FORMAT`."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "build").mkdir()
    (folder / "examples").symlink_to(docs_pages.ROOT / "examples")
    for name in FILES:
        (folder / "build" / f"digits-{name}").symlink_to(exported)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_client_in_docs_prints_what_the_page_shows(name: str, workplace: Path) -> None:
    page = docs_pages.ROOT / "docs" / f"{name}.md"
    (_, client), *_ = docs_pages.blocks(page, "python")
    (_, expected), *_ = docs_pages.blocks(page, "text")
    if name != "frozen_graph":
        client += "import sys; assert not {'tensorflow', 'unfreeze'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", client], cwd=workplace, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.parametrize(
    "command",
    [command for page in docs_pages.PAGES for command in docs_pages.commands(page) if command.is_of_format],
    ids=lambda command: f"{command.page}:{command.line}",
)
def test_command_in_docs_for_a_format_runs(
    command: docs_pages.Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs it, except that `exported` stands for the exports, and test_benchmark.py for the benchmarks."""
    _, subcommand, *arguments = command.arguments
    if subcommand == "export":
        name = arguments[2]
        assert arguments == ["examples/digits/run", "--format", name, "--output-directory", f"build/digits-{name}"]
    elif subcommand != "benchmark":
        monkeypatch.chdir(workplace)
        cli.unfreeze.main([subcommand, *arguments], standalone_mode=False)


def test_unknown_format_is_rejected() -> None:
    with pytest.raises(UnsupportedError, match=r"--format coreml: there is no such format; choose from saved_model, "):
        other_formats(["coreml"])


def test_missing_extra_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unfreeze.formats.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"run pip install 'unfreeze\[onnx\]'"):
        other_formats(["onnx"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["openvino"], "opset": 17}, "--opset is for --format onnx only"),
        ({"formats": ["onnx"], "input_types": ["tf_example"]}, "takes pixels only"),
        ({"formats": ["tflite"], "input_shape": (1, None, None, 3)}, "needs a fixed shape"),
        ({"formats": ["onnx"], "runtimes": ["tensorflow-serving:2.6"]}, "--for: for --format saved_model only"),
        ({"formats": ["onnx"], "weights": "trainable", "report_path": "r.html"}, "--weights and --report: for"),
        ({"formats": ["onnx"], "label_map": DIGITS / "label_map.pbtxt"}, "--label-map: for --format saved_model only"),
        ({"formats": ["onnx"], "input_types": ["image_tensor", "tf_example"]}, "several --input-type"),
    ],
)
def test_option_that_a_format_does_not_have_is_rejected(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnfreezeError, match=message):
        unfreeze.export(DIGITS / "run", output_directory=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_other_formats_do_not_replace_the_record_of_a_saved_model(exported: Path) -> None:
    before = (exported / "export.json").read_bytes()
    with pytest.raises(UnfreezeError, match=r"is from another export, which export\.json would no longer"):
        unfreeze.export(DIGITS / "run", output_directory=exported, formats=["onnx"], overwrite=True)
    assert (exported / "export.json").read_bytes() == before


def test_file_that_differs_is_not_exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def one_detection_less(path: Path, batches: list[np.ndarray]) -> ProcessRun:
        run = run_in_process(path, batches)
        fewer = [{**outputs, "num_detections": outputs["num_detections"] - 1} for outputs in run.outputs]
        return replace(run, outputs=tuple(fewer))

    monkeypatch.setattr("unfreeze.verification.model_file.run_in_process", one_detection_less)
    with pytest.raises(VerificationError, match=r"frozen_inference_graph\.pb differs from the model"):
        unfreeze.export(DIGITS / "run", output_directory=tmp_path / "out", formats=["frozen_graph"])
    assert list(tmp_path.iterdir()) == []


def test_failed_converter_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(module: str, arguments: object) -> None:
        raise ModuleError("its process was ended by SIGKILL")

    monkeypatch.setattr(conversion, "run_module", fail)
    with pytest.raises(ConversionError, match="--format onnx: the converter failed: its process was ended by SIGKILL"):
        unfreeze.export(DIGITS / "run", output_directory=tmp_path / "out", formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_failure_of_a_child_process_is_one_line() -> None:
    with pytest.raises(ModuleError, match=r"^/none\.onnx cannot be loaded by ONNX Runtime: .*$"):
        run_in_process(Path("/none.onnx"), [])


@pytest.fixture(scope="module")
def raw_exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "all"
    unfreeze.export(
        DIGITS / "run",
        output_directory=folder,
        formats=["frozen_graph", "onnx", "openvino", "tflite"],
        postprocessing="none",
    )
    return folder


@pytest.mark.parametrize("name", FILES)
def test_raw_outputs_are_those_of_the_saved_model_and_the_anchors(name: str, raw_exports: Path, exported: Path) -> None:
    images = np.random.default_rng(6).integers(0, 256, [1, 160, 160, 3]).astype(np.uint8)
    expected = load_model(find_model(exported)).run(images)
    outputs = load_any_model(find_model(raw_exports / FILES[name].file)).run(images)
    assert sorted(outputs) == ["anchors", "raw_detection_boxes", "raw_detection_scores"]
    for key in ("raw_detection_boxes", "raw_detection_scores"):
        np.testing.assert_allclose(outputs[key], expected[key], rtol=0, atol=1e-4)
    assert outputs["anchors"].shape == outputs["raw_detection_boxes"].shape
    centers = outputs["anchors"].reshape(-1, 2, 2).mean(axis=1)
    assert ((centers > 0) & (centers < 1)).all()


def test_a_model_without_suppression_is_not_run_as_a_detector(raw_exports: Path) -> None:
    with pytest.raises(SavedModelError, match="is not a detector: it lacks detection_boxes"):
        load_model(find_model(raw_exports / "model.onnx"))


def test_raw_outputs_of_two_stages_have_the_proposals(tmp_path: Path) -> None:
    golden = reference.golden("v_frcnn_shared_box_soft", "tf1")
    config = parse_pipeline_config(golden.config)
    weights = Weights(open_checkpoint(reference.write_checkpoint(golden, tmp_path)), "constants")
    detector = with_raw_outputs(build_detector(config, weights, Forms()))
    image = np.random.default_rng(7).integers(0, 256, [1, 200, 240, 3]).astype(np.uint8)
    outputs = detector.detect(*detector.preprocess(tf.constant(image)))
    assert sorted(outputs) == ["final_anchors", "raw_detection_boxes", "raw_detection_scores"]
    assert outputs["final_anchors"].shape == outputs["raw_detection_boxes"].shape


def test_raw_outputs_of_a_center_net_are_rejected(tmp_path: Path) -> None:
    golden = reference.golden("v_center_resnet18_depth", "tf2")
    config = with_keypoint_labels(parse_pipeline_config(golden.config), reference.HERE / "data")
    weights = Weights(open_checkpoint(reference.write_checkpoint(golden, tmp_path)), "constants")
    detector = with_raw_outputs(build_detector(config, weights, Forms()))
    with pytest.raises(UnsupportedError, match="--postprocessing none: this model has no boxes before its detections"):
        trace(detector)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["onnx"], "postprocessing": "some"}, "--postprocessing some: there is none of this name"),
        ({"formats": ["onnx"], "postprocessing": "tflite_op"}, "is for --format tflite alone"),
        ({"postprocessing": "none"}, "a SavedModel has raw_detection_boxes"),
        (
            {"formats": ["onnx"], "postprocessing": "none", "max_detections": 3, "score_threshold": 0.5},
            "not supported with --postprocessing none: --score-threshold and --max-detections",
        ),
        (
            {"formats": ["tflite"], "postprocessing": "tflite_op", "input_shape": (1, 96, 96, 3)},
            "not supported with --postprocessing tflite_op: --input-shape",
        ),
        (
            {
                "formats": ["tflite"],
                "postprocessing": "tflite_op",
                "config_override": "model { ssd { image_resizer { keep_aspect_ratio_resizer { min_dimension: 9 } } } }",
            },
            "keep_aspect_ratio_resizer is not supported with TensorFlow Lite",
        ),
    ],
)
def test_postprocessing_that_does_not_go_with_other_options_is_rejected(
    options: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        unfreeze.export(DIGITS / "run", output_directory=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_model_with_crops_is_rejected_by_name_for_tflite(tmp_path: Path) -> None:
    golden = reference.golden("v_frcnn_shared_box_soft", "tf1")
    prefix = reference.write_checkpoint(golden, tmp_path / "run")
    with pytest.raises(UnsupportedError, match="not supported: --format tflite of a model with CropAndResize"):
        unfreeze.export(
            prefix, output_directory=tmp_path / "out", formats=["tflite"], input_shape=(1, 200, 240, 3), verify=False
        )
    assert not (tmp_path / "out").exists()


def test_anchors_of_a_fixed_size_are_an_output_of_onnx_too(tmp_path: Path) -> None:
    unfreeze.export(
        DIGITS / "run",
        output_directory=tmp_path / "raw",
        formats=["onnx"],
        postprocessing="none",
        input_shape=(1, 160, 160, 3),
    )
    images = np.zeros([1, 160, 160, 3], np.uint8)
    outputs = load_any_model(find_model(tmp_path / "raw" / "model.onnx")).run(images)
    assert outputs["anchors"].shape == outputs["raw_detection_boxes"].shape
