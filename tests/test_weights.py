"""Checkpoints: every form and every fault of their files, moving averages, and weights that do not fit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf
from tensorflow.core.protobuf import saver_pb2

from unfreeze.config import parse_pipeline_config
from unfreeze.detectors import build_detector
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.errors import CheckpointError, ConfigError, WeightsError
from unfreeze.exporting.export import export
from unfreeze.weights import (
    Checkpoint,
    TensorInfo,
    Weights,
    find_checkpoints,
    open_checkpoint,
    read_index,
    training_state,
)
from unfreeze.weights.bindings import Normalization, Variables

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
NAMES = ("layer/weights", "layer/BatchNorm/gamma", "layer/BatchNorm/beta", "layer/BatchNorm/moving_mean")


def write(prefix: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """A checkpoint as TensorFlow 1.15 writes it: index and one data file."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    values = [tf.constant(tensors[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    return prefix


def write_two_shards(prefix: Path) -> Path:
    """A checkpoint whose data lies in two files."""
    parts = [write(prefix.parent / f"part-{shard}" / "part", {f"v{shard}": np.arange(3.0)}) for shard in (0, 1)]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(part) for part in parts], destination_prefix=str(prefix))
    for part in parts:
        shutil.rmtree(part.parent, ignore_errors=True)
    return prefix


def write_v1(prefix: Path, **options: object) -> Path:
    """What tf.train.Saver wrote before version 2 of the format, with a graph's variables."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in (("layer/weights", 2.0), ("layer/biases", 3.0)):
            tf.compat.v1.get_variable(name, [2, 3], initializer=tf.constant_initializer(value))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=saver_pb2.SaverDef.V1, **options)
        return Path(saver.save(session, str(prefix.parent / "model.ckpt"), global_step=int(prefix.name.split("-")[-1])))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A training folder with steps 9 and 10, and a state file that names the older one."""
    for step in (9, 10):
        write(tmp_path / f"model.ckpt-{step}", {"v": np.float32(step), "w": np.ones(1000, np.float32)})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/gone/run/model.ckpt-9"\n')
    return tmp_path


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "checkpoint",
        "model.ckpt-10",
        "model.ckpt-10.index",
        "model.ckpt-10.meta",
        "model.ckpt-10.data-00000-of-00001",
    ],
)
def test_checkpoint_is_found_by_prefix_file_or_folder(folder: Path, name: str) -> None:
    (folder / "model.ckpt-10.meta").write_bytes(b"")
    opened = open_checkpoint(folder / name)
    assert (opened.prefix, opened.step, opened.format) == (folder / "model.ckpt-10", 10, "tf1")
    assert opened.tensors == {"v": TensorInfo((), "float32"), "w": TensorInfo((1000,), "float32")}
    assert opened.read("v") == 10.0
    assert [path.name for path in opened.files()] == ["model.ckpt-10.data-00000-of-00001", "model.ckpt-10.index"]


def test_newest_checkpoint_is_the_highest_step(folder: Path) -> None:
    assert [entry.step for entry in find_checkpoints(folder)] == [9, 10]
    assert open_checkpoint(folder).notes == (f"using model.ckpt-10, the newest of 2 complete checkpoints in {folder}",)
    assert open_checkpoint(folder / "checkpoint").notes[1:] == (
        "the state file names model.ckpt-9, which is not the newest complete checkpoint",
    )
    assert open_checkpoint(folder / "model.ckpt-9").notes == ()


def test_incomplete_checkpoint_is_skipped_with_a_note(folder: Path) -> None:
    (folder / "model.ckpt-10.data-00000-of-00001").unlink()
    (folder / "model.ckpt-11.data-00000-of-00001").write_bytes(b"")
    opened = open_checkpoint(folder)
    assert opened.step == 9
    assert opened.notes == (
        "model.ckpt-10 skipped: model.ckpt-10.data-00000-of-00001 is missing",
        "model.ckpt-11 skipped: model.ckpt-11.index is missing",
    )


def test_step_selects_a_checkpoint(folder: Path) -> None:
    assert open_checkpoint(folder, 9).read("v") == 9.0
    assert open_checkpoint(folder / "checkpoint", 10).step == 10
    assert open_checkpoint(folder / "model.ckpt-9", 9).step == 9
    assert error_of(folder, 7) == f"{folder}: no checkpoint of step 7; steps here: 9, 10"
    assert error_of(folder / "model.ckpt-9", 10) == (
        f"{folder}/model.ckpt-9: this is the checkpoint of step 9, not of --step 10; pass its folder instead"
    )


def error_of(path: Path, step: int | None = None) -> str:
    """Returns the one line of the error that a checkpoint raises."""
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(path, step)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_checkpoint_without_a_step_is_the_oldest(folder: Path) -> None:
    write(folder / "model.ckpt", {"v": np.float32(0)})
    assert [entry.step for entry in find_checkpoints(folder)] == [None, 9, 10]
    assert open_checkpoint(folder).step == 10
    assert open_checkpoint(folder / "model.ckpt").read("v") == 0.0


def test_missing_checkpoint_is_reported(tmp_path: Path, folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    expected = "no checkpoint in this folder: expected files like model.ckpt-1000.index or ckpt-5.index"
    assert error_of(empty) == f"{empty}: {expected}"
    above = tmp_path / "above"
    write(above / "run" / "model.ckpt-1", {"v": np.float32(0)})
    assert error_of(above) == f"{above}: {expected}; there is one in {above}/run"
    assert error_of(folder / "model.ckpt-8") == (
        f"{folder}/model.ckpt-8: no such checkpoint, folder or file; checkpoints there: model.ckpt-9, model.ckpt-10; "
        "pass a prefix such as run/model.ckpt-1000, or its folder"
    )
    assert error_of(tmp_path / "no" / "where") == (
        f"{tmp_path}/no/where: no such checkpoint, folder or file; "
        "pass a prefix such as run/model.ckpt-1000, or its folder"
    )


def test_missing_index_is_reported(folder: Path) -> None:
    (folder / "model.ckpt-10.index").unlink()
    prefix = folder / "model.ckpt-10"
    assert error_of(prefix) == (
        f"{prefix}: incomplete checkpoint: model.ckpt-10.index is missing; copy it beside the data files"
    )
    assert open_checkpoint(folder).step == 9


def test_missing_shard_is_reported(tmp_path: Path) -> None:
    prefix = write_two_shards(tmp_path / "model.ckpt-5")
    assert set(open_checkpoint(prefix).tensors) == {"v0", "v1"}
    (tmp_path / "model.ckpt-5.data-00001-of-00002").unlink()
    missing = "model.ckpt-5.data-00001-of-00002 is missing"
    assert error_of(prefix) == (
        f"{prefix}: incomplete checkpoint: {missing}; copy the missing file beside model.ckpt-5.index"
    )
    assert error_of(tmp_path) == (
        f"{prefix}: incomplete checkpoint: {missing}; copy the missing file, or choose another step"
    )
    assert read_index(prefix).missing_data() == missing


def test_shards_of_another_save_are_not_counted(tmp_path: Path) -> None:
    prefix = write_two_shards(tmp_path / "model.ckpt-5")
    (tmp_path / "model.ckpt-5.data-00000-of-00003").write_bytes(b"left over")
    assert open_checkpoint(prefix).read("v1").tolist() == [0.0, 1.0, 2.0]


EMPTY = "is an empty file, not the index of a checkpoint"


@pytest.mark.parametrize("size", [0, 7, 60, -1])
def test_truncated_index_is_reported(folder: Path, size: int) -> None:
    index = folder / "model.ckpt-10.index"
    cut(index, size)
    left = index.stat().st_size
    problem = f"not the index of a checkpoint, or cut short ({left} bytes)" if left else EMPTY
    assert error_of(folder) == f"{index}: {problem}; copy it again"


def test_damaged_index_is_reported(folder: Path) -> None:
    index = folder / "model.ckpt-10.index"
    index.write_bytes(b"\xff" * (index.stat().st_size - 48) + index.read_bytes()[-48:])
    message = error_of(folder)
    assert message.startswith(f"{index}: not a readable checkpoint: ")
    assert message.endswith("; the file is damaged: copy it again")


@pytest.mark.parametrize("size", [0, 100, -1])
def test_truncated_data_file_is_reported(folder: Path, size: int) -> None:
    data = folder / "model.ckpt-10.data-00000-of-00001"
    cut(data, size)
    left = data.stat().st_size
    assert error_of(folder) == (
        f"{folder}/model.ckpt-10: incomplete checkpoint: {data.name} is cut short: {left} of 4004 bytes; copy it again"
    )


@pytest.mark.parametrize(
    "read", [lambda checkpoint: checkpoint.read("w"), lambda checkpoint: checkpoint.restore(["w"])]
)
def test_damaged_data_file_is_reported(folder: Path, read: Callable[[Checkpoint], object]) -> None:
    data = folder / "model.ckpt-10.data-00000-of-00001"
    data.write_bytes(b"\x01" * data.stat().st_size)
    opened = open_checkpoint(folder)  # only its bytes are counted
    with pytest.raises(CheckpointError) as raised:
        read(opened)
    message = str(raised.value)
    assert message.startswith(f"{folder}/model.ckpt-10: tensor 'w' cannot be read: ")
    assert message.endswith("; the data file is damaged or cut short: copy model.ckpt-10.data-* again")
    assert "\n" not in message


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\x01" * len(data)], ids=["cut", "damaged"])
def test_export_writes_nothing_from_damaged_data(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    for path in DIGITS.glob("run/model.ckpt-8000.*"):
        shutil.copy(path, tmp_path)
    shutil.copy(DIGITS / "pipeline.config", tmp_path)
    data = tmp_path / "model.ckpt-8000.data-00000-of-00001"
    data.write_bytes(damage(data.read_bytes()))
    before = names_in(tmp_path)
    with pytest.raises(CheckpointError, match=r"is cut short|cannot be read"):
        export(tmp_path, output_directory=tmp_path / "out", verify=False)
    assert names_in(tmp_path) == before


def test_text_file_is_not_a_checkpoint(folder: Path) -> None:
    text = folder / "notes.ckpt"
    text.write_text("not at all a checkpoint")
    assert error_of(text) == f"{text}: not a checkpoint; pass a prefix such as run/model.ckpt-1000, or its folder"
    text.rename(folder / "model.ckpt-10.index")
    assert "model.ckpt-10.index: not the index of a checkpoint, or cut short" in error_of(folder)


def test_single_file_checkpoint(tmp_path: Path) -> None:
    prefix = write_v1(tmp_path / "model.ckpt-7")
    assert names_in(tmp_path) == ["checkpoint", "model.ckpt-7", "model.ckpt-7.meta"]
    for path in (tmp_path, prefix, tmp_path / "checkpoint", tmp_path / "model.ckpt-7.meta"):
        opened = open_checkpoint(path)
        assert (opened.prefix, opened.step, opened.format) == (prefix, 7, "tf1-v1")
        assert opened.tensors["layer/weights"] == TensorInfo((2, 3), "float32")
        assert opened.read("layer/biases").tolist() == [[3.0] * 3] * 2
        assert opened.restore(["layer/biases"])[0].numpy().tolist() == [[3.0] * 3] * 2
        assert opened.files() == [prefix]
    cut(prefix, -5)
    assert error_of(prefix) == f"{prefix}: not a checkpoint; pass a prefix such as run/model.ckpt-1000, or its folder"


def test_tensorflow_2_checkpoint(tmp_path: Path) -> None:
    tf.train.Checkpoint(model=tf.Variable([1.0, 2.0])).write(str(tmp_path / "ckpt-3"))
    opened = open_checkpoint(tmp_path)
    assert (opened.step, opened.format) == (3, "tf2")


def trained(**extra: np.ndarray) -> Checkpoint:
    """A layer in a checkpoint of a training with optimizer and moving averages."""
    tensors = {name: TensorInfo((2,), "float32") for name in NAMES}
    tensors |= {f"{name}/ExponentialMovingAverage": TensorInfo((2,), "float32") for name in NAMES[:3]}
    return Checkpoint(Path("run/model.ckpt-1"), 1, "tf1", tensors | extra)


def ask(weights: Weights) -> None:
    p = weights.branch("layer")
    p.weight("weights", [2])
    p["BatchNorm"].weight("gamma", [2])
    p["BatchNorm"].weight("beta", [2])
    p["BatchNorm"].weight("moving_mean", [2], trainable=False)


def test_moving_averages_are_used_for_trainable_variables() -> None:
    weights = Weights(trained(), moving_averages=True)
    ask(weights)
    average = "/ExponentialMovingAverage"
    assert weights.sources == {name: name + average for name in NAMES[:3]} | {NAMES[3]: NAMES[3]}
    assert sorted(weights.variables) == sorted(NAMES)
    assert weights.without_moving_average == []
    assert weights.unused() == []
    plain = Weights(trained())
    ask(plain)
    assert plain.sources == {name: name for name in NAMES}
    assert plain.unused() == []


def test_variable_without_a_moving_average_keeps_its_value(tmp_path: Path) -> None:
    average = "layer/weights/ExponentialMovingAverage"
    values = {"layer/weights": 1.0, average: 2.0, "layer/biases": 3.0}
    prefix = write(tmp_path / "model.ckpt-1", {name: np.full(2, value, np.float32) for name, value in values.items()})
    weights = Weights(open_checkpoint(prefix), moving_averages=True)
    p = weights.branch("layer")
    kernel, biases = p.weight("weights", [2]), p.weight("biases", [2])
    assert [value.numpy().tolist() for value in weights.values(["layer/weights", "layer/biases"])] == [[2, 2], [3, 3]]
    weights.fill()
    assert [kernel.numpy().tolist(), biases.numpy().tolist()] == [[2, 2], [3, 3]]
    assert weights.without_moving_average == ["layer/biases"]


def test_moving_averages_of_digits_are_bit_identical() -> None:
    opened = open_checkpoint(DIGITS / "run")
    weights = Weights(opened, moving_averages=True)
    norm = weights.branch("FeatureExtractor/MobilenetV1/Conv2d_0/BatchNorm")
    for leaf, trainable in (("gamma", True), ("beta", True), ("moving_mean", False), ("moving_variance", False)):
        norm.weight(leaf, [8], trainable=trainable)
        [taken] = weights.values([f"{norm.scope}/{leaf}"])
        source = f"{norm.scope}/{leaf}" + ("/ExponentialMovingAverage" if trainable else "")
        assert taken.numpy().tobytes() == opened.read(source).tobytes()


@pytest.mark.parametrize(
    ("key", "state"),
    [
        ("FeatureExtractor/Conv/weights", ""),
        ("FeatureExtractor/Conv/weights/Momentum", "optimizer slots"),
        ("FeatureExtractor/Conv/weights/RMSProp_1", "optimizer slots"),
        ("FeatureExtractor/Conv/weights/Adam", "optimizer slots"),
        ("FeatureExtractor/Conv/weights/ExponentialMovingAverage", "moving averages"),
        ("FeatureExtractor/Conv/weights_quant/min", "quantization state"),
        ("a/act_quant/a/act_quant/max/biased", "quantization state"),
        ("global_step", "counters"),
        ("fake_quantization_step", "counters"),
        ("FeatureExtractor/Conv/BatchNorm/moving_mean", ""),
        ("model/_feature_extractor/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE", ""),
        ("model/conv/kernel/.OPTIMIZER_SLOT/optimizer/momentum/.ATTRIBUTES/VARIABLE_VALUE", "optimizer slots"),
        ("save_counter/.ATTRIBUTES/VARIABLE_VALUE", "counters"),
    ],
)
def test_training_state_by_name(key: str, state: str) -> None:
    assert training_state(key) == state


def test_unused_tensors_do_not_include_training_state() -> None:
    info = TensorInfo((2,), "float32")
    weights = Weights(trained(**{"Logits/weights": info, "layer/weights/Momentum": info, "global_step": info}))
    ask(weights)
    assert weights.unused() == ["Logits/weights"]


def test_all_mismatches_are_in_one_error() -> None:
    weights = Weights(trained())
    p = weights.branch("layer")
    p.weight("weights", [2, 3])
    p["BatchNorm"].weight("gamma", [2])
    p["BatchNorm"].weight("beta", [4])
    p["BatchNorm"].weight("moving_variance", [2], trainable=False)
    with pytest.raises(WeightsError) as raised:
        weights.require_fit()
    assert str(raised.value) == (
        "run/model.ckpt-1: the config does not fit the checkpoint; pass the config that the model was trained with. "
        "2 weights have another shape: layer/weights needs [2, 3], has [2], layer/BatchNorm/beta needs [4], has [2]; "
        "1 weight is missing: layer/BatchNorm/moving_variance [2]; "
        "1 tensor of the checkpoint not used: layer/BatchNorm/moving_mean"
    )


def test_missing_weight_names_the_nearest_one() -> None:
    weights = Weights(trained())
    weights.branch("layers").weight("weights", [2])
    with pytest.raises(WeightsError, match=re.escape("layers/weights [2] (nearest: layer/weights [2])")):
        weights.require_fit()


def of_golden(name: str) -> Checkpoint:
    """The names and shapes of a golden's checkpoint."""
    tensors = {key: TensorInfo(shape, dtype) for key, shape, dtype in reference.golden(name).variables}
    return Checkpoint(Path(name), None, "tf1", tensors)


def edited(name: str, edits: Mapping[str, str]) -> str:
    """A golden's config with other options."""
    config = reference.golden(name).config
    for pattern, by in edits.items():
        config, count = re.subn(pattern, by, config)
        assert count, pattern
    return config


def mismatch_error(config_text: str, checkpoint: Checkpoint) -> str:
    """Returns the error of a config that does not fit a checkpoint."""
    config = parse_pipeline_config(config_text)
    weights = Weights(checkpoint)
    detector = build_detector(config, weights)
    specs = [tf.TensorSpec([None, *detector.preprocessed_shape]), tf.TensorSpec([None, 3], tf.int32)]
    tf.function(detector.detect, input_signature=specs, autograph=False).get_concrete_function()
    with pytest.raises(WeightsError) as raised:
        weights.require_fit(likely_causes(config))
    assert "\n" not in str(raised.value)
    return str(raised.value)


V1 = "ssd_mobilenet_v1_coco"
V2 = "ssd_mobilenet_v2_coco"
FRCNN = "faster_rcnn_inception_v2_coco"
LITE = "ssdlite_mobilenet_v2_coco"
PUBLISHED = "p_ssd_mobilenet_v2_coco_2018_03_29"

# The config's golden, what is changed in it, the checkpoint's golden, the complete text of the likely causes.
CAUSES: tuple[tuple[str, dict[str, str], str, str], ...] = (
    (V1, {"num_classes: 90": "num_classes: 5"}, V1, "num_classes (5 in the config; the checkpoint has 90)"),
    (
        V1,
        {"depth_multiplier: 1.0": "depth_multiplier: 0.5"},
        V1,
        "depth_multiplier (0.5 in the config; the checkpoint fits 1), or min_depth",
    ),
    (
        V1,
        {"depth_multiplier: 1.0": "depth_multiplier: 0.5", "num_classes: 90": "num_classes: 5"},
        V1,
        "depth_multiplier (0.5 in the config; the checkpoint fits 1), or min_depth; "
        "num_classes (5 in the config; the checkpoint has 90)",
    ),
    (V1, {"kernel_size: 1": "kernel_size: 3"}, V1, "kernel_size (3 in the config, 1 in the checkpoint)"),
    (
        V1,
        {"kernel_size: 1": "kernel_size: 3 use_depthwise: true"},
        V1,
        "box_predictor use_depthwise (true in the config, false in the checkpoint)",
    ),
    (
        V1,
        {"(type: .ssd_mobilenet_v1.)": r"\1 use_depthwise: true"},
        V1,
        "feature_extractor use_depthwise (true in the config, false in the checkpoint)",
    ),
    (
        V1,
        {"aspect_ratios: 0.3333": ""},
        V1,
        "aspect_ratios or scales of the anchor_generator (5 boxes per location by the config, 6 in the checkpoint)",
    ),
    (
        V1,
        {"aspect_ratios: 0.3333": "", "num_classes: 90": "num_classes: 5"},
        V1,
        "num_classes (5 in the config; the checkpoint has 90); "
        "aspect_ratios or scales of the anchor_generator (5 boxes per location by the config, 6 in the checkpoint)",
    ),
    (V1, {"box_code_size: 4": "box_code_size: 6"}, V1, "box_code_size (6 in the config; the checkpoint has 4)"),
    (
        V1,
        {"num_layers_before_predictor: 0": "num_layers_before_predictor: 1", "max_depth: 0": "max_depth: 256"},
        V1,
        "num_layers_before_predictor (1 in the config), or min_depth (0) or max_depth (256) of the box_predictor",
    ),
    (
        V1,
        {r"batch_norm \{[^}]*\}": ""},
        V1,
        "batch_norm of the conv_hyperparams (not in the config, but the checkpoint has "
        "FeatureExtractor/MobilenetV1/Conv2d_13_pointwise_1_Conv2d_2_1x1_256/BatchNorm)",
    ),
    (
        V1,
        {},
        V2,
        "feature_extractor.type ('ssd_mobilenet_v1' in the config; the checkpoint has FeatureExtractor/MobilenetV2)",
    ),
    (
        V1,
        {},
        "faster_rcnn_resnet50_coco",
        "model (its feature extractor is FeatureExtractor/MobilenetV1 by the config, "
        "FirstStageFeatureExtractor/resnet_v1_50 in the checkpoint)",
    ),
    (
        "faster_rcnn_resnet50_coco",
        {"num_classes: 90": "num_classes: 5"},
        "faster_rcnn_resnet50_coco",
        "num_classes (5 in the config; the checkpoint has 90)",
    ),
    (
        FRCNN,
        {"num_classes: 90": "num_classes: 90 first_stage_box_predictor_kernel_size: 1"},
        FRCNN,
        "first_stage_box_predictor_kernel_size (1 in the config, 3 in the checkpoint)",
    ),
    (
        FRCNN,
        {"use_dropout: false": "share_box_across_classes: true"},
        FRCNN,
        "share_box_across_classes (true in the config, false in the checkpoint)",
    ),
    (
        "mask_rcnn_inception_v2_coco",
        {},
        FRCNN,
        "number_of_stages (3 in the config), or mask_prediction_num_conv_layers (2 in the config)",
    ),
    (
        "v_rfcn_padded",
        {"num_classes: 5": "num_classes: 7"},
        "v_rfcn_padded",
        "num_classes (7 in the config; the checkpoint has 5)",
    ),
    (
        V1,
        {},
        "ssd_mobilenet_v1_fpn_shared_box_predictor_640x640_coco14_sync",
        "box_predictor (convolutional_box_predictor in the config; the checkpoint has "
        "WeightSharedConvolutionalBoxPredictor); "
        "feature_extractor.type ('ssd_mobilenet_v1' in the config; "
        "the checkpoint has FeatureExtractor/MobilenetV1/fpn)",
    ),
    (
        V2,
        {},
        LITE,
        "box_predictor use_depthwise (false in the config, true in the checkpoint); "
        "feature_extractor use_depthwise (false in the config, true in the checkpoint)",
    ),
    (
        PUBLISHED,
        {},
        V2,
        "feature_extractor use_depthwise (true in the config, false in the checkpoint); "
        "kernel_size (3 in the config, 1 in the checkpoint)",
    ),
)


@pytest.mark.parametrize(("config", "edits", "checkpoint", "message"), CAUSES)
def test_likely_cause_names_the_config_field(
    config: str, edits: Mapping[str, str], checkpoint: str, message: str
) -> None:
    assert f"the config does not fit the checkpoint; likely cause: {message}. " in mismatch_error(
        edited(config, edits), of_golden(checkpoint)
    )


def test_missing_feature_maps_name_num_layers() -> None:
    complete = of_golden(V1)
    seen = {
        name: info
        for name, info in complete.tensors.items()
        if not re.search(r"BoxPredictor_[45]/|_[1-3]_Conv2d_[45]_", name)
    }
    message = mismatch_error(reference.golden(V1).config, Checkpoint(complete.prefix, None, "tf1", seen))
    assert "likely cause: num_layers (6 in the config; the checkpoint has 4 feature maps)" in message


def test_backbone_with_the_hyperparameters_of_an_old_config_names_the_override() -> None:
    complete = of_golden(V1)
    config = parse_pipeline_config(reference.golden(V1).config)
    config.model.ssd.feature_extractor.conv_hyperparams.batch_norm.scale = False
    seen = {name: info for name, info in complete.tensors.items() if not re.match("FeatureExtractor.*/gamma", name)}
    message = mismatch_error(str(config), Checkpoint(complete.prefix, None, "tf1", seen))
    assert (
        "likely cause: override_base_feature_extractor_hyperparams "
        "(false in the config, but the checkpoint's backbone has no gamma)" in message
    )


def test_config_of_the_other_generation_is_rejected() -> None:
    config = parse_pipeline_config(reference.golden(V1).config)
    first = Weights(Checkpoint(Path("run/model.ckpt"), None, "tf1", {}))
    second = Weights(Checkpoint(Path("run/ckpt-1"), 1, "tf2", {}))
    with pytest.raises(ConfigError) as raised:
        build_detector(config, second)
    assert str(raised.value) == (
        "run/ckpt-1: this is a TensorFlow 2 checkpoint (object-based), but the config's "
        "ssd_mobilenet_v1 is an extractor of TensorFlow 1; use the pipeline.config that the checkpoint was trained with"
    )
    config.model.ssd.feature_extractor.type = "ssd_mobilenet_v2_keras"
    with pytest.raises(ConfigError) as raised:
        build_detector(config, first)
    assert str(raised.value) == (
        "run/model.ckpt: this is a TensorFlow 1 checkpoint (name-based), but the config's "
        "ssd_mobilenet_v2_keras is an extractor of TensorFlow 2; "
        "use the pipeline.config that the checkpoint was trained with"
    )


def test_joint_batch_normalization_equals_separate() -> None:
    rng = np.random.default_rng(3)
    derived, requests = Variables(), []
    for channels, epsilon, gamma, beta in ((3, 1e-3, True, True), (5, 1e-3, False, True), (2, 1e-5, True, False)):
        mean, variance, scale, center = (tf.Variable(rng.random(channels, np.float32) + 0.1) for _ in range(4))
        wanted = Normalization(mean, variance, scale if gamma else None, center if beta else None, epsilon)
        compute = derived.normalization(wanted)
        name = f"layer_{len(requests)}"
        requests.append((wanted, {f"{name}/scale": [channels], f"{name}/offset": [channels]}, compute))

    @tf.function
    def folded() -> list[list[tf.Tensor]]:
        return [derived.derived(compute, shapes) for _, shapes, compute in requests]

    call = folded.get_concrete_function()
    derived.fill(lambda name: np.zeros(0))
    for (wanted, _, _), (scale, offset) in zip(requests, call(), strict=True):
        one = 1.0 if wanted.gamma is None else wanted.gamma.numpy()
        expected = one / np.sqrt(wanted.variance.numpy() + np.float32(wanted.epsilon))
        np.testing.assert_allclose(scale, expected, rtol=1e-6)
        zero = 0.0 if wanted.beta is None else wanted.beta.numpy()
        np.testing.assert_allclose(offset, zero - wanted.mean.numpy() * expected, rtol=1e-5, atol=1e-7)
