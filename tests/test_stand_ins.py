"""Stand-ins of weights: a graph is written with the values of all of them, byte for byte."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.weights.stand_ins import STAND_IN, stand_in, write_graph

KERNEL = np.random.default_rng(3).standard_normal([3, 3, 8, 16]).astype(np.float32)
BIAS = np.random.default_rng(4).standard_normal([512]).astype(np.float32)


def graph_with_stand_ins() -> tf.compat.v1.GraphDef:
    """Returns a graph with a stand-in, and with a function that has another."""

    @tf.function(input_signature=[tf.TensorSpec([512])], autograph=False)
    def biased(values: tf.Tensor) -> tf.Tensor:
        return values + stand_in("bias", [512])

    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [1, 8, 8, 8], name="images")
        tf.identity(tf.nn.conv2d(images, stand_in("kernel", KERNEL.shape), 1, "SAME"), name="convolved")
        tf.identity(biased(tf.ones([512])), name="biased")
    return graph.as_graph_def()


def test_written_graph_has_the_values_of_its_stand_ins(tmp_path: Path) -> None:
    graph_def = graph_with_stand_ins()
    assert graph_def.ByteSize() < KERNEL.nbytes, "a stand-in has no values"
    write_graph(graph_def, {"kernel": KERNEL, "bias": BIAS}, tmp_path / "graph.pb")
    written = tf.compat.v1.GraphDef.FromString((tmp_path / "graph.pb").read_bytes())
    assert STAND_IN not in str(written)
    images = np.random.default_rng(5).standard_normal([1, 8, 8, 8]).astype(np.float32)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(written, name="")
        convolved, biased = session.run(["convolved:0", "biased:0"], {"images:0": images})
    np.testing.assert_allclose(convolved, tf.nn.conv2d(images, KERNEL, 1, "SAME"), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(biased, 1 + BIAS)


@pytest.mark.parametrize("bias", [BIAS[:-1], BIAS.astype(np.float64)])
def test_other_shapes_and_types_are_rejected(bias: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stands in for float32 \(512,\)"):
        write_graph(graph_with_stand_ins(), {"kernel": KERNEL, "bias": bias}, tmp_path / "graph.pb")


def test_larger_graphs_than_protobuf_reads_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unfreeze.weights.stand_ins.LARGEST_BYTES", 4000)
    with pytest.raises(ValueError, match="a GraphDef has at most 4000"):
        write_graph(graph_with_stand_ins(), {"kernel": KERNEL, "bias": BIAS}, tmp_path / "graph.pb")


def test_network_with_stand_ins_returns_nan() -> None:
    function = tf.function(lambda: tf.reduce_sum(stand_in("bias", [512])), autograph=False)
    assert np.isnan(function().numpy())
