"""The files of a graph model of TensorFlow.js: model.json, with the topology and a list of weights, and binary shards.

Source: tfjs-converter/python/tensorflowjs/write_weights.py and converters/tf_saved_model_conversion_v2.py of
tensorflow/tfjs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from unfreeze.tfjs.operations import OPERATIONS

MODEL, LABELS = "model.json", "labels.json"
SHARD_BYTES = 4 << 20  # as browsers cache files up to this size
# TensorFlow.js has float32, int32 and bool; the operations of other integers run as int32.
DTYPES = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}


@dataclass(frozen=True)
class Weight:
    """A constant of the graph, by the name of its node."""

    name: str
    value: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Returns its entry in the list of weights."""
        return {"name": self.name, "shape": list(self.value.shape), "dtype": self.value.dtype.name}


def write_graph_model(
    graph: graph_pb2.GraphDef, inputs: Mapping[str, str], outputs: Mapping[str, str], path: Path
) -> None:
    """Writes model.json at `path`, and the shards of its weights beside it.

    Args:
        graph: a graph without variables.
        inputs, outputs: tensors by the names that they have for clients.

    Raises: ValueError: TensorFlow.js does not have an operation or a data type of the graph.
    """
    topology = graph_pb2.GraphDef()
    topology.CopyFrom(graph)
    _without_ensure_shape(topology)
    _require_operations(topology)
    weights = list(_take_weights(topology))
    paths = _write_shards(weights, path.parent)
    model = {
        "format": "graph-model",
        "generatedBy": f"TensorFlow {tf.__version__}",
        "convertedBy": "unfreeze",
        "signature": {"inputs": _tensors(graph, inputs), "outputs": _tensors(graph, outputs)},
        "modelTopology": MessageToDict(topology),
        "weightsManifest": [{"paths": paths, "weights": [weight.to_dict() for weight in weights]}],
    }
    path.write_text(json.dumps(model, separators=(",", ":")), encoding="utf-8")


def write_labels(names: Mapping[int, str], folder: Path) -> None:
    """Writes the names of the classes by id beside a model."""
    labels = {str(number): names[number] for number in sorted(names)}
    (folder / LABELS).write_text(json.dumps(labels, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _nodes(graph: graph_pb2.GraphDef) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _without_ensure_shape(graph: graph_pb2.GraphDef) -> None:
    """Makes EnsureShape an Identity: TensorFlow.js 4.22 fails on it, since it looks for the shape among the inputs."""
    for node in _nodes(graph):
        if node.op == "EnsureShape":
            node.op = "Identity"
            del node.attr["shape"]


def _require_operations(graph: graph_pb2.GraphDef) -> None:
    unknown = sorted({node.op for node in _nodes(graph)} - OPERATIONS)
    if unknown:
        raise ValueError(f"TensorFlow.js has no operation {', '.join(unknown)}")


def _take_weights(graph: graph_pb2.GraphDef) -> Iterator[Weight]:
    """Removes the values of the constants from a graph, and yields them."""
    for node in _nodes(graph):
        if node.op == "Const":
            yield Weight(node.name, _stored(node.name, tf.make_ndarray(node.attr["value"].tensor)))
            del node.attr["value"]


def _stored(name: str, value: np.ndarray) -> np.ndarray:
    """Returns a value in a data type of TensorFlow.js."""
    dtype = DTYPES.get(value.dtype.kind)
    if dtype is None:
        raise ValueError(f"TensorFlow.js has no data type {value.dtype} (of the constant {name})")
    if dtype is np.int32:
        limits = np.iinfo(np.int32)
        return value.clip(limits.min, limits.max).astype(np.int32)
    return value.astype(dtype)


def _write_shards(weights: Iterable[Weight], folder: Path) -> list[str]:
    """Writes the values one after another into files of at most SHARD_BYTES; returns their names."""
    content = b"".join(weight.value.tobytes() for weight in weights)
    count = max(1, -(-len(content) // SHARD_BYTES))
    names = [f"group1-shard{number}of{count}.bin" for number in range(1, count + 1)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(content[index * SHARD_BYTES : (index + 1) * SHARD_BYTES])
    return names


def _tensors(graph: graph_pb2.GraphDef, tensors: Mapping[str, str]) -> dict[str, Any]:
    """Returns the entries of a signature."""
    with tf.Graph().as_default() as built:
        tf.graph_util.import_graph_def(graph, name="")
    entries = {}
    for name, tensor_name in tensors.items():
        tensor = built.get_tensor_by_name(tensor_name)
        info = meta_graph_pb2.TensorInfo(
            name=tensor_name, dtype=tensor.dtype.as_datatype_enum, tensor_shape=tensor.shape.as_proto()
        )
        entries[name] = MessageToDict(info)
    return entries
