"""The object graph of a TensorFlow 2 checkpoint: variables are found by any path, and layers by their Keras names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.errors import CheckpointError, WeightsError
from unfreeze.weights import Weights, open_checkpoint, read_index

CONV, BN = "layer_with_weights-0", "layer_with_weights-1"
BACKBONE = "_feature_extractor/classification_backbone"


def layer(prefix: str, **weights: list[int]) -> Any:
    """An object with variables that are called as those of a Keras layer are."""
    made = tf.Module()
    for number, (name, shape) in enumerate(weights.items()):
        setattr(made, name, tf.Variable(tf.fill(shape, float(number + 1)), name=f"{prefix}/{name}"))
    return made


def keras_model(*layers: Any) -> Any:
    """An object with the edges that a Keras model has."""
    made = tf.Module()
    for number, layer in enumerate(layers):
        setattr(made, f"layer_with_weights-{number}", layer)
    return made


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A training's checkpoint: a model that reaches its backbone by two paths, a step and an optimizer's slot."""
    backbone = keras_model(layer("run/Conv1", kernel=[3, 3]), layer("run/bn_Conv1_1", gamma=[3], beta=[3]))
    model = tf.Module()
    model._feature_extractor = tf.Module()
    model._feature_extractor.classification_backbone = backbone
    model._feature_extractor.again = [backbone]
    model.heads = {"box/scale": layer("heads/scale", kernel=[2], bias=[2])}
    checkpoint = tf.train.Checkpoint(model=model, step=tf.Variable(7, dtype=tf.int64))
    return Path(checkpoint.save(str(tmp_path / "ckpt")))


def test_variable_is_found_by_any_path_and_by_its_layer_name(prefix: Path) -> None:
    weights = Weights(open_checkpoint(prefix))
    p = weights.branch()
    kernel = p[BACKBONE]["Conv1"].weight("kernel", [3, 3])
    for path in (f"{BACKBONE}/{CONV}", f"_feature_extractor/again/0/{CONV}", "_feature_extractor/again/0/run/Conv1"):
        assert p[path].weight("kernel", [3, 3]) is kernel
    assert list(weights.variables) == [f"{BACKBONE}/Conv1/kernel"]
    assert weights.sources == {f"{BACKBONE}/Conv1/kernel": weights.key(f"{BACKBONE}/{CONV}/kernel")}
    weights.fill()
    np.testing.assert_array_equal(kernel, np.ones([3, 3]))


def test_keras_numbers_and_slim_names_are_translated(prefix: Path) -> None:
    weights = Weights(open_checkpoint(prefix))
    p = weights.branch()
    p[BACKBONE]["bn_Conv1"].weight("gamma", [3])
    p[BACKBONE]["Conv1"].weight("weights", [3, 3])
    p["heads"]["box/scale"].weight("biases", [2])
    assert not weights.mismatches
    assert list(weights.sources.values()) == [
        f"model/{BACKBONE}/{BN}/gamma/.ATTRIBUTES/VARIABLE_VALUE",
        f"model/{BACKBONE}/{CONV}/kernel/.ATTRIBUTES/VARIABLE_VALUE",
        "model/heads/box.Sscale/bias/.ATTRIBUTES/VARIABLE_VALUE",
    ]


def test_mismatches_have_readable_names(prefix: Path) -> None:
    weights = Weights(open_checkpoint(prefix))
    p = weights.branch()[BACKBONE]
    p["Conv2"].weight("kernel", [3, 3])
    p["bn_Conv1"].weight("beta", [4])
    with pytest.raises(WeightsError) as raised:
        weights.require_fit()
    assert str(raised.value) == (
        f"{prefix}: the config does not fit the checkpoint; pass the config that the model was trained with. "
        f"1 weight has another shape: {BACKBONE}/bn_Conv1/beta needs [4], has [3]; "
        f"1 weight is missing: {BACKBONE}/Conv2/kernel "
        f"[3, 3] (nearest: {BACKBONE}/run/Conv1/kernel [3, 3]); 4 tensors of the checkpoint not used: "
        f"{BACKBONE}/run/Conv1/kernel, {BACKBONE}/run/bn_Conv1_1/gamma, heads/box/scale/bias and 1 more"
    )


def test_ignored_scopes_are_not_unused(prefix: Path) -> None:
    weights = Weights(open_checkpoint(prefix))
    weights.branch()["heads"].ignore()
    weights.branch()["_feature_extractor"]["again"].ignore()
    assert weights.unused() == []


def test_without_data_file_layers_match_in_order_of_request(prefix: Path) -> None:
    prefix.with_name(prefix.name + ".data-00000-of-00001").unlink()
    weights = Weights(read_index(prefix))
    path = weights.readable_names(weights.unused())[-3].rpartition("/layer_with_weights-")[0]
    p = weights.branch()
    p[path]["any"].weight("kernel", [3, 3])
    p[path]["thing"].weight("gamma", [3])
    p[path]["thing"].weight("beta", [3])
    p["heads"]["box/scale"].weight("kernel", [2])
    p["heads"]["box/scale"].weight("bias", [2])
    assert (weights.mismatches, weights.unused()) == ({}, [])


def test_declared_layer_order_is_used_without_data_file(prefix: Path) -> None:
    prefix.with_name(prefix.name + ".data-00000-of-00001").unlink()
    weights = Weights(read_index(prefix))
    p = weights.branch()[weights.readable_names(weights.unused())[0].rpartition("/layer_with_weights-")[0]]
    p.declare_layer_order("conv", "bn")
    p["bn"].weight("gamma", [3])
    p["conv"].weight("kernel", [3, 3])
    assert weights.mismatches == {}


def test_renamed_branch_translates_names(prefix: Path) -> None:
    weights = Weights(open_checkpoint(prefix))
    p = weights.branch()[BACKBONE].renamed([(r"^Conv/BatchNorm(?=/)", "bn_Conv1"), (r"^Conv(?=/)", "Conv1")])
    p["Conv"].weight("weights", [3, 3])
    p["Conv"]["BatchNorm"].weight("gamma", [3])
    assert list(weights.variables) == [f"{BACKBONE}/Conv1/kernel", f"{BACKBONE}/bn_Conv1/gamma"]


def test_checkpoint_without_a_model_object_is_rejected(tmp_path: Path) -> None:
    prefix = tf.train.Checkpoint(net=tf.Variable([1.0])).write(str(tmp_path / "ckpt-3"))
    with pytest.raises(CheckpointError) as raised:
        Weights(open_checkpoint(prefix)).branch()["a"].weight("kernel", [1])
    assert str(raised.value) == (
        f"{prefix}: no object 'model' in this checkpoint (found: net). Pass a checkpoint that the "
        "Object Detection API's training or exporter wrote."
    )
