"""The inputs and outputs of a frozen graph: by the names of the Object Detection API, or as the caller says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from unfreeze.errors import UnsupportedError
from unfreeze.graphs.files import FrozenGraph
from unfreeze.graphs.operations import op_def, output_types, producer

# Placeholder of the Object Detection API's exporters -> the signature key under which clients send images.
# Source: object_detection/exporter.py (input_placeholder_fn_map), exporter_lib_v2.py.
INPUTS = {
    "image_tensor": "inputs",
    "float_image_tensor": "inputs",
    "encoded_image_string_tensor": "inputs",
    "tf_example": "inputs",
    "input_tensor": "input_tensor",
}
OUTPUTS = re.compile(r"detection_\w+|raw_detection_\w+|num_detections|num_proposals|anchors|image_shape")
NOT_OUTPUTS = ("Assert", "Const", "NoOp", "Placeholder", "Print", "PrintV2")  # operations that nothing uses either
SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Endpoint:
    """An input or output of a graph: its tensor, dtype and shape (of unknown rank where the graph does not have it)."""

    tensor: str
    dtype: tf.DType
    shape: tf.TensorShape


@dataclass(frozen=True)
class Endpoints:
    """The inputs and outputs of a graph, by signature key."""

    inputs: Mapping[str, Endpoint]
    outputs: Mapping[str, Endpoint]


def find_endpoints(
    frozen: FrozenGraph, inputs: Mapping[str, str] | None = None, outputs: Mapping[str, str] | None = None
) -> Endpoints:
    """Returns the inputs and outputs: those passed, else those of the signature, else those found by their names.

    Args:
        inputs, outputs: tensors of the graph by signature key.

    Raises:
        UnsupportedError: names do not show what they are, or the graph has no such tensor.
    """
    signature = _signature(frozen)
    passed_inputs = {key: _endpoint(frozen, tensor, "--graph-input") for key, tensor in (inputs or {}).items()}
    passed_outputs = {key: _endpoint(frozen, tensor, "--graph-output") for key, tensor in (outputs or {}).items()}
    return Endpoints(
        passed_inputs or _of_signature(signature.inputs if signature else {}) or _inputs_by_name(frozen),
        passed_outputs or _of_signature(signature.outputs if signature else {}) or _outputs_by_name(frozen),
    )


def _signature(frozen: FrozenGraph) -> Any:
    return frozen.signatures.get(SIGNATURE) or next(iter(frozen.signatures.values()), None)


def _of_signature(tensors: Any) -> dict[str, Endpoint]:
    return {
        key: Endpoint(info.name, tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape))
        for key, info in sorted(tensors.items())
    }


def _inputs_by_name(frozen: FrozenGraph) -> dict[str, Endpoint]:
    used = {producer(operand) for node in frozen.nodes() for operand in node.input}
    placeholders = [node.name for node in frozen.nodes() if node.op == "Placeholder" and node.name in used]
    chosen = [name for name in placeholders if name in INPUTS] or placeholders
    if len(chosen) != 1:
        raise UnsupportedError(
            f"{frozen.path}: cannot tell which tensor takes the images (placeholders: {', '.join(chosen) or 'none'}; "
            f"expected one of {', '.join(INPUTS)}). Name each input with --graph-input NAME=TENSOR"
        )
    (name,) = chosen
    key = INPUTS.get(name, name if name.isidentifier() else "inputs")
    return {key: _endpoint(frozen, name, "--graph-input")}


def _outputs_by_name(frozen: FrozenGraph) -> dict[str, Endpoint]:
    names = {node.name for node in frozen.nodes() if OUTPUTS.fullmatch(node.name) and node.op != "Placeholder"}
    if not {"detection_boxes", "detection_scores"} <= names:
        used = {producer(operand) for node in frozen.nodes() for operand in node.input}
        names = {node.name for node in frozen.nodes() if node.name not in used and node.op not in NOT_OUTPUTS}
    if not names:
        raise UnsupportedError(
            f"{frozen.path}: cannot tell which tensors are the outputs (none is called detection_boxes, "
            "detection_scores and so on). Name each output with --graph-output NAME=TENSOR"
        )
    return {re.sub(r"\W", "_", name): _endpoint(frozen, name, "--graph-output") for name in sorted(names)}


def _endpoint(frozen: FrozenGraph, tensor: str, flag: str) -> Endpoint:
    """Returns the tensor `NODE` or `NODE:NUMBER` of the graph."""
    name, _, suffix = tensor.partition(":")
    node = next((node for node in frozen.nodes() if node.name == name), None)
    types = _output_types(frozen, node) if node is not None else []
    number = int(suffix) if suffix.isdigit() else 0
    if node is None or number >= len(types):
        similar = [node.name for node in frozen.nodes() if name.rsplit("/", 1)[-1] in node.name][:3]
        hint = f" (similar names: {', '.join(similar)})" if similar else ""
        raise UnsupportedError(
            f"{frozen.path}: {flag} …={tensor}: the graph has no such tensor{hint}; name it as NODE or NODE:NUMBER"
        )
    shape = node.attr["shape"].shape if node.op.startswith("Placeholder") and "shape" in node.attr else None
    # Producers before version 24 wrote an empty shape for a placeholder of unknown shape.
    unknown = shape is None or (not shape.dim and frozen.graph.versions.producer < 24)
    return Endpoint(f"{name}:{number}", tf.as_dtype(types[number]), tf.TensorShape(None if unknown else shape))


def _output_types(frozen: FrozenGraph, node: Any) -> Sequence[int]:
    functions = frozen.functions()
    if node.op in functions:
        return [argument.type for argument in functions[node.op].signature.output_arg]
    return output_types(node, op_def(node.op))
