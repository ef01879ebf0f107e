"""The two scripts for TensorFlow Lite export what the Object Detection API's export, and it converts and runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import attr_value_pb2
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze import export_tflite_graph_tf2, export_tflite_ssd_graph
from unfreeze.tflite.detection import ANCHORS, BOX_ENCODINGS, CLASS_PREDICTIONS, INPUT, POSTPROCESS

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")

ROOT = Path(__file__).parents[1]
GOLDENS = reference.GOLDENS / "tflite"
TOLERANCE = 1e-4
RAW = (BOX_ENCODINGS, CLASS_PREDICTIONS, ANCHORS)


class Case(NamedTuple):
    """A golden of TFLite, and the golden with its checkpoint; None for the checkpoint of examples/digits."""

    name: str
    model: str | None
    slow: bool = False


TF1_CASES = (
    Case("digits", None),
    Case("digits_regular_nms", None),
    Case("ssd_mobilenet_v2_fpnlite_raw", "v_ssd_mobilenet_v2_fpnlite"),
)
TF2_CASES = (
    Case("ssd_mobilenet_v2_keras_35", "v_ssd_mobilenet_v2_keras_35"),
    Case("center_resnet18_depth", "v_center_resnet18_depth", slow=True),
    Case("center_resnet18_depth_keypoints", "v_center_resnet18_depth"),
)


class Recorded(NamedTuple):
    """What the Object Detection API exported: the flags, the operation as text, the pixels and the outputs."""

    flags: list[str]
    operation: str | None
    arrays: Mapping[str, np.ndarray]

    @property
    def pixels(self) -> np.ndarray:
        return self.arrays["pixels"][np.newaxis].astype(np.float32)

    @property
    def normalized(self) -> np.ndarray:
        return self.pixels * np.float32(2.0 / 255.0) - np.float32(1.0)

    def tflite(self) -> dict[str, np.ndarray]:
        return {name.removeprefix("tflite/"): array for name, array in self.arrays.items() if "tflite/" in name}


def recorded(case: Case) -> Recorded:
    record = json.loads((GOLDENS / f"{case.name}.json").read_text())
    # A path of the machine that recorded the golden.
    flags = [flag.replace("DATA", str(reference.HERE / "data")) for flag in record["flags"]]
    with np.load(GOLDENS / f"{case.name}.npz") as arrays:
        return Recorded(flags, record["operation"], dict(arrays))


def checkpoint(case: Case, generation: str, folder: Path) -> tuple[Path, Path]:
    """Returns the prefix of the checkpoint of a case, and its config."""
    if case.model is None:
        return ROOT / "examples/digits/run/model.ckpt-8000", ROOT / "examples/digits/pipeline.config"
    prefix = reference.write_checkpoint(reference.golden(case.model, generation), folder)
    return prefix, prefix.parent / "pipeline.config"


def run(main: Any, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def export_tf1(case: Case, folder: Path) -> tf.compat.v1.GraphDef:
    prefix, config = checkpoint(case, "tf1", folder / "run")
    code = run(
        export_tflite_ssd_graph.main,
        f"--pipeline_config_path={config}",
        "--trained_checkpoint_prefix",
        str(prefix),
        f"-output_directory={folder / 'out'}",
        *recorded(case).flags,
    )
    assert code == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["tflite_graph.pb", "tflite_graph.pbtxt"]
    return tf.compat.v1.GraphDef.FromString((folder / "out/tflite_graph.pb").read_bytes())


def litert_outputs(model: bytes, image: np.ndarray) -> list[np.ndarray]:
    interpreter = litert.Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


def litert_signature(model: bytes, image: np.ndarray) -> dict[str, np.ndarray]:
    outputs: dict[str, np.ndarray] = litert.Interpreter(model_content=model).get_signature_runner()(input=image)
    return outputs


def detections(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Returns `[D, 6]`: box, class and score of each detection, in an order that does not depend on the model's."""
    count = int(number[0])
    rows = np.concatenate([boxes[0], classes[0][:, None], scores[0][:, None]], axis=1)[:count]
    return rows[np.lexsort(np.round(rows, 3).T)]


@pytest.mark.parametrize("case", TF1_CASES, ids=lambda case: case.name)
def test_graph_of_tf1_equals_the_object_detection_apis(case: Case, tmp_path: Path) -> None:
    golden, graph = recorded(case), export_tf1(case, tmp_path)
    operations = [node for node in graph.node if node.op == POSTPROCESS]
    expected = text_format.Parse(golden.operation, tf.compat.v1.NodeDef()) if golden.operation else None
    assert operations == ([expected] if expected else [])
    outputs = raw_outputs(graph, golden.normalized)
    for name in RAW:
        ours = outputs[name]
        if f"graph/{name}/rows" in golden.arrays:
            assert ours.shape[1] == golden.arrays[f"graph/{name}/count"]
            ours = ours[:, golden.arrays[f"graph/{name}/rows"]]
        np.testing.assert_allclose(ours, golden.arrays[f"graph/{name}"], rtol=0, atol=TOLERANCE, err_msg=name)
    if expected is None:
        return
    path = str(tmp_path / "out/tflite_graph.pb")
    names = [POSTPROCESS, *(f"{POSTPROCESS}:{number}" for number in (1, 2, 3))]
    converter = tf.compat.v1.lite.TFLiteConverter.from_frozen_graph(path, [INPUT], names, {INPUT: golden.pixels.shape})
    converter.allow_custom_ops = True
    ours = litert_outputs(converter.convert(), golden.normalized)
    theirs = golden.tflite()
    assert [array.shape for array in ours] == [theirs[name].shape for name in names]
    np.testing.assert_allclose(detections(*ours), detections(*(theirs[name] for name in names)), rtol=0, atol=TOLERANCE)


def raw_outputs(graph: tf.compat.v1.GraphDef, image: np.ndarray) -> dict[str, np.ndarray]:
    without = tf.compat.v1.GraphDef(node=[node for node in graph.node if node.op != POSTPROCESS])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(without, name="")
        outputs: dict[str, np.ndarray] = session.run({name: f"{name}:0" for name in RAW}, {f"{INPUT}:0": image})
        return outputs


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in TF2_CASES],
)
def test_saved_model_of_tf2_equals_the_object_detection_apis(case: Case, tmp_path: Path) -> None:
    golden = recorded(case)
    prefix, config = checkpoint(case, "tf2", tmp_path / "run")
    code = run(
        export_tflite_graph_tf2.main,
        f"--pipeline_config_path={config}",
        f"--trained_checkpoint_dir={prefix.parent}",
        f"--output_directory={tmp_path / 'out'}",
        *golden.flags,
    )
    assert code == 0
    saved_model = tmp_path / "out" / "saved_model"
    expected = text_format.Parse(golden.operation, attr_value_pb2.NameAttrList()) if golden.operation else None
    assert implemented(saved_model) == expected
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    converter.allow_custom_ops = True
    ours = litert_signature(converter.convert(), golden.normalized if golden.operation else golden.pixels)
    theirs = golden.tflite()
    assert {name: array.shape for name, array in ours.items()} == {name: array.shape for name, array in theirs.items()}
    if len(theirs) == 4:
        names = [f"output_{number}" for number in (3, 2, 1, 0)]
        ours_rows, their_rows = (detections(*(outputs[name] for name in names)) for outputs in (ours, theirs))
        np.testing.assert_allclose(ours_rows, their_rows, rtol=0, atol=TOLERANCE)
    else:
        for name, array in theirs.items():
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=TOLERANCE, err_msg=name)


def implemented(saved_model: Path) -> attr_value_pb2.NameAttrList | None:
    """Returns the operation that a function of the SavedModel stands for."""
    parsed = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    functions = parsed.meta_graphs[0].graph_def.library.function
    operations = [function.attr["_implements"].func for function in functions if "_implements" in function.attr]
    return operations[0] if operations else None


def test_quantization_aware_graph_equals_the_object_detection_apis(tmp_path: Path) -> None:
    """Compares with the frozen graph of the OD API in the same TensorFlow: another one would round another way."""
    name = "ssd_mobilenet_v2_quantized_300x300_coco"
    prefix = reference.write_checkpoint(reference.golden(name), tmp_path / "run")
    config = tmp_path / "run" / "pipeline.config"
    flags = (f"--pipeline_config_path={config}", f"--trained_checkpoint_prefix={prefix}")
    assert run(export_tflite_ssd_graph.main, *flags, f"--output_directory={tmp_path}") == 0
    image = reference.image(300, 300, 7)[np.newaxis].astype(np.float32) * np.float32(2.0 / 255.0) - np.float32(1.0)
    graph = tf.compat.v1.GraphDef.FromString((tmp_path / "tflite_graph.pb").read_bytes())
    frozen = tf.compat.v1.GraphDef.FromString(reference.frozen_graph(name))
    tensors = {BOX_ENCODINGS: "Squeeze:0", CLASS_PREDICTIONS: "Postprocessor/convert_scores:0"}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(frozen, name="")
        theirs = session.run(tensors, {"Preprocessor/map/TensorArrayStack/TensorArrayGatherV3:0": image})
    ours = raw_outputs(graph, image)
    for key in theirs:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-5, err_msg=key)


SSD = "ssd {{ num_classes: 1 feature_extractor {{ type: '{}' }} image_resizer {{ {} }} }}"
FIXED, KEEP = "fixed_shape_resizer { height: 96 width: 96 }", "keep_aspect_ratio_resizer {}"
CENTER = f"center_net {{ num_classes: 1 feature_extractor {{ type: 'resnet_v1_18_fpn' }} image_resizer {{ {FIXED} }} }}"


@pytest.mark.parametrize(
    ("script", "model", "flags", "message"),
    [
        (
            "tf1",
            "faster_rcnn { }",
            [],
            "model 'faster_rcnn' is not supported: unfreeze.export_tflite_ssd_graph exports ssd only",
        ),
        ("tf1", SSD.format("ssd_mobilenet_v2", KEEP), [], "image_resizer: keep_aspect_ratio_resizer is not supported"),
        ("tf1", SSD.format("ssd_mobilenet_v2_keras", FIXED), [], "use python -m unfreeze.export_tflite_graph_tf2"),
        ("tf1", SSD.format("ssd_mobilenet_v2", FIXED), ["--max_detections=0"], "--max_detections is 0"),
        ("tf1", SSD.format("ssd_mobilenet_v2", FIXED), ["--quantize"], "Unknown command line flag 'quantize'"),
        ("tf2", "faster_rcnn { }", [], "unfreeze.export_tflite_graph_tf2 exports ssd and center_net only"),
        ("tf2", SSD.format("ssd_mobilenet_v2", FIXED), [], "use python -m unfreeze.export_tflite_ssd_graph"),
        ("tf2", CENTER, ["--centernet_include_keypoints", "true"], "has no keypoint_estimation_task"),
    ],
)
def test_unsupported_value_is_rejected_before_tensorflow_is_imported(
    script: str, model: str, flags: list[str], message: str, tmp_path: Path
) -> None:
    config = tmp_path / "pipeline.config"
    config.write_text(f"model {{ {model} }}")
    name, flag = {
        "tf1": ("export_tflite_ssd_graph", "trained_checkpoint_prefix"),
        "tf2": ("export_tflite_graph_tf2", "trained_checkpoint_dir"),
    }[script]
    arguments = [f"--pipeline_config_path={config}", f"--{flag}={ROOT / 'examples/digits/run/model.ckpt-8000'}"]
    code = f"import sys; sys.modules['tensorflow'] = None; from unfreeze import {name}; {name}.main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, f"--output_directory={tmp_path / 'out'}", *flags],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_second_export_replaces_the_first_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "tflite_graph.pb").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    digits = ROOT / "examples" / "digits"
    code = run(
        export_tflite_ssd_graph.main,
        f"--pipeline_config_path={digits / 'pipeline.config'}",
        f"--trained_checkpoint_prefix={digits / 'run' / 'model.ckpt-8000'}",
        f"--output_directory={tmp_path}",
    )
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "tflite_graph.pb", "tflite_graph.pbtxt"]
    graph = tf.compat.v1.GraphDef.FromString((tmp_path / "tflite_graph.pb").read_bytes())
    text = (tmp_path / "tflite_graph.pbtxt").read_text()
    assert text_format.Parse(text, tf.compat.v1.GraphDef()) == graph
