"""Writes a graph with variables as one function, which signatures call; every loader accepts this form.

TensorFlow 1 loops and branches (Enter, Switch, Merge, …) stay as they are; the runtime executes them in a function
as it does in a graph.

Source: tensorflow/core/framework/function.proto, framework/graph_to_functiondef.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow.core.framework import function_pb2, node_def_pb2

from unfreeze import protobuf_wire as wire
from unfreeze.graphs.operations import unused_name, without_defaults

RESOURCE = 20  # DT_RESOURCE of types.proto
NODE_DEF = 3  # the field number in FunctionDef


@dataclass(frozen=True)
class WrittenFunction:
    """A serialized FunctionDef in pieces, and the operations of its nodes."""

    name: str
    pieces: Sequence[bytes]
    operations: frozenset[str]


def network_function(
    name: str,
    graph: Any,
    arguments: Sequence[str],
    outputs: Sequence[tuple[str, int]],
    output_names: Callable[[Any], Sequence[tuple[str, int]]],
) -> WrittenFunction:
    """Returns the function of a graph, serialized node by node: as a message it would be a second graph in memory.

    Args:
        arguments: the nodes that become its arguments, in order: placeholders, and handles of variables.
        outputs: its outputs, in order: the tensor (`node:0`) and its dtype.
        output_names: returns for each output of a node the name of its argument and the position in it.
    """
    function = function_pb2.FunctionDef()
    function.signature.name = name
    function.signature.is_stateful = True
    named = {node.name: node for node in graph.node}
    renamed = {node: _argument(function, named, node, position) for position, node in enumerate(arguments)}
    tensors = _Tensors(named, renamed, output_names)
    for position, (tensor, dtype) in enumerate(outputs):
        result = f"unfrozen_output_{position}"
        function.signature.output_arg.add(name=result, type=dtype)
        function.ret[result] = tensors.name_of(tensor)
    nodes = (node for node in graph.node if node.name not in renamed)
    return serialized_function(function, (_connected(node, tensors) for node in nodes))


def serialized_function(function: Any, nodes: Iterable[Any]) -> WrittenFunction:
    """Returns a serialized function with these nodes in the place of its own."""
    pieces, operations = [], set()
    for node in nodes:
        without_defaults(node)
        pieces += wire.nested(NODE_DEF, [node.SerializeToString(deterministic=True)])
        operations.add(node.op)
    function.ClearField("node_def")
    pieces.append(function.SerializeToString(deterministic=True))
    return WrittenFunction(function.signature.name, pieces, frozenset(operations))


def _connected(node: Any, tensors: _Tensors) -> Any:
    """Returns a copy of the node with the names that tensors have in a function."""
    copy = node_def_pb2.NodeDef()
    copy.CopyFrom(node)
    copy.ClearField("input")
    copy.input.extend(tensor for operand in node.input if (tensor := tensors.name_of(operand)))
    return copy


def _argument(function: Any, named: Mapping[str, Any], node: str, position: int) -> str:
    """Adds the argument that replaces a node; the argument of a handle has the dtype and shape of its variable."""
    name = unused_name(f"unfrozen_argument_{position}", named)
    dtype, shape = named[node].attr["dtype"].type, named[node].attr["shape"].shape
    if named[node].op == "VarHandleOp":
        argument = function.signature.input_arg.add(name=name, type=RESOURCE)
        argument.handle_data.add(dtype=dtype, shape=shape)
    else:
        function.signature.input_arg.add(name=name, type=dtype)
    return name


class _Tensors:
    """The names of a graph's tensors in a function: `node:argument:0` for `node:1`."""

    def __init__(
        self,
        named: Mapping[str, Any],
        renamed: Mapping[str, str],
        output_names: Callable[[Any], Sequence[tuple[str, int]]],
    ) -> None:
        self._named, self._renamed, self._output_names = named, renamed, output_names

    def name_of(self, operand: str) -> str:
        """Returns the name of a node's input in the function; empty for a control dependency on an argument."""
        if operand.startswith("^"):
            return "" if operand[1:] in self._renamed else operand
        name, _, number = operand.partition(":")
        if name in self._renamed:
            return self._renamed[name]
        argument, position = self._output_names(self._named[name])[int(number or 0)]
        return f"{name}:{argument}:{position}"
