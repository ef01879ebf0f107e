"""Exports of frozen graphs: weights are found, nothing else changes, and graphs that must not run are rejected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.grappler import tf_optimizer  # no public name for it

from unfreeze.errors import SavedModelError, UnsupportedError, VerificationError, WeightsError
from unfreeze.exporting.from_frozen_graph import export_frozen_graph
from unfreeze.exporting.graph_plan import plan_graph
from unfreeze.inspection.graphs import inspect_graph
from unfreeze.verification import loaders, verify_saved_model
from unfreeze.verification.calls import Call
from unfreeze.verification.meta_graph import read_meta_graph
from unfreeze.verification.sample_calls import call_of_source_graph

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
FROZEN = DIGITS / "frozen_inference_graph.pb"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the frozen graph of digits."""
    folder = tmp_path_factory.mktemp("digits")
    export_frozen_graph(FROZEN, output_directory=folder, write_checkpoint=True, verify=False)
    return folder


def written(graph: tf.Graph, path: Path) -> Path:
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def test_saved_model_has_the_tensor_names_of_the_frozen_graph(digits: Path) -> None:
    signature = read_meta_graph(digits / "saved_model").signatures["serving_default"]
    assert [tensor.name for tensor in signature.inputs.values()] == ["image_tensor:0"]
    assert {tensor.name for tensor in signature.outputs.values()} == {f"{key}:0" for key in signature.outputs}


@pytest.mark.parametrize("read", [plan_graph, inspect_graph], ids=["export", "inspect"])
def test_damaged_graph_is_reported(read: Callable[[Path], object], tmp_path: Path) -> None:
    dtype, shape = b"\x08\x01", b"\x12"  # the first fields of each tensor of floats
    (tmp_path / "graph.pb").write_bytes(FROZEN.read_bytes().replace(dtype + shape, b"\x08\x61" + shape))
    with pytest.raises(SavedModelError, match=r"graph\.pb: the graph is damaged \(.*\); copy it again$"):
        read(tmp_path / "graph.pb")


def test_weights_have_the_values_and_names_of_the_checkpoint(digits: Path) -> None:
    """The config of digits uses moving averages, so these were frozen."""
    trained = tf.train.load_checkpoint(str(DIGITS / "run" / "model.ckpt-8000"))
    made = tf.train.load_checkpoint(str(digits / "model.ckpt"))
    names = set(made.get_variable_to_shape_map())
    moving_averages = {
        name for name in trained.get_variable_to_shape_map() if name.endswith("/ExponentialMovingAverage")
    }
    assert {name.removesuffix("/ExponentialMovingAverage") for name in moving_averages} <= names
    for name in names:
        moving_average = f"{name}/ExponentialMovingAverage"
        source = moving_average if moving_average in moving_averages else name
        np.testing.assert_array_equal(made.get_tensor(name), trained.get_tensor(source), err_msg=name)


def test_the_checkpoint_gives_the_weights_of_another_step(tmp_path: Path) -> None:
    steps = sorted((DIGITS / "run").glob("model.ckpt-*.index"))
    prefix = steps[0].with_suffix("")
    plan = plan_graph(FROZEN, prefix, DIGITS / "pipeline.config")
    checkpoint = tf.train.load_checkpoint(str(prefix))
    assert len(plan.parameters.variables) == 199
    for name, source in plan.sources.items():
        np.testing.assert_array_equal(plan.value(name), checkpoint.get_tensor(source))


def test_a_checkpoint_of_another_model_is_rejected(tmp_path: Path) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "model.ckpt"), tensor_names=["w"], shape_and_slices=[""], tensors=[tf.zeros([3])]
    )
    with pytest.raises(WeightsError, match=r"does not belong to .* the checkpoint has no FeatureExtractor"):
        plan_graph(FROZEN, tmp_path / "model.ckpt")


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
def test_a_graph_that_does_more_than_compute_is_rejected(operation: str, make, tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], name="image_tensor")
        make(tf.identity(x))
        tf.nn.conv2d(x, tf.ones([3, 3, 3, 4]), 1, "SAME", name="detection_boxes")
    with pytest.raises(UnsupportedError, match=f"run Python: {operation}.*nothing of it was run"):
        plan_graph(written(graph, tmp_path / "graph.pb"))


def test_a_graph_with_a_lookup_table_is_rejected(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], name="image_tensor")
        names = tf.lookup.KeyValueTensorInitializer(tf.constant([1], tf.int64), tf.constant(["one"]))
        tf.identity(tf.lookup.StaticHashTable(names, "none").lookup(tf.constant([1], tf.int64)), name="names")
        tf.nn.conv2d(x, tf.ones([3, 3, 3, 4]), 1, "SAME", name="detection_boxes")
    with pytest.raises(
        UnsupportedError, match=r"it has lookup tables, which an initializer fills: HashTableV2, Lookup"
    ):
        plan_graph(written(graph, tmp_path / "graph.pb"))


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "graph.pb").write_bytes(FROZEN.read_bytes()[:100_000])
    with pytest.raises(SavedModelError, match="cut short"):
        plan_graph(tmp_path / "graph.pb")


def numbers(*shape: int) -> np.ndarray:
    return np.random.RandomState(sum(shape)).standard_normal(shape).astype(np.float32) * 0.3


def graph_of(make) -> tf.Graph:
    """A graph from `image_tensor` to `detection_boxes` and `detection_scores`; `make` gives these from the pixels."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], name="image_tensor")
        boxes, scores = make(tf.cast(images, tf.float32))
        tf.identity(boxes, name="detection_boxes")
        tf.identity(scores, name="detection_scores")
    return graph


def convolved(images: tf.Tensor, weight) -> tuple[tf.Tensor, tf.Tensor]:
    """A small network whose weights `weight` makes from their shapes; and 100 anchors, which are none."""
    net = tf.nn.relu6(tf.nn.conv2d(images * (2 / 255) - 1, weight(3, 3, 3, 8), 2, "SAME") * weight(8) + weight(8))
    net = tf.nn.bias_add(tf.nn.depthwise_conv2d(net, weight(3, 3, 8, 1), [1, 1, 1, 1], "SAME"), weight(8))
    features = tf.reshape(tf.reduce_mean(net, [1, 2]), [-1, 8])
    return tf.exp(features[:, None, :4]) * tf.constant(numbers(100, 4)), tf.matmul(features, weight(8, 5)) + weight(5)


def half(*shape: int) -> tf.Tensor:
    return tf.cast(tf.constant(numbers(*shape).astype(np.float16)), tf.float32)


def int8(*shape: int) -> tf.Tensor:
    return tf.cast(tf.constant((numbers(*shape) * 50).astype(np.int8)), tf.float32) * 0.01


def dequantized(*shape: int) -> tf.Tensor:
    stored = tf.bitcast(tf.constant((numbers(*shape) * 50 + 128).astype(np.uint8)), tf.quint8)
    return tf.raw_ops.Dequantize(input=stored, min_range=-1.0, max_range=1.0)


def loops(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Weights inside a loop, inside a branch in a loop, and inside branches."""
    kernel, last = numbers(3, 3), numbers(3, 5)

    def body(i: tf.Tensor, net: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        net = tf.tanh(tf.matmul(net, tf.constant(kernel)))
        return i + 1, tf.cond(
            tf.reduce_sum(net) > 0, lambda: net @ tf.constant(kernel * 2), lambda: net @ tf.constant(-kernel)
        )

    _, net = tf.while_loop(lambda i, net: i < 4, body, [0, tf.reduce_mean(images, [1, 2])])
    net = tf.cond(tf.reduce_sum(net) > 0, lambda: net @ tf.constant(last), lambda: net @ tf.constant(-last))
    return net, tf.nn.softmax(net)


def functions(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    last = numbers(3, 5)
    inner = tf.function(lambda net: net @ tf.constant(last))
    outer = tf.function(lambda net: inner(tf.tanh(net @ tf.constant(numbers(3, 3)))))
    net = tf.reduce_mean(images, [1, 2])
    return outer(net), inner(net)


def of_integers(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Bytes times bytes summed as wide integers, whose biases are such integers too, as converters leave them."""
    kernel = tf.cast(tf.constant((numbers(3, 3, 3, 8) * 50).astype(np.int8)), tf.int32)
    bias = [tf.constant((numbers(8) * 900).astype(np.int32)) for _ in range(2)]
    net = tf.nn.bias_add(tf.nn.conv2d(tf.cast(images, tf.int32), kernel, 2, "SAME"), bias[0]) + bias[1]
    sums = tf.reduce_mean(tf.cast(net, tf.float32) * 0.001, [1, 2])
    packed = tf.constant((numbers(8, 5) * 9).astype(np.int32))
    last = tf.cast(tf.bitwise.bitwise_and(tf.bitwise.right_shift(packed, 1), 15), tf.float32)
    grid = tf.cast(tf.tile(tf.constant([[3, 5]]), [4, 2]), tf.float32)  # numbers of the structure
    return sums[:, None, :4] + grid, tf.matmul(sums, tf.reshape(last, tf.constant([8, 5])))


def channels_first(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As converters from other frameworks write it: transposed around each layer, biases with four dimensions."""
    net = tf.transpose(images, [0, 3, 1, 2])
    for before, after in ((3, 8), (8, 6)):
        kernel = tf.transpose(tf.constant(numbers(after, before, 3, 3)), [2, 3, 1, 0])
        net = tf.transpose(tf.nn.conv2d(tf.transpose(net, [0, 2, 3, 1]), kernel, 2, "SAME"), [0, 3, 1, 2])
        net = tf.nn.leaky_relu(net + tf.constant(numbers(1, after, 1, 1)))
    net = tf.transpose(tf.reduce_mean(net, [2, 3]) @ tf.transpose(tf.constant(numbers(9, 6))))
    net = tf.transpose(net) + tf.constant(numbers(9))
    return net[:, None, :4], net[:, 4:]


def in_parts(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Weights that were stored in parts, and one that two layers share."""
    parts = [tf.constant(numbers(2, 6)), tf.constant(numbers(1, 6))]
    shared = tf.constant(numbers(6, 6))
    net = tf.reduce_mean(images, [1, 2]) @ tf.concat(parts, 0)
    left, right = tf.split(tf.constant(numbers(6, 8)), 2, axis=1)
    net = tf.sigmoid(tf.sigmoid(net @ shared) @ shared)
    return (net @ left)[:, None], net @ right


def optimized(make) -> tf.Graph:
    """What the runtime's optimizer makes of a graph: constants folded, operations fused, and names that say nothing."""
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_of(make).as_graph_def(), name="")
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph)
    ends = ("image_tensor", "detection_boxes", "detection_scores")
    meta_graph.collection_def["train_op"].node_list.value.extend(ends)
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.optimizers.extend(["constfold", "arithmetic", "remap", "dependency"])
    made = tf_optimizer.OptimizeGraph(config, meta_graph)
    names = {node.name: node.name if node.name in ends else f"n{i}" for i, node in enumerate(made.node)}
    for node in made.node:
        node.name = names[node.name]
        for i, operand in enumerate(node.input):
            sign, rest = operand[: operand.startswith("^")], operand.removeprefix("^").split(":")
            node.input[i] = sign + ":".join([names[rest[0]], *rest[1:]])
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(made, name="")
    return graph


def graph_with_v1_loops() -> tf.Graph:
    tf.compat.v1.disable_control_flow_v2()
    try:
        return graph_of(loops)
    finally:
        tf.compat.v1.enable_control_flow_v2()


SMALL = {
    "float32": (lambda: graph_of(lambda x: convolved(x, lambda *s: tf.constant(numbers(*s)))), 7),
    "float16": (lambda: graph_of(lambda x: convolved(x, half)), 7),
    "int8": (lambda: graph_of(lambda x: convolved(x, int8)), 7),
    "quint8": (lambda: graph_of(lambda x: convolved(x, dequantized)), 7),
    "loops of TensorFlow 1": (graph_with_v1_loops, 5),
    "loops of TensorFlow 2": (lambda: graph_of(loops), 5),
    "functions": (lambda: graph_of(functions), 2),
    "wide integers": (lambda: graph_of(of_integers), 4),
    "channels first": (lambda: graph_of(channels_first), 6),
    "in parts": (lambda: graph_of(in_parts), 4),
    # The factor of each channel is folded into the kernel before it.
    "optimized": (lambda: optimized(lambda x: convolved(x, lambda *s: tf.constant(numbers(*s)))), 6),
    "optimized, channels first": (lambda: optimized(channels_first), 6),
    "optimized loops": (lambda: optimized(loops), 5),
}


def unoptimized() -> tf.compat.v1.Session:
    """A session that computes what the graph says: the optimizer of graphs folds constants only, which moves bits."""
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return tf.compat.v1.Session(config=config)


def graph_outputs(graph: tf.Graph, images: np.ndarray) -> dict[str, np.ndarray]:
    with tf.Graph().as_default(), unoptimized() as session:
        tf.graph_util.import_graph_def(graph.as_graph_def(), name="")
        outputs = {name: f"{name}:0" for name in ("detection_boxes", "detection_scores")}
        return session.run(outputs, {"image_tensor:0": images})


def saved_model_outputs(saved_model: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    with tf.Graph().as_default(), unoptimized() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_model))
        signature = loaded.signature_def["serving_default"]
        outputs = {key: tensor.name for key, tensor in signature.outputs.items()}
        return session.run(outputs, {signature.inputs["inputs"].name: images})


@pytest.mark.parametrize("name", SMALL)
def test_outputs_of_a_graph_without_marks_are_equal_bit_for_bit(name: str, tmp_path: Path) -> None:
    make, weights = SMALL[name]
    graph = make()
    images = np.random.RandomState(0).randint(0, 256, (2, 24, 32, 3)).astype(np.uint8)
    path = written(graph, tmp_path / "graph.pb")
    plan = plan_graph(path)
    assert len(plan.parameters.variables) == weights
    exported = export_frozen_graph(path, output_directory=tmp_path / "out", verify=False)
    expected, made = graph_outputs(graph, images), saved_model_outputs(exported.saved_model, images)
    serving = tf.saved_model.load(str(exported.saved_model)).signatures["serving_default"]
    loaded = serving(inputs=tf.constant(images))
    assert {key: value.shape for key, value in loaded.items()} == {key: value.shape for key, value in expected.items()}
    for key, value in expected.items():
        np.testing.assert_array_equal(made[key], value)


def test_anchors_and_structural_numbers_stay_constants(tmp_path: Path) -> None:
    plan = plan_graph(written(SMALL["float32"][0](), tmp_path / "graph.pb"))
    reasons = {kept.shape: kept.reason for kept in plan.parameters.constants}
    assert reasons[100, 4].startswith("boxes or points of Mul")
    assert reasons[()].startswith("one number of")
    assert all("a shape, an axis" in kept.reason for kept in plan.parameters.constants if not kept.dtype.is_floating)


def test_constant_inputs_of_an_xla_program_are_weights(tmp_path: Path) -> None:
    def called(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        handed = [images, tf.constant(numbers(3, 3, 3, 8)), tf.constant(numbers(8)), tf.constant([1, 2])]
        made = {"Tout": [tf.float32, tf.float32], "Sout": [tf.TensorShape([None, 4]), tf.TensorShape([None, 5])]}
        return gen_xla_ops.xla_call_module(args=handed, version=9, module="", platforms=[], **made)

    plan = plan_graph(written(graph_of(called), tmp_path / "graph.pb"))
    assert [parameter.shape for parameter in plan.parameters.variables] == [(3, 3, 3, 8), (8,)]


def two_images() -> tf.Graph:
    """Two images -> a number for the batch, and a row for each place of both."""
    with tf.Graph().as_default() as graph:
        left, right = (tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], name) for name in ("left", "right"))
        moved = tf.nn.conv2d(left, tf.constant(numbers(3, 3, 3, 2)), 1, "SAME") - right[..., :2]
        tf.reduce_sum(moved, name="total")
        tf.reshape(moved, [-1, 2], name="flow")
    return graph


def ranges_of_the_batch() -> tf.Graph:
    """Whose numbers are rounded by the least and the largest one of the whole batch."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], "left")
        x = tf.nn.conv2d(x, tf.constant(numbers(3, 3, 3, 2)), 1, "SAME")
        x = tf.quantization.fake_quant_with_min_max_vars(x, tf.reduce_min(x), tf.reduce_max(x), num_bits=4)
        tf.reduce_mean(x, [1, 2], name="answer")
    return graph


def single_image() -> tf.Graph:
    """An image without a batch dimension, of a minimum size -> a row for each place that the graph finds."""
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [None, None, 3], "image")
        net = tf.nn.conv2d(image[tf.newaxis], tf.constant(numbers(12, 12, 3, 5)), 4, "VALID")
        rows = tf.reshape(net, [-1, 5])
        tf.boolean_mask(rows, rows[:, 0] > 0, name="boxes")
    return graph


def switches() -> tf.Graph:
    """An image and two scalars that training left open: a switch and a rate."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], "images")
        training, keep = (
            tf.compat.v1.placeholder(tf.bool, [], "training"),
            tf.compat.v1.placeholder(tf.float32, [], "keep"),
        )
        net = tf.nn.conv2d(images, tf.constant(numbers(3, 3, 3, 8)), 2, "SAME")
        biases = numbers(8)
        net = tf.cond(training, lambda: net + tf.constant(biases), lambda: net - tf.constant(biases))
        tf.matmul(tf.reduce_mean(net, [1, 2]) * keep, tf.constant(numbers(8, 4)), name="answer")
    return graph


def sequence() -> tf.Graph:
    """Input that is not an image."""
    with tf.Graph().as_default() as graph:
        tokens = tf.compat.v1.placeholder(tf.int32, [None, 6], "tokens")
        keep = tf.compat.v1.placeholder_with_default(tf.constant(1.0), [], "keep")
        table = tf.gather(tf.constant(numbers(50, 8)), tokens) * keep
        tf.nn.softmax(tf.reduce_mean(table, 1) @ tf.constant(numbers(8, 4)), name="answer")
    return graph


def hourglass() -> tf.Graph:
    """Images whose sides must be multiples of 32 -> a map with a cell for each."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "images")
        net = tf.nn.space_to_depth(tf.nn.conv2d(images, tf.constant(numbers(3, 3, 3, 2)), 1, "SAME"), 32)
        tf.identity(tf.nn.conv2d(net, tf.constant(numbers(1, 1, 2048, 4)), 1, "SAME"), name="answer")
    return graph


OTHER_ENDS = {
    "two images": (two_images, {"left": "left", "right": "right"}, ["total", "flow"]),
    "a single image": (single_image, {"image": "image"}, ["boxes/GatherV2"]),
    "switches": (switches, {name: name for name in ("images", "training", "keep")}, ["answer"]),
    "a sequence": (sequence, {"tokens": "tokens"}, ["answer"]),
    "a size that fits": (hourglass, {"images": "images"}, ["answer"]),
}


@pytest.mark.parametrize("name", OTHER_ENDS)
def test_a_graph_with_other_endpoints_than_a_detector_is_verified(name: str, tmp_path: Path) -> None:
    make, inputs, outputs = OTHER_ENDS[name]
    path = written(make(), tmp_path / "graph.pb")
    exported = export_frozen_graph(
        path,
        output_directory=tmp_path / "out",
        graph_inputs=inputs,
        graph_outputs={name.split("/")[0]: name for name in outputs},
    )
    assert exported.report is not None
    checks = {check.name: check for check in exported.report.checks}
    assert "equal bit for bit" in checks["against"].detail
    assert all(f"{output.split('/')[0]}: largest" in checks["against"].detail for output in outputs)
    assert checks["batch"].status == ("skipped" if name in ("two images", "a single image") else "passed")


def test_a_graph_that_mixes_the_images_of_a_batch_is_exported_and_recorded_so(tmp_path: Path) -> None:
    path = written(ranges_of_the_batch(), tmp_path / "graph.pb")
    exported = export_frozen_graph(path, output_directory=tmp_path / "out", graph_inputs={"left": "left"})
    checks = {check.name: check for check in exported.report.checks}
    assert checks["batch"].status == "skipped"
    assert checks["batch"].detail.startswith("the source graph itself returns other outputs for a batch")
    assert exported.record.graph.mixes_batch
    again = {check.name: check for check in verify_saved_model(exported.saved_model).checks}
    assert (again["batch"].status, again["tf1_loader"].status) == ("skipped", "passed")


def test_outputs_that_the_optimizer_changes_are_compared_with_the_unoptimized_graph(tmp_path: Path) -> None:
    """Of two constants it makes one, of variables it does not; what follows makes much of a last bit. No sums."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, 16, 16, 3], "images")
        net = tf.nn.conv2d(images[..., :1], tf.constant(numbers(1, 1, 1, 16)), 1, "SAME") * tf.constant(numbers(16))
        tf.math.floormod(tf.floor(net * 2.0**20), 2.0, name="answer")
    path = written(graph, tmp_path / "graph.pb")
    exported = export_frozen_graph(path, output_directory=tmp_path / "out", graph_outputs={"answer": "answer"})
    [check] = [check for check in exported.report.checks if check.name == "against"]
    assert check.status == "passed"
    assert "equal bit for bit; with it: " in check.detail
    assert "compared with the source graph without it: largest difference 0.0e+00" in check.detail


def test_a_graph_that_was_frozen_for_another_device(tmp_path: Path) -> None:
    """Its nodes want a GPU, and to be where nodes are which the tool that renamed them knew by other names."""
    graph = tf.compat.v1.GraphDef.FromString(FROZEN.read_bytes())
    for node in graph.node:
        node.device = "/device:GPU:7"
        node.attr["_class"].list.s.append(b"loc:@gone")
    (tmp_path / "graph.pb").write_bytes(graph.SerializeToString())
    exported = export_frozen_graph(tmp_path / "graph.pb", output_directory=tmp_path / "out")
    checks = {check.name: check for check in exported.report.checks}
    assert "equal bit for bit" in checks["against"].detail


def test_a_graph_of_an_unusual_input_size_is_verified_with_an_image_of_that_size(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        pixels = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "pixels")
        net = tf.nn.conv2d(pixels, tf.constant(numbers(3, 3, 3, 2)), 4, "SAME")
        tf.matmul(tf.reshape(net, [tf.shape(net)[0], -1]), tf.constant(numbers(128, 4)), name="answer")
    path = written(graph, tmp_path / "graph.pb")
    with pytest.raises(VerificationError, match=r"graph\s+cannot\s+be\s+run\s+on\s+them\s+either\s+\(if\s+it\s+takes"):
        export_frozen_graph(path, output_directory=tmp_path / "out")
    exported = export_frozen_graph(path, output_directory=tmp_path / "out", verify=False)
    image = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    report = verify_saved_model(exported.saved_model, against=path, images=[image])
    checks = {check.name: check for check in report.checks}
    assert checks["against"].status == "passed", checks["against"].detail
    assert "equal bit for bit" in checks["against"].detail


FROZEN_GRAPHS = sorted(path.name.removesuffix(".pb.gz") for path in (reference.HERE / "frozen").glob("*.pb.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FROZEN_GRAPHS)
def test_a_graph_that_the_object_detection_api_froze(name: str, tmp_path: Path) -> None:
    """Every weight has its own name and value, and every output is the frozen graph's to the last bit."""
    path = tmp_path / "frozen_inference_graph.pb"
    path.write_bytes(reference.frozen_graph(name))
    exported = export_frozen_graph(path, output_directory=tmp_path / "out", write_checkpoint=True, verify=False)

    made = tf.train.load_checkpoint(str(tmp_path / "out" / "model.ckpt"))
    golden = reference.golden(name)
    graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    frozen = {node.name for node in graph.node if node.op == "Const"}  # of the first stage it has no fourth block
    weights = {key: (shape, dtype) for key, shape, dtype in golden.variables if key in frozen}
    assert set(made.get_variable_to_shape_map()) == set(weights)
    for key, (shape, dtype) in weights.items():
        np.testing.assert_array_equal(made.get_tensor(key), reference.weight(key, shape, dtype, golden.gains), key)

    image = np.random.RandomState(0).randint(0, 256, (1, 48, 48, 3)).astype(np.uint8)
    outputs = dict.fromkeys(exported.record.graph.outputs, "")
    call = Call("serving_default", "inputs", "", outputs, [image])
    source_call = call_of_source_graph(call, exported.record.graph)
    pair = loaders.run_unoptimized_pair(str(exported.saved_model), [call], str(path), [source_call])
    ours, theirs = (results.outputs[0] for results in pair)
    assert set(ours) == set(theirs) == set(golden.outputs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value, key)
