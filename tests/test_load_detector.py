"""Tests `load_detector`: stages, gradients, training, and saving as a checkpoint."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import reference
import tensorflow as tf
from PIL import Image

import unfreeze
from unfreeze.errors import CheckpointError, ConfigError, OutputError, UnsupportedError, WeightsError
from unfreeze.loaded_detector import LoadedDetector

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


class Family(NamedTuple):
    """A golden of a model family, and patterns of the variables that get no gradient."""

    golden: str
    generation: str
    without_gradient: tuple[str, ...] = ()


FAMILIES = (
    Family("ssd_mobilenet_v1_coco", "tf1"),
    Family("v_ssd_mobilenet_v2_fpnlite", "tf1"),
    Family("ssd_mobilenet_v2_fpnlite_320x320_coco17_tpu-8", "tf2"),
    Family("v_efficientdet_b0", "tf2"),
    Family("v_frcnn_shared_box_soft", "tf1"),
    Family("v_mrcnn_pad_matmul", "tf1"),
    Family("v_rfcn_padded", "tf1"),
    Family("v_center_mobilenet_v2", "tf2"),
)
EAGER = ("ssd_mobilenet_v1_coco", "v_center_mobilenet_v2")
SAVED = (*EAGER, "ssd_mobilenet_v2_fpnlite_320x320_coco17_tpu-8")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the checkpoints of goldens, which `loaded` writes when they are needed."""
    return tmp_path_factory.mktemp("goldens")


def loaded(family: Family, folder: Path, **options: str) -> LoadedDetector:
    golden = reference.golden(family.golden, family.generation)
    run = folder / family.golden
    if not run.exists():
        reference.write_checkpoint(golden, run)
    return unfreeze.load_detector(run, label_map=None, **options)


def image(size: tuple[int, int] = (240, 320)) -> tf.Tensor:
    return tf.constant(reference.image(*size)[np.newaxis])


def generic_loss(detector: LoadedDetector, images: tf.Tensor) -> tf.Tensor:
    """Returns a weighted sum of all outputs of the network, with a different factor for each number."""
    stages = detector.predict(detector.preprocess(images))
    raw = {name: value for name, value in stages.items() if value.dtype == tf.float32}
    raw |= {name: value for name, value in detector.postprocess(stages).items() if "mask" in name}
    total = tf.constant(0.0)
    for name, value in sorted(raw.items()):
        factors = tf.sin(tf.cast(tf.range(tf.size(value)) % 1013, tf.float32) + len(name))
        total += tf.reduce_mean(factors * tf.reshape(value, [-1]))
    return total


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.golden)
def test_every_trainable_variable_gets_a_gradient(family: Family, checkpoints: Path) -> None:
    detector = loaded(family, checkpoints)
    variables = detector.trainable_variables
    for name, variable in zip(variables.names, variables, strict=True):
        if name.endswith("bifpn_combine_weights"):
            # Negative weights, which the golden has, switch a path of the network off, and give no gradient.
            variable.assign(tf.abs(variable))

    def gradients() -> list[tf.Tensor | None]:
        with tf.GradientTape() as tape:
            loss = generic_loss(detector, image())
        return [
            None if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(loss, list(variables))
        ]

    # Without tf.function, each network would take as long again; what TensorFlow does then is the same for all.
    computed_by = [tf.function(gradients), *([gradients] if family.golden in EAGER else [])]
    for computed in (compute() for compute in computed_by):
        without = {
            name
            for name, gradient in zip(variables.names, computed, strict=True)
            if gradient is None or not np.isfinite(gradient).all() or not np.any(gradient)
        }
        assert without == {
            name for name in variables.names if any(re.search(pattern, name) for pattern in family.without_gradient)
        }


GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.golden in SAVED], ids=lambda family: family.golden
)
def test_changed_variable_changes_the_detections_and_is_saved(
    family: Family, checkpoints: Path, tmp_path: Path
) -> None:
    detector = loaded(family, checkpoints)
    before = detector(image())
    changed = detector.trainable_variables[0]
    changed.assign(changed * 1.5)
    after = detector(image())
    assert np.abs(after["detection_scores"] - before["detection_scores"]).max() > 1e-4
    step = "ckpt-7" if family.generation == "tf2" else "model.ckpt-7"

    prefix = detector.save_checkpoint(tmp_path / "tuned" / step)
    source, saved = (tf.train.load_checkpoint(str(path)) for path in (checkpoints / family.golden, prefix))
    assert set(saved.get_variable_to_shape_map()) == set(source.get_variable_to_shape_map())
    for key in set(saved.get_variable_to_shape_map()) - {GRAPH}:
        same = np.array_equal(saved.get_tensor(key), source.get_tensor(key))
        assert same or np.array_equal(saved.get_tensor(key), changed)

    exported = unfreeze.export(
        tmp_path / "tuned", output_directory=tmp_path / "export", weights="trainable", verify=False
    )
    assert_equal(served(exported.saved_model, image()), after)
    again = unfreeze.load_detector(tmp_path / "export")
    assert_equal(again(image()), after)
    assert again.variables.names == detector.variables.names
    prefix = again.save_checkpoint(tmp_path / "again" / step)
    assert_equal(unfreeze.load_detector(prefix)(image()), after)


def test_tensorflow_2_checkpoint_is_restored_by_its_object_graph(checkpoints: Path, tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.golden == "ssd_mobilenet_v2_fpnlite_320x320_coco17_tpu-8")
    detector = loaded(family, checkpoints)
    variable = detector.variables["_feature_extractor/classification_backbone/Conv1/kernel"]
    variable.assign(variable + 1.0)
    prefix = detector.save_checkpoint(tmp_path / "ckpt-2")
    layer, backbone, extractor, model = (tf.Module() for _ in range(4))
    layer.kernel = tf.Variable(tf.zeros(variable.shape))
    setattr(backbone, "layer_with_weights-0", layer)
    extractor.classification_backbone, model._feature_extractor = backbone, extractor
    tf.train.Checkpoint(model=model).restore(str(prefix)).expect_partial()
    np.testing.assert_array_equal(layer.kernel, variable)


def test_moving_averages_are_saved_under_both_names(tmp_path: Path) -> None:
    detector = unfreeze.load_detector(DIGITS / "run")
    name = "FeatureExtractor/MobilenetV1/Conv2d_0/weights"
    detector.variables[name].assign(detector.variables[name] * 2)
    saved = tf.train.load_checkpoint(str(detector.save_checkpoint(tmp_path / "model.ckpt-1")))
    for key in (name, f"{name}/ExponentialMovingAverage"):
        np.testing.assert_array_equal(saved.get_tensor(key), detector.variables[name])
    assert not any("RMSProp" in key or key.endswith("/Adam") for key in saved.get_variable_to_shape_map())


FIRST = "FeatureExtractor/MobilenetV1/Conv2d_0"
DECAY = "conv_hyperparams { batch_norm { decay: 0.75 } }"
FROZEN = {
    "freeze_batchnorm": "model { ssd { freeze_batchnorm: true } }",
    "train: false": "model { ssd { feature_extractor { override_base_feature_extractor_hyperparams: true "
    "conv_hyperparams { batch_norm { train: false } } } } }",
}


def digits(name: str = "00") -> np.ndarray:
    return np.asarray(Image.open(DIGITS / "scenes" / f"scene_{name}.png"))[np.newaxis]


def test_training_uses_batch_statistics_and_updates_moving_statistics() -> None:
    override = "override_base_feature_extractor_hyperparams: true " + DECAY
    detector = unfreeze.load_detector(
        DIGITS / "run", config_override=f"model {{ ssd {{ feature_extractor {{ {override} }} }} }}"
    )
    v = {name: detector.variables[f"{FIRST}/{name}"] for name in ("weights", "BatchNorm/gamma", "BatchNorm/beta")}
    moving = [detector.variables[f"{FIRST}/BatchNorm/moving_{name}"] for name in ("mean", "variance")]
    before = [variable.numpy() for variable in moving]
    preprocessed = detector.preprocess(np.concatenate([digits("00"), digits("05")]))

    y = tf.nn.conv2d(preprocessed.images, v["weights"], 2, "SAME")
    mean, variance = tf.nn.moments(y, [0, 1, 2])
    count = np.prod(y.shape[:3])
    for call in (detector.predict, tf.function(detector.predict)):
        for variable, value in zip(moving, before, strict=True):
            variable.assign(value)
        call(preprocessed, training=True)
        for variable, old, new in zip(moving, before, (mean, variance * count / (count - 1)), strict=True):
            np.testing.assert_allclose(variable, 0.75 * old + 0.25 * new, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("override", FROZEN.values(), ids=FROZEN)
def test_frozen_batch_normalization_is_not_updated(override: str) -> None:
    detector = unfreeze.load_detector(DIGITS / "run", config_override=override)
    moving = detector.variables[f"{FIRST}/BatchNorm/moving_mean"]
    before = moving.numpy()
    detector.predict(detector.preprocess(digits()), training=True)
    np.testing.assert_array_equal(moving, before)


def test_training_with_batch_statistics_has_gradients_for_every_variable() -> None:
    detector = unfreeze.load_detector(DIGITS / "run")
    images = np.concatenate([digits(f"{i:02}") for i in range(4)])  # one pixel of one image has no variance
    with tf.GradientTape() as tape:
        stages = detector.predict(detector.preprocess(images), training=True)
        names = ("box_encodings", "class_predictions_with_background")
        loss = sum(tf.reduce_mean(tf.sin(stages[name] * 7)) for name in names)
    gradients = tape.gradient(loss, list(detector.trainable_variables))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert all(np.any(gradient) for gradient in gradients)


def test_without_training_statistics_stay_and_the_steps_equal_the_call() -> None:
    detector = unfreeze.load_detector(DIGITS / "run")
    before = [variable.numpy() for variable in detector.variables]
    detections = detector(digits())
    assert_equal(detector.postprocess(detector.predict(detector.preprocess(digits()))), detections, tolerance=1e-5)
    assert_equal(tf.function(detector)(digits()), detections, tolerance=1e-5)
    for variable, value in zip(detector.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("weights", ["variables", "constants"])
def test_weights_that_are_not_trainable_run_and_reject_training(weights: str, tmp_path: Path) -> None:
    detector = unfreeze.load_detector(DIGITS / "run", weights=weights)
    assert_equal(detector(digits()), unfreeze.load_detector(DIGITS / "run")(digits()), tolerance=1e-5)
    assert detector.trainable_variables == ()
    assert len(detector.variables) == (199 if weights == "variables" else 0)
    with pytest.raises(UnsupportedError, match='needs a detector that was loaded with weights="trainable"'):
        detector(digits(), training=True)
    prefix = detector.save_checkpoint(tmp_path / "model.ckpt-1")
    assert_equal(unfreeze.load_detector(prefix, weights=weights)(digits()), detector(digits()))


def test_export_with_trainable_weights_has_a_gradient_for_every_variable(tmp_path: Path) -> None:
    exported = unfreeze.export(DIGITS / "run", output_directory=tmp_path / "e", weights="trainable", verify=False)
    model = tf.saved_model.load(str(exported.saved_model))
    trainable = [variable for variable in model.weights if variable.trainable]
    assert len(trainable) == 129
    with tf.GradientTape() as tape:
        outputs = model.signatures["serving_default"](inputs=tf.constant(digits()))
        loss = tf.reduce_sum(outputs["raw_detection_scores"] ** 2) + tf.reduce_sum(outputs["raw_detection_boxes"] ** 2)
    assert all(np.any(gradient) for gradient in tape.gradient(loss, trainable))
    assert not any(variable.trainable for variable in tf.saved_model.load(str(default_export(tmp_path))).weights)


def default_export(folder: Path) -> Path:
    return unfreeze.export(DIGITS / "run", output_directory=folder / "default", verify=False).saved_model


def test_invalid_sources_and_arguments_are_rejected(tmp_path: Path) -> None:
    exported = default_export(tmp_path)
    (tmp_path / "alone").mkdir()
    shutil.copytree(exported, tmp_path / "alone" / "saved_model")
    constants = unfreeze.export(DIGITS / "run", output_directory=tmp_path / "c", weights="constants", verify=False)
    for source, options, error, message in (
        (DIGITS / "run", {"weights": "frozen"}, UnsupportedError, "choose one of variables, constants, trainable"),
        (DIGITS / "run", {"suppression": "fast"}, UnsupportedError, "choose kernel or operations"),
        (tmp_path / "alone", {}, ConfigError, "pipeline.config: no such file; pass the pipeline.config"),
        (constants.folder, {}, CheckpointError, "its weights are constants of the graph"),
        (DIGITS / "frozen_inference_graph.pb", {}, CheckpointError, "is a frozen graph; pass the checkpoint"),
        (tmp_path / "nothing", {}, CheckpointError, "no such checkpoint, folder or file"),
        (DIGITS / "run", {"config_override": "model { ssd { num_classes: 3 } }"}, WeightsError, "does not fit"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            unfreeze.load_detector(source, **options)
    with pytest.raises(ConfigError, match=re.escape("none.config: no such file")):
        unfreeze.load_detector(exported, config=tmp_path / "none.config")


def test_checkpoint_is_saved_completely_or_not_at_all(tmp_path: Path) -> None:
    detector = unfreeze.load_detector(DIGITS / "run")
    prefix = detector.save_checkpoint(tmp_path / "run" / "model.ckpt-1")
    written = {path.name: path.read_bytes() for path in prefix.parent.iterdir()}
    assert set(written) == {"model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001", "pipeline.config"}
    with pytest.raises(OutputError, match=re.escape(f"{prefix}: a checkpoint or a file of this name exists already")):
        detector.save_checkpoint(prefix)
    assert {path.name: path.read_bytes() for path in prefix.parent.iterdir()} == written
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        detector.save_checkpoint(tmp_path / "file" / "model.ckpt-1")


def test_full_disk_leaves_no_part_of_a_checkpoint(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    detector = unfreeze.load_detector(DIGITS / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match=r"model\.ckpt-1: cannot be written: .*; choose another prefix"):
            detector.save_checkpoint(tmp_path / "run" / "model.ckpt-1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_shape_are_rejected() -> None:
    detector = unfreeze.load_detector(DIGITS / "run")
    with pytest.raises(ValueError, match=re.escape("images have the shape (160, 160, 3); pass [N, H, W, 3]")):
        detector(digits()[0])
    with pytest.raises(ValueError, match="this model takes no side inputs"):
        detector(digits(), context_features=np.zeros([1, 2, 3]))


def served(saved_model: Path, images: tf.Tensor) -> dict[str, tf.Tensor]:
    signature = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    [name] = signature.structured_input_signature[1]
    return dict(signature(**{name: images}))


def assert_equal(ours: Mapping[str, tf.Tensor], theirs: Mapping[str, tf.Tensor], tolerance: float = 5e-5) -> None:
    """Compares outputs up to the order of summation."""
    assert set(ours) == set(theirs)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=tolerance, err_msg=name)
