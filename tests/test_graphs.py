"""Frozen graphs become unfrozen: weights are found, nothing else changes, and what must not be run is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.errors import SavedModelError, UnsupportedError, WeightsError
from unfreeze.verbs.unfreeze_graph import planned, unfreeze_graph

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
FROZEN = DIGITS / "frozen_inference_graph.pb"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frozen graph of digits, unfrozen."""
    folder = tmp_path_factory.mktemp("digits")
    unfreeze_graph(FROZEN, output_directory=folder, write_checkpoint=True, verify=False)
    return folder


def written(graph: tf.Graph, path: Path) -> Path:
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_every_weight_is_the_checkpoints_under_its_own_name(digits: Path) -> None:
    """The config of digits asks for the moving averages, so these are what was frozen."""
    original = tf.train.load_checkpoint(str(DIGITS / "run" / "model.ckpt-8000"))
    made = tf.train.load_checkpoint(str(digits / "model.ckpt"))
    names = set(made.get_variable_to_shape_map())
    shadows = {name for name in original.get_variable_to_shape_map() if name.endswith("/ExponentialMovingAverage")}
    assert {name.removesuffix("/ExponentialMovingAverage") for name in shadows} <= names
    for name in names:
        shadow = f"{name}/ExponentialMovingAverage"
        source = shadow if shadow in shadows else name
        np.testing.assert_array_equal(made.get_tensor(name), original.get_tensor(source), err_msg=name)


def test_the_checkpoint_gives_the_weights_of_another_step(tmp_path: Path) -> None:
    steps = sorted((DIGITS / "run").glob("model.ckpt-*.index"))
    prefix = steps[0].with_suffix("")
    plan = planned(FROZEN, prefix, DIGITS / "pipeline.config", {}, {})
    held = tf.train.load_checkpoint(str(prefix))
    assert len(plan.parameters.found) == 199
    for name, source in plan.sources.items():
        np.testing.assert_array_equal(plan.value(name), held.get_tensor(source))


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "model.ckpt"), tensor_names=["w"], shape_and_slices=[""], tensors=[tf.zeros([3])]
    )
    with pytest.raises(WeightsError, match=r"does not belong to .* the checkpoint has no FeatureExtractor"):
        planned(FROZEN, tmp_path / "model.ckpt", None, {}, {})


@pytest.mark.parametrize(
    ("operation", "make"),
    [
        ("ReadFile", lambda x: tf.io.read_file("a")),
        ("WriteFile", lambda x: tf.raw_ops.WriteFile(filename="a", contents="b")),
        ("PyFunc", lambda x: tf.compat.v1.py_func(lambda y: y, [x], tf.float32)),
        ("SaveV2", lambda x: tf.raw_ops.SaveV2(prefix="a", tensor_names=["b"], shape_and_slices=[""], tensors=[x])),
        ("PrintV2 to file:", lambda x: tf.print(x, output_stream="file:///tmp/none")),
    ],
)
def test_a_graph_that_does_more_than_compute_is_refused(operation: str, make, tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], name="image_tensor")
        make(tf.identity(x))
        tf.nn.conv2d(x, tf.ones([3, 3, 3, 4]), 1, "SAME", name="detection_boxes")
    with pytest.raises(UnsupportedError, match=f"run Python: {operation}.*nothing of it was run"):
        planned(written(graph, tmp_path / "graph.pb"), None, None, {}, {})


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "graph.pb").write_bytes(FROZEN.read_bytes()[:100_000])
    with pytest.raises(SavedModelError, match="cut short"):
        planned(tmp_path / "graph.pb", None, None, {}, {})
