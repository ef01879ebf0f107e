"""The files of the Object Detection API's exporter scripts: clients of its graphs find tensors by their names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tensorflow as tf
from PIL import Image

import unfreeze

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
IMAGE = np.asarray(Image.open(DIGITS / "scenes" / "scene_00.png").convert("RGB"))[np.newaxis]
OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
# The outputs of the TF2 exporter in the order of StatefulPartitionedCall:0 and so on.
TF2_OUTPUTS = (
    "detection_anchor_indices",
    "detection_boxes",
    "detection_classes",
    "detection_multiclass_scores",
    "detection_scores",
    "num_detections",
    "raw_detection_boxes",
    "raw_detection_scores",
)
tf1 = tf.compat.v1


def run_script(name: str, *flags: str) -> None:
    subprocess.run([sys.executable, "-m", f"unfreeze.{name}", *flags], check=True)


@pytest.fixture(scope="module")
def tf1_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("script") / "out"
    run_script(
        "export_inference_graph",
        f"--pipeline_config_path={DIGITS / 'pipeline.config'}",
        f"--trained_checkpoint_prefix={DIGITS / 'run' / 'model.ckpt-8000'}",
        f"--output_directory={folder}",
        "--write_inference_graph",
    )
    return folder


@pytest.fixture(scope="module")
def expected(tf1_files: Path) -> Mapping[str, np.ndarray]:
    signature = tf.saved_model.load(str(tf1_files / "saved_model")).signatures["serving_default"]
    return {name: value.numpy() for name, value in signature(inputs=tf.constant(IMAGE)).items()}


def assert_detections(session: Any, expected: Mapping[str, np.ndarray]) -> None:
    """Runs the graph of a session by the tensor names of the Object Detection API."""
    detections = session.run({name: f"{name}:0" for name in OUTPUTS}, {"image_tensor:0": IMAGE})
    for name in OUTPUTS:
        np.testing.assert_allclose(detections[name], expected[name], rtol=0, atol=1e-5, err_msg=name)


def test_tf1_script_writes_every_file_of_the_object_detection_apis(tf1_files: Path) -> None:
    assert {path.name for path in tf1_files.iterdir()} == {
        "checkpoint",
        "export.json",
        "frozen_inference_graph.pb",
        "inference_graph.pbtxt",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "model.ckpt.meta",
        "pipeline.config",
        "saved_model",
    }


def test_frozen_graph_runs_by_tensor_names(tf1_files: Path, expected: Mapping[str, np.ndarray]) -> None:
    graph_def = tf1.GraphDef.FromString((tf1_files / "frozen_inference_graph.pb").read_bytes())
    with tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        assert_detections(session, expected)


def test_saved_model_runs_by_tensor_names(tf1_files: Path, expected: Mapping[str, np.ndarray]) -> None:
    with tf1.Session(graph=tf.Graph()) as session:
        tf1.saved_model.loader.load(session, ["serve"], str(tf1_files / "saved_model"))
        assert_detections(session, expected)


def test_meta_graph_and_checkpoint_run_by_tensor_names(tf1_files: Path, expected: Mapping[str, np.ndarray]) -> None:
    with tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        saver = tf1.train.import_meta_graph(str(tf1_files / "model.ckpt.meta"))
        saver.restore(session, tf.train.latest_checkpoint(str(tf1_files)))
        assert_detections(session, expected)


def test_inference_graph_in_text_form_is_that_of_the_meta_graph(tf1_files: Path) -> None:
    from google.protobuf import text_format

    meta_graph = tf1.MetaGraphDef.FromString((tf1_files / "model.ckpt.meta").read_bytes())
    text = (tf1_files / "inference_graph.pbtxt").read_text()
    assert text_format.Parse(text, tf1.GraphDef()) == meta_graph.graph_def


def test_written_checkpoint_exports_to_the_same_detections(
    tf1_files: Path, expected: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    again = unfreeze.export(tf1_files / "model.ckpt", output_directory=tmp_path / "out", verify=False)
    signature = tf.saved_model.load(str(again.saved_model)).signatures["serving_default"]
    outputs = signature(inputs=tf.constant(IMAGE))
    np.testing.assert_array_equal(outputs["detection_scores"], expected["detection_scores"])


def test_tf2_script_writes_a_checkpoint_and_the_tensor_names_of_tensorflow_2(tmp_path: Path) -> None:
    golden = reference.golden("v_ssd_mobilenet_v2_fpn_keras_levels_3_to_4", "tf2")
    run = reference.write_checkpoint(golden, tmp_path / "run").parent
    run_script(
        "exporter_main_v2",
        f"--pipeline_config_path={run / 'pipeline.config'}",
        f"--trained_checkpoint_dir={run}",
        f"--output_directory={tmp_path / 'out'}",
    )
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoint").iterdir()) == [
        "checkpoint",
        "ckpt-0.data-00000-of-00001",
        "ckpt-0.index",
    ]
    with tf1.Session(graph=tf.Graph()) as session:
        meta_graph = tf1.saved_model.loader.load(session, ["serve"], str(tmp_path / "out" / "saved_model"))
        outputs = meta_graph.signature_def["serving_default"].outputs
        fetches = [f"StatefulPartitionedCall:{number}" for number in range(len(TF2_OUTPUTS))]
        assert [outputs[name].name for name in TF2_OUTPUTS] == fetches
        boxes = session.run(fetches[1], {"serving_default_input_tensor:0": IMAGE})
    assert boxes.shape[2] == 4
    again = unfreeze.export(tmp_path / "out", output_directory=tmp_path / "again", verify=False)
    assert again.record.checkpoint is not None
    assert again.record.checkpoint.prefix.endswith("checkpoint/ckpt-0")
