"""Weights that are put into a graph when it is written: until then a node without their values stands in for each.

TensorFlow copies a graph each time it is traced, inlined or imported, and each copy contains the constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

STAND_IN = "_unfreeze_weight"  # the attribute with the name of the weight; TensorFlow keeps attributes with a "_"
LEAST_NUMBERS = 256  # smaller weights are constants at once
LARGEST_BYTES = 2**31 - 1  # of a protobuf message


def is_large(shape: Sequence[int]) -> bool:
    """Returns whether a weight of this shape gets a stand-in."""
    return math.prod(shape) >= LEAST_NUMBERS


def stand_in(name: str, shape: Sequence[int]) -> tf.Tensor:
    """Adds a float32 constant to the graph being built that stands in for a weight: NaN everywhere, stored once."""
    tensor = tf.constant(math.nan, tf.float32, shape)
    tensor.op._set_attr(STAND_IN, attr_value_pb2.AttrValue(s=name.encode()))
    return tensor


def write_graph(graph_def: Any, weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a GraphDef with the values of its stand-ins. Each is in memory while its node is written.

    Args:
        weights: the float32 values by name.

    Raises:
        KeyError: a stand-in for a weight that is not in `weights`.
        ValueError: the file would be larger than 2 GB, which protobuf cannot read.
    """
    message = type(graph_def)
    with path.open("wb") as file:
        for node in graph_def.node:  # messages of one kind, one after the other, are read as one message
            part = message(node=[node])
            _fill(part.node[0], weights)
            file.write(part.SerializeToString(deterministic=True))
        rest = message(library=graph_def.library, versions=graph_def.versions)
        for function in rest.library.function:
            for node in function.node_def:
                _fill(node, weights)
        file.write(rest.SerializeToString(deterministic=True))
        if file.tell() > LARGEST_BYTES:
            raise ValueError(f"the graph has {file.tell()} bytes, and a GraphDef has at most {LARGEST_BYTES}")


def _fill(node: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Puts the values of a weight into the node that stands in for it."""
    if STAND_IN not in node.attr:
        return
    values = weights[node.attr.pop(STAND_IN).s.decode()]
    tensor = node.attr["value"].tensor
    shape = tuple(size.size for size in tensor.tensor_shape.dim)
    if values.shape != shape or values.dtype != np.float32:
        raise ValueError(f"node {node.name} stands in for float32 {shape} (found: {values.dtype} {values.shape})")
    tensor.ClearField("float_val")
    tensor.tensor_content = values.tobytes()
