"""What the worker with TensorFlow in it does: read variables, and load by the TF2 and the TF1 loader."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import SavedModelError
from unfreeze.graphs import read_graph_def
from unfreeze.memory import release_memory
from unfreeze.verification.calls import Answers, Call, answers, one_line
from unfreeze.verification.images import Feed, feeds, side_feeds
from unfreeze.verification.meta_graph import TensorInfo
from unfreeze.verification.output_comparison import DETECTION
from unfreeze.verification.weight_digests import CONSTANT, TensorDigest, tensor_digest

# What the placeholder of a frozen graph is called.
FROZEN_INPUTS = ("image_tensor", "float_image_tensor", "input_tensor", "encoded_image_string_tensor", "tf_example")
FROZEN_OUTPUTS = (
    *DETECTION,
    "detection_multiclass_scores",
    "detection_masks",
    "detection_keypoints",
    "raw_detection_boxes",
    "raw_detection_scores",
)


def variables(saved_model: str) -> dict[str, TensorDigest | str]:
    """Read every tensor in variables/, which checks TensorFlow's checksums; instead of a damaged one, what is wrong."""
    reader = tf.train.load_checkpoint(str(Path(saved_model) / "variables" / "variables"))
    found: dict[str, TensorDigest | str] = {}
    for name in sorted(reader.get_variable_to_shape_map()):
        try:
            found[name] = tensor_digest(reader.get_tensor(name))
        except Exception as error:
            found[name] = one_line(error)
    return found


def constants(saved_model: str) -> dict[str, TensorDigest | str]:
    """Read every constant of the graph and of its functions, by the digest of its bytes."""
    saved = saved_model_pb2.SavedModel.FromString((Path(saved_model) / "saved_model.pb").read_bytes())
    found: dict[str, TensorDigest | str] = {}
    for meta_graph in saved.meta_graphs:
        functions = [function.node_def for function in meta_graph.graph_def.library.function]
        for node in chain(meta_graph.graph_def.node, *functions):
            if node.op == "Const":
                stored = tensor_digest(tf.make_ndarray(node.attr["value"].tensor))
                found[CONSTANT + stored.sha256] = stored
    return found


def tf2_loader(saved_model: str, calls: Sequence[Call]) -> Answers:
    """`tf.saved_model.load`, then its signatures."""
    start = time.perf_counter()
    model = tf.saved_model.load(saved_model)

    def run(call: Call, feed: Feed) -> dict[str, np.ndarray]:
        signature = model.signatures[call.signature]
        given = {call.input: feed, **{key: value for key, (_, value) in call.side.items()}}
        answer = signature(**{key: tf.constant(value) for key, value in given.items()})
        return {name: value.numpy() for name, value in answer.items()}

    return answers(run, calls, time.perf_counter() - start)


def tf1_loader(saved_model: str, calls: Sequence[Call]) -> Answers:
    """`tf.compat.v1.saved_model.load` into a session."""
    start = time.perf_counter()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], saved_model)
        return answers(_runner(session), calls, time.perf_counter() - start)


def either_loader(saved_model: str, calls: Sequence[Call]) -> Answers:
    """Load by the TF1 loader, which is the faster one; where it cannot, by the TF2 loader."""
    try:
        return tf1_loader(saved_model, calls)
    except Exception:
        return tf2_loader(saved_model, calls)


def unoptimized(saved_model: str, calls: Sequence[Call], path: str, theirs: Sequence[Call]) -> tuple[Answers, Answers]:
    """A SavedModel and the frozen graph, or frozen SavedModel, that it was, each run as it is written.

    The runtime's optimizer of graphs folds constants into each other, but not variables: other numbers are rounded.
    Without it the two are the same sums in the same order.
    """
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        ours = tf2_loader(saved_model, calls)
        release_memory()  # of the one, before the other takes its own
        if Path(path).is_dir():
            return ours, tf2_loader(path, theirs)
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})
    return ours, graph(path, theirs, optimized=False)


def graph(path: str, calls: Sequence[Call], *, optimized: bool = True) -> Answers:
    """A graph in a file, asked by the names of its tensors."""
    start = time.perf_counter()
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = not optimized
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        tf.graph_util.import_graph_def(_read(path), name="")
        return answers(_runner(session), calls, time.perf_counter() - start)


def frozen_graph(path: str, pictures: Sequence[np.ndarray]) -> Answers:
    """A frozen graph of the original's exporter. The pictures are the first and the second of each case in turn.

    Source: object_detection/exporter.py (input_placeholder_fn_map, add_output_tensor_nodes).
    """
    start = time.perf_counter()
    graph_def = _read(path)
    tensor_name, outputs = _named_ends(path, graph_def)
    side = {node.name: _placeholder(node) for node in graph_def.node if node.op == "Placeholder"}
    side.pop(tensor_name.split(":")[0], None)
    with tf.Graph().as_default() as imported, tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        del graph_def
        tensor = TensorInfo(tensor_name, imported.get_tensor_by_name(tensor_name).dtype.name, None)
        form = tensor_name.split(":")[0]
        calls = [
            Call("", "", tensor_name, outputs, feeds(picture, tensor, form), side_feeds(side, (place % 2,)))
            for place, picture in enumerate(pictures)
        ]
        return answers(_runner(session), calls, time.perf_counter() - start)


def _read(path: str) -> Any:
    """The graph in a file, free of the machine that it was made for: devices, and neighbours on the same device."""
    graph_def = read_graph_def(Path(path))
    for node in graph_def.node:
        node.device = ""
        node.attr.pop("_class", None)  # a tool that renames nodes can leave the old names here
    return graph_def


def _named_ends(path: str, graph_def: Any) -> tuple[str, Mapping[str, str]]:
    """The tensor that takes pictures, and those that answer, as the original exporter calls them."""
    names = {node.name for node in graph_def.node}
    missing = [name for name in DETECTION if name not in names]
    given = [name for name in FROZEN_INPUTS if name in names]
    if missing or not given:
        lacks = ", ".join(missing) or f"input called {' or '.join(FROZEN_INPUTS)}"
        raise SavedModelError(f"{path}: no detection graph of the Object Detection API, it has no {lacks}")
    return f"{given[0]}:0", {name: f"{name}:0" for name in FROZEN_OUTPUTS if name in names}


def _placeholder(node: Any) -> TensorInfo:
    """What a node of a graph takes."""
    shape = tf.TensorShape(node.attr["shape"].shape)
    sizes = tuple(shape.as_list()) if shape.rank is not None else None
    return TensorInfo(f"{node.name}:0", tf.dtypes.as_dtype(node.attr["dtype"].type).name, sizes)


def _runner(session: tf.compat.v1.Session) -> Callable[[Call, Feed], dict[str, np.ndarray]]:
    def run(call: Call, feed: Feed) -> dict[str, np.ndarray]:
        fed = {
            tensor: value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
            for tensor, value in call.fed(feed).items()
        }
        return session.run(dict(call.outputs), fed)

    return run
