"""`--postprocessing tensorrt`: the plugin's attributes, its rules, and the graph up to it; TensorRT is not run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import unfreeze
from unfreeze.comparison.verify import verify
from unfreeze.config import PipelineConfig, read_pipeline_config
from unfreeze.errors import ConversionError, SavedModelError, UnsupportedError
from unfreeze.export_record import read_record
from unfreeze.tensorrt.detector import efficient_nms
from unfreeze.tensorrt.efficient_nms import OUTPUTS, EfficientNms, detections, plugin_outputs
from unfreeze.tensorrt.trtexec import run_trtexec
from unfreeze.verification import Status

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
NMS = EfficientNms(
    score_threshold=0.25, iou_threshold=0.5, max_output_boxes=4, score_activation=False, class_agnostic=False
)
BOXES = np.array(
    [[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.25], [0.6, 0.6, 1.2, 0.9]]], np.float32
)  # the first two overlap by 0.5
SCORES = np.array([[[0.9, 0.8, 0.0], [0.0, 0.7, 0.6], [0.0, 0.3, 0.25]]], np.float32)
# What onnx-tensorrt imports. Source: docs/operators.md of onnx/onnx-tensorrt.
NAMES = """
Add And ArgMax Cast Clip Concat Constant ConstantOfShape Conv Div Equal Exp Expand Gather GatherND Greater
GreaterOrEqual Identity Less LessOrEqual Log MatMul Max MaxPool Min Mul Neg Not Or Pad Pow Range Reciprocal ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Tile
TopK Transpose Unsqueeze Where
"""
IMPORTED = {*NAMES.split()}


def config(override: str = "") -> PipelineConfig:
    return read_pipeline_config(DIGITS / "pipeline.config", override=override)


def suppression(fields: str) -> str:
    return f"model {{ ssd {{ post_processing {{ batch_non_max_suppression {{ {fields} }} }} }} }}"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorrt") / "export"
    options = {"postprocessing": "tensorrt", "max_detections": 20, "score_threshold": 0.1}
    unfreeze.export(DIGITS / "run", output_directory=folder, formats=["onnx"], **options)
    return folder


def test_scores_at_the_threshold_and_overlaps_at_the_threshold_count() -> None:
    outputs = plugin_outputs(NMS, {"boxes": BOXES, "scores": SCORES})
    assert outputs["num_detections"].tolist() == [[4]]
    assert outputs["detection_classes"].tolist() == [[1, 2, 1, 2]]
    np.testing.assert_allclose(outputs["detection_scores"], [[0.8, 0.6, 0.3, 0.25]])


def test_classes_suppress_each_other_only_if_the_plugin_is_class_agnostic() -> None:
    found = plugin_outputs(replace(NMS, class_agnostic=True), {"boxes": BOXES, "scores": SCORES})
    np.testing.assert_allclose(found["detection_scores"], [[0.8, 0.3, 0, 0]])


def test_rows_below_a_low_threshold_are_no_detections() -> None:
    nms = replace(NMS, score_threshold=0.001, max_output_boxes=9)
    scores = np.where(SCORES < 0.5, np.float32(-1), SCORES)
    outputs = plugin_outputs(nms, {"boxes": BOXES, "scores": scores})
    assert outputs["num_detections"].item() > 2  # the plugin fills its rows
    found = detections(nms, outputs)
    assert found["num_detections"].tolist() == [2]
    np.testing.assert_allclose(found["detection_scores"][0, :3], [0.8, 0.6, 0])


def test_logits_are_compared_with_the_threshold_before_the_sigmoid_function() -> None:
    nms = replace(NMS, score_activation=True, score_threshold=0.27)
    logits = np.log(SCORES.clip(1e-3) / (1 - SCORES.clip(1e-3)))
    found = plugin_outputs(nms, {"boxes": BOXES, "scores": logits})
    expected = plugin_outputs(replace(NMS, score_threshold=0.27), {"boxes": BOXES, "scores": SCORES})
    np.testing.assert_allclose(found["detection_scores"], expected["detection_scores"], atol=1e-6)


def test_boxes_end_at_the_borders_of_the_image() -> None:
    outputs = plugin_outputs(NMS, {"boxes": BOXES, "scores": SCORES})
    assert outputs["detection_boxes"].max() > 1
    assert detections(NMS, outputs)["detection_boxes"].max() == 1


@pytest.mark.parametrize(
    ("override", "attributes"),
    [
        ("", {"max_output_boxes": 100, "score_activation": 1, "class_agnostic": 0, "background_class": 0}),
        ("model { ssd { post_processing { score_converter: SOFTMAX } } }", {"score_activation": 0}),
        (
            "model { ssd { post_processing { calibration_config { temperature_scaling_calibration { scaler: 2 } } } "
            "} }",
            {"score_activation": 0},
        ),
        (suppression("use_class_agnostic_nms: true"), {"class_agnostic": 1}),
        (suppression("score_threshold: -1"), {"score_threshold": 0.0}),
        (suppression("iou_threshold: 0"), {"iou_threshold": 0.0}),  # TensorFlow 1.15: one box for each class
        (suppression("iou_threshold: 0.5"), {"iou_threshold": 0.5}),
        (
            suppression("iou_threshold: 0.5 use_combined_nms: true change_coordinate_frame: false"),
            {"iou_threshold": float(np.nextafter(np.float32(0.5), np.float32(1)))},
        ),
        (
            suppression("score_threshold: 0.5"),
            {"score_threshold": float(np.nextafter(np.float32(0.5), np.float32(1)))},
        ),
    ],
)
def test_attributes_are_those_of_the_config(override: str, attributes: dict[str, float]) -> None:
    found = efficient_nms(config(override)).to_attributes()
    assert {name: found[name] for name in attributes} == attributes


def test_options_of_the_export_lower_the_limits_of_the_config() -> None:
    nms = efficient_nms(config(), score_threshold=0.3, max_detections=7)
    assert (nms.score_threshold, nms.max_output_boxes) == (0.3, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config_override": suppression("soft_nms_sigma: 0.5 use_hard_nms: false")}, "soft_nms_sigma is 0.5"),
        ({"config_override": suppression("max_detections_per_class: 9")}, "--max-detections 9 lowers theirs"),
        ({"config_override": suppression("max_total_detections: 5000 max_detections_per_class: 5000")}, "4096 boxes"),
        ({"config_override": suppression("use_class_agnostic_nms: true iou_threshold: 1")}, "once for each class"),
        (
            {"config_override": "model { ssd { box_coder { keypoint_box_coder { num_keypoints: 3 } } } }"},
            "no keypoints",
        ),
        ({"config_override": "model { faster_rcnn { num_classes: 3 } }"}, "model 'faster_rcnn' is not supported"),
        ({"formats": ["onnx", "tflite"]}, "is for --format onnx alone"),
        ({"kept_outputs": ["raw_detection_boxes"]}, "--kept-outputs"),
        ({"half": True}, "--half"),
        ({"input_shape": (None, 160, 160, 3)}, "needs a fixed shape"),
    ],
)
def test_what_the_plugin_cannot_express_is_rejected_by_name(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        unfreeze.export(
            DIGITS / "run",
            output_directory=tmp_path / "out",
            **{"formats": ["onnx"], "postprocessing": "tensorrt", **options},
        )
    assert not (tmp_path / "out").exists()


def test_graph_ends_in_one_plugin_and_has_operations_that_tensorrt_imports(exported: Path) -> None:
    model = onnx.load(str(exported / "model.onnx"))
    assert {node.op_type for node in model.graph.node[:-1]} - IMPORTED == set()
    plugin = model.graph.node[-1]
    assert (plugin.op_type, plugin.domain, list(plugin.output)) == ("EfficientNMS_TRT", "TRT", list(OUTPUTS))
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in plugin.attribute}
    expected = efficient_nms(config(), score_threshold=0.1, max_detections=20).to_attributes()
    assert attributes == pytest.approx({**expected, "plugin_version": b"1"})
    shapes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.output]
    assert shapes == [[1, 1], [1, 20, 4], [1, 20], [1, 20]]


def test_export_says_what_was_not_run(exported: Path) -> None:
    record = read_record(exported / "saved_model")
    assert record is not None
    assert record.formats is not None
    entry = record.formats["onnx"]
    assert entry.verified is None
    assert "EfficientNMS_TRT itself was not run, since trtexec is not on PATH" in entry.detail
    [report] = verify(exported).parts or [verify(exported)]
    assert report.passed
    assert {check.name: check.status for check in report.checks}["runtime"] is Status.SKIPPED


def test_onnx_runtime_rejects_the_file_by_name(exported: Path) -> None:
    with pytest.raises(SavedModelError, match="ends in EfficientNMS_TRT, which only TensorRT has"):
        unfreeze.predict(exported / "model.onnx", [DIGITS / "scenes" / "scene_00.png"], draw=False)


def fake_trtexec(folder: Path, body: str) -> str:
    program = folder / "trtexec"
    program.write_text(f"#!{sys.executable}\nimport json, sys\n{body}\n")
    program.chmod(0o755)
    return str(program)


def test_outputs_of_trtexec_are_read_for_each_batch(tmp_path: Path) -> None:
    body = """
options = dict(argument[2:].partition("=")[::2] for argument in sys.argv[1:])
if "onnx" in options:
    open(options["saveEngine"], "w").close()
    sys.exit()
name, _, path = options["loadInputs"].partition(":")
first = open(path, "rb").read()[0]
rows = [("num_detections", "1x1", [1]), ("detection_boxes", "1x2x4", [0.5] * 8),
        ("detection_scores", "1x2", [first, 0]), ("detection_classes", "1x2", [3, 0])]
json.dump([{"name": name, "dimensions": size, "values": values} for name, size, values in rows],
          open(options["exportOutput"], "w"))
"""
    batches = [np.full([1, 2, 2, 3], value, np.uint8) for value in (4, 7)]
    outputs = run_trtexec(fake_trtexec(tmp_path, body), tmp_path / "model.onnx", "inputs", batches)
    assert outputs["detection_scores"].tolist() == [[4, 0], [7, 0]]
    assert outputs["detection_classes"].dtype == np.int32
    assert outputs["detection_boxes"].shape == (2, 2, 4)


def test_error_of_trtexec_is_one_line(tmp_path: Path) -> None:
    program = fake_trtexec(tmp_path, "print('[I] start'); print('[E] no plugin'); sys.exit(1)")
    with pytest.raises(ConversionError, match=r"trtexec failed with exit code 1: \[E\] no plugin"):
        run_trtexec(program, tmp_path / "model.onnx", "inputs", [])
