"""Writes a graph with variables as a SavedModel with the signatures of a detector.

Source: object_detection/exporter.py (input_placeholder_fn_map).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from unfreeze.errors import UnsupportedError
from unfreeze.graphs import Endpoint, GraphWithVariables, Parameter
from unfreeze.graphs.operations import op_def, output_names, unused_name
from unfreeze.input_types import INPUT_TYPES
from unfreeze.memory import release_memory
from unfreeze.ops import images as ops
from unfreeze.savedmodel.graph import TF2_NAMES, MainGraph, TensorNames
from unfreeze.savedmodel.network import WrittenFunction, network_function, serialized_function
from unfreeze.savedmodel.objects import Handle
from unfreeze.savedmodel.signatures import DTYPE_AND_DECODER, traced, traced_by_name, with_class_names
from unfreeze.savedmodel.writer import save_values, write_signatures
from unfreeze.weights.bindings import anonymous_variable

NETWORK = "unfrozen_network"
# Placeholders of the Object Detection API that take pixels of 0 to 255; numbers of other inputs may mean anything.
PIXELS = ("image_tensor", "float_image_tensor", "input_tensor")


@dataclass(frozen=True)
class GraphInput:
    """An input of a graph: its signature key, the placeholder behind it, its dtype and shape."""

    key: str
    placeholder: str
    dtype: tf.DType
    shape: tf.TensorShape

    @property
    def takes_pixels(self) -> bool:
        """Returns whether it takes images of 0 to 255: uint8 `[N, H, W, 3]`, or floats where the name says so."""
        if self.shape.rank != 4 or self.shape[-1] not in (3, None):
            return False
        return self.dtype == tf.uint8 or (self.dtype == tf.float32 and self.placeholder in PIXELS)

    @property
    def input_type(self) -> str:
        """The input type of the Object Detection API; empty if it has none for this input."""
        if self.takes_pixels:
            return "image_tensor" if self.dtype == tf.uint8 else "float_image_tensor"
        return self.placeholder if self.placeholder in INPUT_TYPES else ""

    def spec(self) -> tf.TensorSpec:
        """Returns the spec of the input, named by its signature key."""
        return tf.TensorSpec(self.shape, self.dtype, name=self.key)


def possible_input_types(inputs: Sequence[GraphInput]) -> list[str]:
    """Returns the input types for which signatures can be written, the graph's own first."""
    if len(inputs) != 1 or not inputs[0].input_type:
        return []
    own = inputs[0].input_type
    return [own, *(name for name in INPUT_TYPES if name != own)] if inputs[0].takes_pixels else [own]


def write_graph_saved_model(
    graph: GraphWithVariables,
    inputs: Sequence[GraphInput],
    outputs: Mapping[str, Endpoint],
    value: Callable[[str], np.ndarray],
    folder: Path,
    *,
    input_types: Sequence[str],
    label_map: tuple[Path, Mapping[int, str]] | None = None,
) -> None:
    """Writes the SavedModel into `folder`, except its fingerprint.

    The first of `input_types` is `serving_default`; without any, that is the graph's own input, and the only signature.
    `value` returns the value of a variable by its name.

    Raises:
        UnsupportedError: with a label map, if the graph has no outputs for classes.
    """
    specs = {key: tf.TensorSpec(output.shape, output.dtype, name=key) for key, output in sorted(outputs.items())}
    handles = {parameter.name: node for node, parameter in graph.handles.items()}
    variables = {name: _handle(graph.handles[node]) for name, node in handles.items()}
    saved = save_values(folder, variables, lambda names: [as_tensor(value(name)) for name in names])
    release_memory()  # frees the values
    name = _network_name(graph)
    detect = partial(_call_network, name, [variable.handle for variable in variables.values()], specs)
    signatures = _signatures(inputs, detect, input_types)
    if label_map is not None:
        signatures["named"] = _with_class_names(signatures["serving_default"], label_map[1])

    def functions() -> Iterator[WrittenFunction]:
        release_memory()  # frees what tracing left
        arguments = [*(graph_input.placeholder for graph_input in inputs), *handles.values()]
        tensors = [(outputs[key].tensor, spec.dtype.as_datatype_enum) for key, spec in specs.items()]
        yield network_function(name, graph.graph, arguments, tensors, partial(_output_names, graph.graph))
        for function in graph.graph.library.function:
            yield serialized_function(function, function.node_def)

    write_signatures(
        signatures,
        [graph_input.key for graph_input in inputs],
        variables,
        saved,
        folder,
        functions=functions,
        label_map=label_map,
        tensor_names=_tensor_names(graph, inputs, outputs, input_types),
    )


def _tensor_names(
    graph: GraphWithVariables, inputs: Sequence[GraphInput], outputs: Mapping[str, Any], input_types: Sequence[str]
) -> TensorNames:
    """Returns the names that the tensors have in the frozen graph, if these are those of the signature's function."""
    nodes = {graph_input.key: graph_input.placeholder for graph_input in inputs}
    changed = bool(input_types) and input_types[0] != inputs[0].input_type
    taken = {MainGraph.node_name(parameter.name) for parameter in graph.handles.values()}
    by_key = all(output.tensor == f"{key}:0" for key, output in outputs.items())
    if changed or not by_key or taken & {*nodes.values(), *outputs}:
        return TF2_NAMES
    return TensorNames(nodes, outputs_by_key=True)


def as_tensor(value: np.ndarray) -> tf.Tensor:
    """Returns the array as a tensor on the same memory; copies it only if it has to (tf.constant makes two copies)."""
    try:
        return tf.experimental.dlpack.from_dlpack(value.__dlpack__())
    except (BufferError, TypeError, tf.errors.OpError):  # dtypes that only TensorFlow has, or read-only memory
        return tf.constant(value)


def _handle(parameter: Parameter) -> Handle:
    handle = anonymous_variable(parameter.dtype, parameter.shape)
    return Handle(handle, parameter.dtype, tf.TensorShape(parameter.shape), trainable=parameter.dtype.is_floating)


def _network_name(graph: GraphWithVariables) -> str:
    return unused_name(NETWORK, {function.signature.name for function in graph.graph.library.function})


def _output_names(graph: Any, node: Any) -> Sequence[tuple[str, int]]:
    """Returns the outputs of a node, which is an operation, or a function that is called like one."""
    definition = op_def(node.op)
    if definition is None:
        functions = graph.library.function
        definition = next(function.signature for function in functions if function.signature.name == node.op)
    return output_names(node, definition)


def _call_network(
    network: str, captured: Sequence[tf.Tensor], outputs: Mapping[str, tf.TensorSpec], *inputs: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Calls the network."""
    tensors = tf.raw_ops.StatefulPartitionedCall(
        args=[*inputs, *captured],
        Tout=[spec.dtype for spec in outputs.values()],
        f=attr_value_pb2.NameAttrList(name=network),
    )
    for tensor, spec in zip(tensors, outputs.values(), strict=True):
        tensor.set_shape(spec.shape)
    return dict(zip(outputs, tensors, strict=True))


def _signatures(inputs: Sequence[GraphInput], detect: Callable[..., Any], input_types: Sequence[str]) -> dict[str, Any]:
    own = traced_by_name(detect, [graph_input.spec() for graph_input in inputs])
    if not input_types:
        return {"serving_default": own}
    (graph_input,) = inputs
    signatures = {
        name: own if name == graph_input.input_type else _converting_signature(graph_input, own, name)
        for name in input_types
    }
    return {"serving_default": signatures[input_types[0]], **signatures}


def _converting_signature(graph_input: GraphInput, own: Any, input_type: str) -> Any:
    """Returns the signature of another input type, which calls the one that takes pixels."""
    dtype, decode = DTYPE_AND_DECODER[input_type]
    if decode is None:
        spec = tf.TensorSpec(graph_input.shape, dtype, name=graph_input.key)
        return traced(lambda images: own(_pixels(images, graph_input.dtype)), [spec])
    size = graph_input.shape[1:3].as_list()
    image = tf.TensorSpec([*size, 3], tf.uint8)

    def decoded(string: tf.Tensor) -> tf.Tensor:
        assert decode is not None
        pixels = decode(string)
        return pixels if size == [None, None] else _resized(pixels, size)

    def call(strings: tf.Tensor) -> Any:
        images = tf.map_fn(decoded, strings, fn_output_signature=image, parallel_iterations=32)
        return own(_pixels(images, graph_input.dtype))

    return traced(call, [tf.TensorSpec(graph_input.shape[:1], tf.string, name=graph_input.key)])


def _pixels(images: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns pixels with another dtype; floats are rounded to integers of 0 to 255 for uint8."""
    if images.dtype == tf.float32 and dtype == tf.uint8:
        images = tf.saturate_cast(tf.round(images), tf.uint8)
    return tf.cast(images, dtype)


def _resized(pixels: tf.Tensor, size: Sequence[int | None]) -> tf.Tensor:
    """Returns an image `[H, W, 3]` in the fixed size of the graph's input."""
    target = [tf.shape(pixels)[axis] if length is None else length for axis, length in enumerate(size)]
    resized = ops.resize(pixels[tf.newaxis], (target[0], target[1]), resize_method="BILINEAR")[0]
    return tf.ensure_shape(tf.saturate_cast(tf.round(resized), tf.uint8), [*size, 3])


def _with_class_names(serving: Any, names: Mapping[int, str]) -> Any:
    missing = {"detection_scores", "detection_classes", "num_detections"} - set(serving.structured_outputs)
    if missing:
        raise UnsupportedError(
            f"not supported yet: --label-map with a graph that has no output {' and '.join(sorted(missing))}"
        )
    return with_class_names(serving, names)
