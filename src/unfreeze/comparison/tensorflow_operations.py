"""Reads the operations of a frozen graph, or of a SavedModel whose weights are constants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.comparison.operation_graph import (
    Op,
    Operation,
    OperationGraph,
    from_hwcm,
    from_hwio,
    from_matrix,
    from_transposed_matrix,
)
from unfreeze.graphs import FrozenGraph
from unfreeze.graphs.operations import producer

OPS = {
    "Identity": Op.IDENTITY, "Enter": Op.IDENTITY, "Cast": Op.IDENTITY, "Add": Op.ADD, "AddV2": Op.ADD,
    "BiasAdd": Op.ADD, "Mul": Op.MULTIPLY, "Sub": Op.SUBTRACT, "RealDiv": Op.DIVIDE, "Rsqrt": Op.RSQRT,
    "Sqrt": Op.SQRT, "Reshape": Op.RESHAPE, "FusedBatchNorm": Op.NORM,
    "FusedBatchNormV2": Op.NORM, "FusedBatchNormV3": Op.NORM,
}  # fmt: skip
LAYERS = {"Conv2D": from_hwio, "DepthwiseConv2dNative": from_hwcm, "Conv2DBackpropInput": from_hwio}


def read_operations(graph: FrozenGraph) -> OperationGraph:
    """Returns the operations of a graph and of its functions; the names of tensors have the function in front."""
    operations: list[Operation] = []
    constants: dict[str, Callable[[], np.ndarray]] = {}
    names = {}
    for function in ("", *graph.functions()):
        for node in graph.nodes(function):
            output = f"{function}|{node.name}"
            if node.op == "Const":
                constants[output] = partial(_array, graph, function, node)
                names[output] = node.name
            else:
                inputs = [f"{function}|{_tensor(name)}" for name in node.input if not name.startswith("^")]
                operations.append(_operation(node, inputs, output))
    return OperationGraph(operations, constants, names)


def _operation(node: Any, inputs: list[str], output: str) -> Operation:
    if node.op in LAYERS:
        return Operation(Op.LAYER, inputs, [output], to_kernel=LAYERS[node.op])
    if node.op == "MatMul":
        to_kernel = from_transposed_matrix if node.attr["transpose_b"].b else from_matrix
        return Operation(Op.LAYER, inputs, [output], to_kernel=to_kernel)
    op = OPS.get(node.op, Op.OTHER)
    return Operation(op, inputs, [output], epsilon=node.attr["epsilon"].f if op is Op.NORM else 0.0)


def _array(graph: FrozenGraph, function: str, node: Any) -> np.ndarray:
    place = function, node.name
    if graph.emptied(place):
        return graph.tensor(place)
    array: np.ndarray = tf.make_ndarray(node.attr["value"].tensor)
    return array


def _tensor(name: str) -> str:
    """Returns the name of the node for its first output, and the name of the tensor for the others."""
    return producer(name) if name.rpartition(":")[2] in ("0", name) else name
