"""The steps of the worker processes that import TensorFlow: they read tensors, and load and run models."""

import time
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import SavedModelError
from unfreeze.graphs import read_graph_def
from unfreeze.memory import release_memory
from unfreeze.verification.calls import Call, Outputs, Results, Run, run_calls
from unfreeze.verification.failures import Failure
from unfreeze.verification.feeds import Feed, image_feeds, side_feeds
from unfreeze.verification.meta_graph import TensorInfo
from unfreeze.verification.output_comparison import DETECTION
from unfreeze.verification.weight_digests import CONSTANT, TensorDigest, tensor_digest

# The names that the Object Detection API's exporter gives to the placeholder and to the outputs of a frozen graph.
# Source: object_detection/exporter.py (input_placeholder_fn_map, add_output_tensor_nodes).
FROZEN_INPUTS = ("image_tensor", "float_image_tensor", "input_tensor", "encoded_image_string_tensor", "tf_example")
FROZEN_OUTPUTS = (
    *DETECTION,
    "detection_multiclass_scores",
    "detection_masks",
    "detection_keypoints",
    "raw_detection_boxes",
    "raw_detection_scores",
)


def read_variables(saved_model: str) -> dict[str, TensorDigest | Failure]:
    """Reads every tensor in variables/, which checks TensorFlow's checksums."""
    reader = tf.train.load_checkpoint(str(Path(saved_model) / "variables" / "variables"))
    digests: dict[str, TensorDigest | Failure] = {}
    for name in sorted(reader.get_variable_to_shape_map()):
        try:
            digests[name] = tensor_digest(reader.get_tensor(name))
        except Exception as error:
            digests[name] = Failure.of(error)
    return digests


def read_constants(saved_model: str) -> dict[str, TensorDigest | Failure]:
    """Reads every constant of the graph and of its functions; the keys are made of their digests."""
    saved = saved_model_pb2.SavedModel.FromString((Path(saved_model) / "saved_model.pb").read_bytes())
    digests: dict[str, TensorDigest | Failure] = {}
    for meta_graph in saved.meta_graphs:
        functions = [function.node_def for function in meta_graph.graph_def.library.function]
        for node in chain(meta_graph.graph_def.node, *functions):
            if node.op == "Const":
                digest = tensor_digest(tf.make_ndarray(node.attr["value"].tensor))
                digests[CONSTANT + digest.sha256] = digest
    return digests


def run_with_tf2_loader(saved_model: str, calls: Sequence[Call]) -> Results:
    """Loads with `tf.saved_model.load` and calls the signatures."""
    start = time.perf_counter()
    model = tf.saved_model.load(saved_model)

    def run(call: Call, feed: Feed) -> Outputs:
        inputs = {key: tf.constant(value) for key, value in call.fed_by_key(feed).items()}
        return {name: value.numpy() for name, value in model.signatures[call.signature](**inputs).items()}

    return run_calls(run, calls, time.perf_counter() - start)


def run_with_tf1_loader(saved_model: str, calls: Sequence[Call]) -> Results:
    """Loads with `tf.compat.v1.saved_model.load` into a session."""
    start = time.perf_counter()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], saved_model)
        return run_calls(_session_run(session), calls, time.perf_counter() - start)


def run_with_any_loader(saved_model: str, calls: Sequence[Call]) -> Results:
    """Loads with the TF1 loader, which is the faster one, or else with the TF2 loader."""
    try:
        return run_with_tf1_loader(saved_model, calls)
    except Exception:
        return run_with_tf2_loader(saved_model, calls)


def run_graph(path: str, calls: Sequence[Call], *, optimized: bool = True) -> Results:
    """Loads a frozen graph, and runs it by the tensor names of the calls."""
    start = time.perf_counter()
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = not optimized
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        tf.graph_util.import_graph_def(_read_graph_def(path), name="")
        return run_calls(_session_run(session), calls, time.perf_counter() - start)


def run_unoptimized_pair(
    saved_model: str, calls: Sequence[Call], source: str, source_calls: Sequence[Call]
) -> tuple[Results, Results]:
    """Runs a SavedModel and the frozen graph or SavedModel that it was exported from without the graph optimizer.

    The optimizer folds constants into each other, but not variables, so the two models round different numbers.
    Without it both compute the same sums in the same order.
    """
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        results = run_with_tf2_loader(saved_model, calls)
        release_memory()  # frees the first model before the second one is loaded
        if Path(source).is_dir():
            return results, run_with_tf2_loader(source, source_calls)
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})
    return results, run_graph(source, source_calls, optimized=False)


def run_object_detection_graph(path: str, images: Sequence[np.ndarray]) -> Results:
    """Loads a frozen graph of the Object Detection API, and runs it on the images by the names that it has there.

    `images` are single images `[1, H, W, 3]`: the first and the second of each sample input in turn.
    """
    start = time.perf_counter()
    graph_def = _read_graph_def(path)
    input_tensor, outputs = _object_detection_tensors(path, graph_def)
    input_type = input_tensor.split(":")[0]
    placeholders = {node.name: _placeholder_info(node) for node in graph_def.node if node.op == "Placeholder"}
    placeholders.pop(input_type, None)
    with tf.Graph().as_default() as imported, tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        del graph_def
        tensor = TensorInfo(input_tensor, imported.get_tensor_by_name(input_tensor).dtype.name, None)
        calls = [
            Call(
                signature="",
                input="",
                input_tensor=input_tensor,
                outputs=outputs,
                feeds=image_feeds(image, tensor, input_type),
                side_inputs=side_feeds(placeholders, (index % 2,)),
            )
            for index, image in enumerate(images)
        ]
        return run_calls(_session_run(session), calls, time.perf_counter() - start)


def _read_graph_def(path: str) -> Any:
    """Returns the graph in a file, without the devices and colocations of the machine that it was made for."""
    graph_def = read_graph_def(Path(path))
    for node in graph_def.node:
        node.device = ""
        node.attr.pop("_class", None)  # a tool that renames nodes can leave the old names here
    return graph_def


def _object_detection_tensors(path: str, graph_def: Any) -> tuple[str, Mapping[str, str]]:
    """Returns the input tensor and the output tensors, by the names in the Object Detection API's exports."""
    names = {node.name for node in graph_def.node}
    missing = [name for name in DETECTION if name not in names]
    inputs = [name for name in FROZEN_INPUTS if name in names]
    if missing or not inputs:
        lacking = ", ".join(missing) or f"input named {' or '.join(FROZEN_INPUTS)}"
        raise SavedModelError(f"{path}: not a frozen graph of the Object Detection API: it has no {lacking}")
    return f"{inputs[0]}:0", {name: f"{name}:0" for name in FROZEN_OUTPUTS if name in names}


def _placeholder_info(node: Any) -> TensorInfo:
    shape = tf.TensorShape(node.attr["shape"].shape)
    sizes = tuple(shape.as_list()) if shape.rank is not None else None
    return TensorInfo(f"{node.name}:0", tf.dtypes.as_dtype(node.attr["dtype"].type).name, sizes)


def _session_run(session: tf.compat.v1.Session) -> Run:
    def run(call: Call, feed: Feed) -> Outputs:
        values = {
            tensor: value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
            for tensor, value in call.fed_by_tensor(feed).items()
        }
        outputs: Outputs = session.run(dict(call.outputs), values)
        return outputs

    return run
