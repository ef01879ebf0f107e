"""The export of a trained detector, compared with the recorded detections of the Object Detection API."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from unfreeze.config import read_label_map, read_pipeline_config
from unfreeze.errors import ConfigError, OutputError, UnsupportedError
from unfreeze.exporting.export import export
from unfreeze.exporting.job import Exported
from unfreeze.savedmodel import writer
from unfreeze.savedmodel.graph import share_constants
from unfreeze.verification import compare_detections

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
SCENES = sorted((DIGITS / "scenes").glob("*.png"))
KEY = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(
        DIGITS / "run",
        output_directory=tmp_path_factory.mktemp("digits") / "exported",
        label_map=DIGITS / "label_map.pbtxt",
    )


@pytest.fixture(scope="module")
def model(exported: Exported) -> Iterator[Any]:
    return tf.saved_model.load(str(exported.saved_model))


def scene(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def numpy(outputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {name: output.numpy() for name, output in outputs.items()}


def test_detections_are_those_of_the_object_detection_api(model: Any) -> None:
    recorded = np.load(DIGITS / "answers.npz")
    assert len(SCENES) == 12
    for path in SCENES:
        number = path.stem.removeprefix("scene_")
        theirs = {
            key.removeprefix(number + "/"): recorded[key] for key in recorded.files if key.startswith(number + "/")
        }
        ours = numpy(model.signatures["serving_default"](inputs=scene(path)[np.newaxis]))
        comparison = compare_detections(ours, theirs)
        assert comparison.ok, (path.name, comparison.problems)
        assert not comparison.only_theirs


def test_every_check_passes(exported: Exported) -> None:
    assert exported.report is not None
    states = {check.name: check.status for check in exported.report.checks}
    assert {name for name, state in states.items() if state != "passed"} == {"against"}
    assert exported.record.verified is True


def test_variables_are_the_checkpoints_bytes(exported: Exported) -> None:
    checkpoint = tf.train.load_checkpoint(str(DIGITS / "run" / "model.ckpt-8000"))
    written = tf.train.load_checkpoint(str(exported.saved_model / "variables" / "variables"))
    stored = checkpoint.get_variable_to_shape_map()
    names = [
        key.removesuffix(KEY) for key in written.get_variable_to_shape_map() if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
    ]
    averaged = 0
    for name in names:
        moving_average = f"{name}/ExponentialMovingAverage"
        averaged += moving_average in stored
        value = checkpoint.get_tensor(moving_average if moving_average in stored else name)
        assert written.get_tensor(name + KEY).tobytes() == value.tobytes(), name
    assert set(names) == {
        name for name in stored if not name.endswith(("ExponentialMovingAverage", "Momentum", "global_step"))
    }
    assert averaged == sum(name.endswith("ExponentialMovingAverage") for name in stored)


def test_moving_averages_are_applied_once(exported: Exported) -> None:
    assert read_pipeline_config(DIGITS / "pipeline.config").eval_config.use_moving_averages
    assert not read_pipeline_config(exported.folder / "pipeline.config").eval_config.use_moving_averages


def test_signatures_agree(model: Any) -> None:
    image = scene(SCENES[0])
    encoded = tf.io.encode_png(image).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature})).SerializeToString()
    inputs = {
        "image_tensor": image[np.newaxis],
        "float_image_tensor": image[np.newaxis].astype(np.float32),
        "encoded_image_string_tensor": np.array([encoded]),
        "tf_example": np.array([example]),
        "named": image[np.newaxis],
    }
    assert set(model.signatures) == {"serving_default", *inputs}
    by_signature = {name: numpy(model.signatures[name](inputs=tf.constant(value))) for name, value in inputs.items()}
    reference = numpy(model(image[np.newaxis]))
    for name, outputs in by_signature.items():
        assert compare_detections(outputs, reference).ok, name


def test_encoded_images_of_different_sizes_in_one_batch(model: Any) -> None:
    images = [scene(SCENES[0]), np.asarray(Image.open(SCENES[1]).convert("RGB").resize((200, 120)))]
    strings = tf.constant([tf.io.encode_png(image).numpy() for image in images])
    together = numpy(model.signatures["encoded_image_string_tensor"](inputs=strings))
    for i, image in enumerate(images):
        alone = numpy(model.signatures["image_tensor"](inputs=image[np.newaxis]))
        assert compare_detections({name: output[i : i + 1] for name, output in together.items()}, alone).ok


def test_a_signature_works_after_its_model_is_released(exported: Exported, model: Any) -> None:
    image = tf.constant(scene(SCENES[0])[np.newaxis])
    signature = tf.saved_model.load(str(exported.saved_model)).signatures["serving_default"]
    gc.collect()
    assert compare_detections(numpy(signature(inputs=image)), numpy(model(image))).ok


def test_class_names_come_from_the_label_map(exported: Exported, model: Any) -> None:
    outputs = numpy(model.signatures["named"](inputs=scene(SCENES[0])[np.newaxis]))
    count = int(outputs["num_detections"][0])
    classes = outputs["detection_classes"][0, :count].astype(int)
    labels = read_label_map(DIGITS / "label_map.pbtxt")
    assert [name.decode() for name in outputs["detection_class_names"][0, :count]] == [
        labels.text(number) for number in classes
    ]
    assert count > 10
    assert not any(outputs["detection_class_names"][0, count:])
    assert (exported.saved_model / "assets" / "label_map.pbtxt").is_file()


def test_export_json_records_what_was_exported(exported: Exported) -> None:
    record = json.loads((exported.folder / "export.json").read_text())
    assert record["checkpoint"]["step"] == 8000
    assert record["feature_extractor"] == "ssd_mobilenet_v1"
    assert record["num_classes"] == 10
    assert len(record["weights"]) == 199
    assert record["moving_averages"] == {"used": 129, "missing": []}
    assert record["unused"] == []


def test_nothing_is_replaced_without_overwrite(exported: Exported) -> None:
    with pytest.raises(OutputError, match="exists already: give --overwrite"):
        export(DIGITS / "run", output_directory=exported.folder)


def test_overwrite_does_not_touch_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        export(DIGITS / "run", output_directory=tmp_path, overwrite=True, verify=False, step=5500)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "export.json",
        "notes.txt",
        "pipeline.config",
        "saved_model",
    ]
    assert json.loads((tmp_path / "export.json").read_text())["checkpoint"]["step"] == 5500


def test_input_type_and_shape(tmp_path: Path) -> None:
    made = export(
        DIGITS / "run",
        output_directory=tmp_path / "out",
        input_types=["encoded_image_string_tensor", "image_tensor"],
        input_shape=[1, 160, 160, 3],
        verify=False,
    )
    signatures = tf.saved_model.load(str(made.saved_model)).signatures
    assert set(signatures) == {"serving_default", "encoded_image_string_tensor", "image_tensor"}
    (serving,) = signatures["serving_default"].structured_input_signature[1].values()
    (pixels,) = signatures["image_tensor"].structured_input_signature[1].values()
    assert (serving.dtype, serving.shape) == (tf.string, [1])
    assert (pixels.dtype, pixels.shape) == (tf.uint8, [1, 160, 160, 3])
    larger = Image.open(SCENES[0]).convert("RGB").resize((320, 200))
    outputs = signatures["serving_default"](inputs=tf.constant([tf.io.encode_png(np.asarray(larger)).numpy()]))
    assert outputs["detection_boxes"].shape == [1, 100, 4]


def test_an_unknown_input_type_is_rejected() -> None:
    with pytest.raises(UnsupportedError, match=r"--input-type image\. Use one of image_tensor"):
        export(DIGITS / "run", input_types=["image"])
    with pytest.raises(ConfigError, match="--input-type image_and_boxes_tensor: this model computes no masks"):
        export(DIGITS / "run", input_types=["image_and_boxes_tensor"])


def test_equal_constants_of_a_function_are_merged() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def call(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        total, largest = tf.reduce_sum(x, tf.constant(1)) + 2.0, tf.reduce_max(x, tf.constant(1))
        with tf.control_dependencies([tf.constant(1)]):
            return total, tf.identity(largest), tf.constant(1.5)

    definition = call.get_concrete_function().function_def
    before = sum(node.op == "Const" for node in definition.node_def)
    share_constants(definition)
    values = [node.attr["value"].SerializeToString() for node in definition.node_def if node.op == "Const"]
    assert len(values) == len(set(values)) == before - 2  # the axis was there three times
    inside = {node.name for node in definition.node_def} | {
        argument.name for argument in definition.signature.input_arg
    }
    used = [name for node in definition.node_def for name in node.input] + list(definition.ret.values())
    assert {name.lstrip("^").partition(":")[0] for name in used} <= inside


def test_large_weights_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PART_BYTES", 200_000)
    exported = export(DIGITS / "run", output_directory=tmp_path, verify=False)
    variables = exported.saved_model / "variables"
    assert len(list(variables.glob("variables.data-*"))) > 4
    stored = tf.train.load_checkpoint(str(variables / "variables"))
    trained = tf.train.load_checkpoint(exported.record.checkpoint.prefix)
    assert len(exported.record.weights) == 199
    for key, entry in exported.record.weights.items():
        assert stored.get_tensor(entry.variable).tobytes() == trained.get_tensor(key).tobytes()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("run", {"step": 7}, "no checkpoint of step 7"),
        ("run", {"label_map": "nowhere"}, "nowhere: no such file; expected a label map"),
        ("run", {"pipeline_config_path": "nowhere"}, "nowhere: no such file; expected a pipeline.config"),
        ("run", {"report_path": "nowhere/report.html"}, "the folder nowhere does not exist"),
        ("run", {"output_directory": "examples"}, "saved_model exists already"),
        ("run", {"dry_run": True}, "--dry-run: for frozen graphs"),
        ("frozen_inference_graph.pb", {"weights": "constants"}, "--weights with a frozen graph"),
        ("frozen_inference_graph.pb", {"output_directory": "examples"}, "saved_model exists already"),
        ("frozen_inference_graph.pb", {"trained_checkpoint_prefix": "nowhere"}, "nowhere: no such checkpoint"),
    ],
)
def test_faults_of_paths_and_options_are_reported_before_tensorflow_is_imported(
    source: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "examples" / "saved_model").mkdir(parents=True)
    program = f"""
import sys
from unfreeze import UnfreezeError, export
try:
    export({str(DIGITS / source)!r}, **{options!r})
except UnfreezeError as error:
    print(error, "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert message in done.stdout
    assert done.stdout.endswith(" False\n")
