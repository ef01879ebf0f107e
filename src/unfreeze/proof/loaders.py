"""What the worker with TensorFlow in it does: read variables, and load by the TF2 and the TF1 loader."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.errors import SavedModelError
from unfreeze.proof.calls import Answers, Call, answers, one_line
from unfreeze.proof.detections import DETECTION
from unfreeze.proof.pictures import Feed, feeds, side_feeds
from unfreeze.proof.program import Tensor
from unfreeze.proof.weights import Stored, digest

# What the placeholder of a frozen graph is called -> what it takes.
FROZEN_INPUTS = {"image_tensor": "uint8", "encoded_image_string_tensor": "string", "tf_example": "string"}
FROZEN_OUTPUTS = (
    *DETECTION,
    "detection_multiclass_scores",
    "detection_masks",
    "detection_keypoints",
    "raw_detection_boxes",
    "raw_detection_scores",
)


def variables(saved_model: str) -> dict[str, Stored | str]:
    """Read every tensor in variables/, which checks TensorFlow's checksums; instead of a damaged one, what is wrong."""
    reader = tf.train.load_checkpoint(str(Path(saved_model) / "variables" / "variables"))
    found: dict[str, Stored | str] = {}
    for name in sorted(reader.get_variable_to_shape_map()):
        try:
            found[name] = digest(reader.get_tensor(name))
        except Exception as error:
            found[name] = one_line(error)
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


def frozen_graph(path: str, pictures: Sequence[np.ndarray]) -> Answers:
    """A frozen graph as the original exporter writes it, asked by the names of its tensors.

    The pictures are the first and the second of each case in turn.

    Source: object_detection/exporter.py (input_placeholder_fn_map, add_output_tensor_nodes).
    """
    start = time.perf_counter()
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(Path(path).read_bytes())
    except Exception as error:
        raise SavedModelError(f"{path}: not a frozen graph: {error}") from error
    names = {node.name for node in graph_def.node}
    missing = [name for name in DETECTION if name not in names]
    given = [name for name in FROZEN_INPUTS if name in names]
    if missing or not given:
        lacks = ", ".join(missing) or f"input called {' or '.join(FROZEN_INPUTS)}"
        raise SavedModelError(f"{path}: no detection graph of the Object Detection API, it has no {lacks}")
    outputs = {name: f"{name}:0" for name in FROZEN_OUTPUTS if name in names}
    tensor = Tensor(f"{given[0]}:0", FROZEN_INPUTS[given[0]], None)
    side = {node.name: _placeholder(node) for node in graph_def.node if node.op == "Placeholder"}
    del side[given[0]]
    calls = [
        Call("", "", tensor.name, outputs, feeds(picture, tensor, given[0]), side_feeds(side, (place % 2,)))
        for place, picture in enumerate(pictures)
    ]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        del graph_def
        return answers(_runner(session), calls, time.perf_counter() - start)


def _placeholder(node: Any) -> Tensor:
    """What a node of a graph takes."""
    shape = tf.TensorShape(node.attr["shape"].shape)
    sizes = tuple(shape.as_list()) if shape.rank is not None else None
    return Tensor(f"{node.name}:0", tf.dtypes.as_dtype(node.attr["dtype"].type).name, sizes)


def _runner(session: tf.compat.v1.Session) -> Callable[[Call, Feed], dict[str, np.ndarray]]:
    def run(call: Call, feed: Feed) -> dict[str, np.ndarray]:
        fed = {
            tensor: value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
            for tensor, value in call.fed(feed).items()
        }
        return session.run(dict(call.outputs), fed)

    return run
