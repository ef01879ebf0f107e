"""Where a graph takes pictures and where it answers: by the names of the original's exporter, or as the caller says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from unfreeze.errors import UnsupportedError
from unfreeze.graphs.files import FrozenGraph
from unfreeze.graphs.operations import op_def, output_types, producer

# What placeholders of the original's exporters are called -> the key under which clients send the pictures.
# Source: object_detection/exporter.py (input_placeholder_fn_map), exporter_lib_v2.py.
INPUTS = {
    "image_tensor": "inputs",
    "float_image_tensor": "inputs",
    "encoded_image_string_tensor": "inputs",
    "tf_example": "inputs",
    "input_tensor": "input_tensor",
}
OUTPUTS = re.compile(r"detection_\w+|raw_detection_\w+|num_detections|num_proposals|anchors|image_shape")
# Operations that end a graph without being an answer.
NO_ANSWERS = ("Assert", "Const", "NoOp", "Placeholder", "Print", "PrintV2")
# The outputs of a TensorFlow 2 exporter, in the order in which a concrete function numbers them.
SIGNATURE = "serving_default"


@dataclass(frozen=True)
class End:
    """An input or output: the tensor in the graph, its dtype, and its shape where that is known (else None)."""

    tensor: str
    dtype: tf.DType
    shape: tf.TensorShape


@dataclass(frozen=True)
class Ends:
    """The inputs and outputs of a graph, by the keys of its signature."""

    inputs: Mapping[str, End]
    outputs: Mapping[str, End]


def find_ends(frozen: FrozenGraph, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Ends:
    """The ends that were given by key and tensor; else those of serving_default; else those that names tell.

    Raises: UnsupportedError when nothing tells, or a given tensor is not in the graph.
    """
    signature = _serving(frozen)
    told_inputs = _of_signature(signature.inputs) if signature else {}
    told_outputs = _of_signature(signature.outputs) if signature else {}
    return Ends(
        {key: _end(frozen, tensor, "--graph-input") for key, tensor in inputs.items()}
        or told_inputs
        or _inputs(frozen),
        {key: _end(frozen, tensor, "--graph-output") for key, tensor in outputs.items()}
        or told_outputs
        or _outputs(frozen),
    )


def _serving(frozen: FrozenGraph) -> Any:
    return frozen.signatures.get(SIGNATURE) or next(iter(frozen.signatures.values()), None)


def _of_signature(told: Any) -> dict[str, End]:
    return {
        key: End(info.name, tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape))
        for key, info in sorted(told.items())
    }


def _inputs(frozen: FrozenGraph) -> dict[str, End]:
    placeholders = [node for node in frozen.nodes() if node.op == "Placeholder" and _is_used(frozen, node.name)]
    known = [node for node in placeholders if node.name in INPUTS]
    chosen = known or placeholders
    if len(chosen) != 1:
        names = ", ".join(node.name for node in chosen) or "none"
        raise UnsupportedError(
            f"{frozen.path}: which tensor takes the pictures? Its placeholders: {names}; none is called "
            f"{', '.join(INPUTS)}. Say it with --graph-input inputs=TENSOR, once for each"
        )
    name = chosen[0].name
    return {INPUTS.get(name, name if name.isidentifier() else "inputs"): _end(frozen, name, "--graph-input")}


def _is_used(frozen: FrozenGraph, name: str) -> bool:
    return any(producer(operand) == name for node in frozen.nodes() for operand in node.input)


def _outputs(frozen: FrozenGraph) -> dict[str, End]:
    named = {node.name for node in frozen.nodes() if OUTPUTS.fullmatch(node.name) and node.op != "Placeholder"}
    if not {"detection_boxes", "detection_scores"} <= named:
        used = {producer(operand) for node in frozen.nodes() for operand in node.input}
        named = {node.name for node in frozen.nodes() if node.name not in used and node.op not in NO_ANSWERS}
    if not named:
        raise UnsupportedError(
            f"{frozen.path}: which tensors are the answer? None is called detection_boxes and so on; "
            "say it with --graph-output NAME=TENSOR, once for each"
        )
    return {_key(name): _end(frozen, name, "--graph-output") for name in sorted(named)}


def _key(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _end(frozen: FrozenGraph, tensor: str, flag: str) -> End:
    """The tensor `node` or `node:1` of the graph."""
    name, _, place = tensor.partition(":")
    node = next((node for node in frozen.nodes() if node.name == name), None)
    types = _types(frozen, node) if node is not None else []
    number = int(place) if place.isdigit() else 0
    if node is None or number >= len(types):
        near = [each.name for each in frozen.nodes() if name.rsplit("/", 1)[-1] in each.name][:3]
        raise UnsupportedError(
            f"{frozen.path}: {flag} …={tensor}: the graph has no such tensor{_nearest(near)}; "
            "name it as NODE or NODE:NUMBER"
        )
    shape = node.attr["shape"].shape if node.op.startswith("Placeholder") and "shape" in node.attr else None
    # A placeholder of producers before version 24 has an empty shape where it means that none is known.
    unknown = shape is None or (not shape.dim and frozen.graph.versions.producer < 24)
    return End(f"{name}:{number}", tf.as_dtype(types[number]), tf.TensorShape(None if unknown else shape))


def _types(frozen: FrozenGraph, node: Any) -> Sequence[int]:
    functions = frozen.functions()
    if node.op in functions:
        return [argument.type for argument in functions[node.op].signature.output_arg]
    return output_types(node, op_def(node.op))


def _nearest(names: Sequence[str]) -> str:
    return f" (it has {', '.join(names)})" if names else ""
