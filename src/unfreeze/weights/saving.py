"""Saves the weights of a network as a checkpoint of the generation that they came from.

Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from unfreeze.weights.branches import Weights
from unfreeze.weights.checkpoints import OBJECT_GRAPH, STATE_FILE, VALUE, CheckpointFormat, Generation
from unfreeze.weights.objects import MODEL
from unfreeze.weights.training_state import MOVING_AVERAGE, training_state


def write_checkpoint(weights: Weights, prefix: Path, *, as_stored: bool = False) -> None:
    """Writes PREFIX.index and PREFIX.data-00000-of-00001: name-based for TensorFlow 1, object-based for TensorFlow 2.

    Other tensors of the source are copied, except for optimizer slots, which belong to other values. The moving average
    of a variable is set to the variable's value: training continues from there, and an export may use either.
    `as_stored`: takes the values of the source, not those of the variables, which may be empty.
    """
    source = weights.checkpoint
    exported_from_tf2 = source.format == CheckpointFormat.EXPORT and source.generation == Generation.TF2
    tensors: dict[str, Any] = {
        key: source.read(key)
        for key in source.tensors
        if key != OBJECT_GRAPH and training_state(key) != "optimizer slots"
    }
    for name, key in weights.sources.items():
        value = weights.variables[name] if weights.variables and not as_stored else tensors[key]
        for stored in (name, name + MOVING_AVERAGE, key):
            if stored in tensors:
                tensors[stored] = value
    if exported_from_tf2:
        tensors = {f"{MODEL}/{name}{VALUE}": value for name, value in tensors.items()}
    if source.generation == Generation.TF2:
        graph = _tree(tensors) if exported_from_tf2 else _without_slots(source.read(OBJECT_GRAPH).item(), tensors)
        tensors[OBJECT_GRAPH] = graph.SerializeToString(deterministic=True)
    keys = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=keys,
        shape_and_slices=[""] * len(keys),
        tensors=[tf.convert_to_tensor(tensors[key]) for key in keys],
    )


def write_state_file(folder: Path, name: str) -> None:
    """Writes the file `checkpoint`, which names the newest checkpoint of a folder."""
    (folder / STATE_FILE).write_text(f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n')


def _without_slots(serialized: bytes, kept: Mapping[str, Any]) -> Any:
    """Returns the object graph of a checkpoint without slots and without attributes that are not in `kept`."""
    graph = _new_graph()
    graph.ParseFromString(serialized)
    for node in graph.nodes:
        attributes = [attribute for attribute in node.attributes if attribute.checkpoint_key in kept]
        del node.attributes[:], node.slot_variables[:]
        node.attributes.extend(attributes)
    return graph


def _tree(keys: Iterable[str]) -> Any:
    """Returns an object graph whose paths are those of the keys."""
    graph = _new_graph()
    graph.nodes.add()
    numbers = {"": 0}
    for key in keys:
        path = ""
        for step in key.removesuffix(VALUE).split("/"):
            parent, path = path, f"{path}/{step}"
            if path not in numbers:
                numbers[path] = len(graph.nodes)
                graph.nodes.add()
                graph.nodes[numbers[parent]].children.add(node_id=numbers[path], local_name=step)
        name = path.removeprefix(f"/{MODEL}/")
        graph.nodes[numbers[path]].attributes.add(name="VARIABLE_VALUE", full_name=name, checkpoint_key=key)
    return graph


def _new_graph() -> Any:
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    return trackable_object_graph_pb2.TrackableObjectGraph()
