"""A frozen graph whose weights are variables again, as a SavedModel with the signatures of a detector.

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
from unfreeze.graphs import Ends, FrozenGraph, Unfrozen
from unfreeze.graphs.operations import op_def, output_names
from unfreeze.memory import release_memory
from unfreeze.ops import images as ops
from unfreeze.savedmodel.network import WrittenFunction, network_function, written
from unfreeze.savedmodel.objects import Handle
from unfreeze.savedmodel.signatures import INPUT_TYPES, by_name, named, traced
from unfreeze.savedmodel.writer import save_values, write_signatures

NETWORK = "unfrozen_network"
ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"  # of ResourceHandle: no two handles are the same variable
# Inputs of the original's exporters that take pixels of 0 to 255; of another the numbers may mean anything.
PIXELS = ("image_tensor", "float_image_tensor", "input_tensor")


@dataclass(frozen=True)
class Door:
    """The input of a graph: its key, the placeholder behind it, its dtype and shape."""

    key: str
    placeholder: str
    dtype: tf.DType
    shape: tf.TensorShape

    @property
    def takes_pixels(self) -> bool:
        """Whether pictures of 0 to 255 can be put in: uint8 `[N, H, W, 3]`, or floats where the name says so."""
        if self.shape.rank != 4 or self.shape[-1] not in (3, None):
            return False
        return self.dtype == tf.uint8 or (self.dtype == tf.float32 and self.placeholder in PIXELS)

    @property
    def input_type(self) -> str:
        """The word of the original for what it takes; empty where it has none."""
        if self.takes_pixels:
            return "image_tensor" if self.dtype == tf.uint8 else "float_image_tensor"
        return self.placeholder if self.placeholder in INPUT_TYPES else ""

    def spec(self) -> tf.TensorSpec:
        return tf.TensorSpec(self.shape, self.dtype, name=self.key)


def doors(ends: Ends, placeholders: Mapping[str, str]) -> list[Door]:
    """The inputs of a graph, in the order of its signature."""
    return [Door(key, placeholders[key], end.dtype, end.shape) for key, end in ends.inputs.items()]


def input_types(given: Sequence[Door]) -> list[str]:
    """The signatures that can be put in front of a graph, its own first."""
    if len(given) != 1 or not given[0].input_type:
        return []
    own = given[0].input_type
    return [own, *(name for name in INPUT_TYPES if name != own)] if given[0].takes_pixels else [own]


def write_unfrozen(
    frozen: FrozenGraph,
    graph: Unfrozen,
    ends: Ends,
    given: Sequence[Door],
    value: Callable[[str], np.ndarray],
    folder: Path,
    *,
    input_types: Sequence[str],
    label_map: tuple[Path, Mapping[int, str]] | None = None,
) -> None:
    """Writes the SavedModel into `folder`, all but its fingerprint.

    The first of `input_types` is `serving_default`; without any, that is the graph's own input, and the only signature.
    `value` gives the value of a variable by its name.

    Raises: UnsupportedError when a label map is given, and the graph gives no classes.
    """
    outputs = {key: tf.TensorSpec(end.shape, end.dtype, name=key) for key, end in sorted(ends.outputs.items())}
    handles = {parameter.name: node for node, parameter in graph.handles.items()}
    variables = {name: _handle(graph.handles[node]) for name, node in handles.items()}
    saved = save_values(folder, variables, lambda names: [as_tensor(value(name)) for name in names])
    release_memory()  # of the values
    name = _name(graph)
    detect = partial(_called, name, [variable.handle for variable in variables.values()], outputs)
    signatures = _signatures(given, detect, input_types)
    if label_map is not None:
        signatures["named"] = _named(frozen, signatures["serving_default"], label_map[1])

    def functions() -> Iterator[WrittenFunction]:
        release_memory()  # of tracing
        arguments = [*(door.placeholder for door in given), *handles.values()]
        tensors = [(ends.outputs[key].tensor, spec.dtype.as_datatype_enum) for key, spec in outputs.items()]
        yield network_function(name, graph.graph, arguments, tensors, partial(_names, graph.graph))
        for function in graph.graph.library.function:
            yield written(function, function.node_def)

    write_signatures(
        signatures,
        [door.key for door in given],
        variables,
        saved,
        folder,
        functions=functions,
        label_map=label_map,
    )


def as_tensor(value: np.ndarray) -> tf.Tensor:
    """The same numbers in the same memory; a copy where that cannot be: tf.constant would make two."""
    try:
        return tf.experimental.dlpack.from_dlpack(value.__dlpack__())
    except (BufferError, TypeError, tf.errors.OpError):  # of types that only TensorFlow has, or memory that is fixed
        return tf.constant(value)


def _handle(parameter: Any) -> Handle:
    handle = tf.raw_ops.VarHandleOp(dtype=parameter.dtype, shape=parameter.shape, shared_name=ANONYMOUS, container="")
    return Handle(handle, parameter.dtype, tf.TensorShape(parameter.shape), trainable=parameter.dtype.is_floating)


def _name(graph: Unfrozen) -> str:
    name, taken = NETWORK, {function.signature.name for function in graph.graph.library.function}
    while name in taken:
        name += "_"
    return name


def _names(graph: Any, node: Any) -> Sequence[tuple[str, int]]:
    """The outputs of a node: of an operation, or of a function that is called as if it were one."""
    definition = op_def(node.op)
    if definition is None:
        definition = next(each.signature for each in graph.library.function if each.signature.name == node.op)
    return output_names(node, definition)


def _called(
    network: str, captured: Sequence[tf.Tensor], outputs: Mapping[str, tf.TensorSpec], *inputs: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The answer of the network to its inputs."""
    tensors = tf.raw_ops.StatefulPartitionedCall(
        args=[*inputs, *captured],
        Tout=[spec.dtype for spec in outputs.values()],
        f=attr_value_pb2.NameAttrList(name=network),
    )
    for tensor, spec in zip(tensors, outputs.values(), strict=True):
        tensor.set_shape(spec.shape)
    return dict(zip(outputs, tensors, strict=True))


def _signatures(given: Sequence[Door], detect: Callable[..., Any], input_types: Sequence[str]) -> dict[str, Any]:
    own = by_name(detect, [door.spec() for door in given])
    if not input_types:
        return {"serving_default": own}
    (door,) = given
    made = {name: own if name == door.input_type else _front(door, own, name) for name in input_types}
    return {"serving_default": made[input_types[0]], **made}


def _front(door: Door, own: Any, input_type: str) -> Any:
    """The signature of another input type, put in front of the one that takes pixels."""
    dtype, decode = INPUT_TYPES[input_type]
    if decode is None:
        spec = tf.TensorSpec(door.shape, dtype, name=door.key)
        return traced(lambda images: own(_pixels(images, door.dtype)), [spec])
    size = door.shape[1:3].as_list()
    picture = tf.TensorSpec([*size, 3], tf.uint8)

    def one(string: tf.Tensor) -> tf.Tensor:
        assert decode is not None
        pixels = decode(string)
        return pixels if size == [None, None] else _resized(pixels, size)

    def call(strings: tf.Tensor) -> Any:
        images = tf.map_fn(one, strings, fn_output_signature=picture, parallel_iterations=32)
        return own(_pixels(images, door.dtype))

    return traced(call, [tf.TensorSpec(door.shape[:1], tf.string, name=door.key)])


def _pixels(images: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Pictures as numbers of another kind; a float becomes the nearest of 0 to 255 where those are asked for."""
    if images.dtype == tf.float32 and dtype == tf.uint8:
        images = tf.saturate_cast(tf.round(images), tf.uint8)
    return tf.cast(images, dtype)


def _resized(pixels: tf.Tensor, size: Sequence[int | None]) -> tf.Tensor:
    """`[H, W, 3]` to the size that the graph insists on."""
    wanted = [tf.shape(pixels)[axis] if length is None else length for axis, length in enumerate(size)]
    resized = ops.resize(pixels[tf.newaxis], (wanted[0], wanted[1]), resize_method="BILINEAR")[0]
    return tf.ensure_shape(tf.saturate_cast(tf.round(resized), tf.uint8), [*size, 3])


def _named(frozen: FrozenGraph, serving: Any, names: Mapping[int, str]) -> Any:
    missing = {"detection_scores", "detection_classes", "num_detections"} - set(serving.structured_outputs)
    if missing:
        raise UnsupportedError(
            f"not supported yet: --label-map with {frozen.path}: it gives no {', '.join(sorted(missing))} to name"
        )
    return named(serving, names)
