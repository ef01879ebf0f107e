"""Reduces a graph, in place, to what its outputs need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unfreeze.errors import SavedModelError, UnsupportedError
from unfreeze.graphs.endpoints import Endpoints
from unfreeze.graphs.files import FrozenGraph
from unfreeze.graphs.operations import functions_called, producer, unused_name


def prune(frozen: FrozenGraph, endpoints: Endpoints) -> dict[str, str]:
    """Removes what the outputs do not need, and returns the placeholder of each input by signature key.

    An input that is not a placeholder becomes one, and what computed it is removed. Devices and colocation are removed
    too, since a graph that was frozen on a machine with a GPU has to run on one without.

    Raises:
        UnsupportedError: the outputs need a placeholder that is not among the inputs.
    """
    graph = frozen.graph
    inputs = {endpoint.tensor: key for key, endpoint in endpoints.inputs.items()}
    nodes = {node.name: node for node in graph.node}
    cut = {
        tensor: unused_name(f"input_{key}", nodes)
        for tensor, key in inputs.items()
        if not _is_placeholder(tensor, nodes)
    }
    placeholders = {producer(tensor) for tensor in inputs if tensor not in cut}
    needed = placeholders | _needed(
        frozen.path, nodes, [endpoint.tensor for endpoint in endpoints.outputs.values()], inputs
    )
    stray = [name for name in sorted(needed - placeholders) if nodes[name].op == "Placeholder"]
    if stray:
        raise UnsupportedError(
            f"{frozen.path}: the outputs also need the placeholder{'s' * (len(stray) > 1)} "
            f"{', '.join(stray[:5])}. Name each input with --graph-input NAME=TENSOR"
        )
    del nodes  # references keep removed nodes in memory
    _keep(graph.node, lambda node: node.name in needed)
    for node in graph.node:
        _strip(node)
        if cut:
            _reconnect(node, cut)
        if node.name in placeholders:
            _become_placeholder(node)
    for tensor, name in cut.items():
        endpoint = endpoints.inputs[inputs[tensor]]
        placeholder = graph.node.add(name=name, op="Placeholder")
        placeholder.attr["dtype"].type = endpoint.dtype.as_datatype_enum
        placeholder.attr["shape"].shape.CopyFrom(endpoint.shape.as_proto())
    _prune_functions(frozen)
    return {key: cut.get(tensor, producer(tensor)) for tensor, key in inputs.items()}


def _keep(messages: Any, is_kept: Callable[[Any], bool]) -> None:
    """Removes the messages for which `is_kept` is false, in place: a copy would be a second graph in memory."""
    end = len(messages)
    for position in range(len(messages) - 1, -2, -1):
        if position < 0 or is_kept(messages[position]):
            if position + 1 < end:
                del messages[position + 1 : end]
            end = position


def _is_placeholder(tensor: str, nodes: Mapping[str, Any]) -> bool:
    return nodes[producer(tensor)].op in ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


def _become_placeholder(node: Any) -> None:
    """Turns an input with a default into one without, so that what computes the default is not needed."""
    node.op = "Placeholder"
    node.ClearField("input")


def _needed(path: Path, nodes: Mapping[str, Any], outputs: Iterable[str], inputs: Mapping[str, str]) -> set[str]:
    """Returns the nodes that the outputs depend on, up to the inputs."""
    waiting = [producer(tensor) for tensor in outputs]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        if name not in nodes:
            raise SavedModelError(
                f"{path}: an incomplete graph: other nodes need the node {name}, which is missing; copy it again"
            )
        needed.add(name)
        for operand in nodes[name].input:
            if canonical(operand) not in inputs:
                waiting.append(producer(operand))
    return needed


def canonical(operand: str) -> str:
    """Returns `node` as `node:0`; `^node` and `node:1` stay."""
    return operand if operand.startswith("^") or ":" in operand else f"{operand}:0"


def _reconnect(node: Any, cut: Mapping[str, str]) -> None:
    for place, operand in enumerate(node.input):
        node.input[place] = cut.get(canonical(operand), operand)


def _strip(node: Any) -> None:
    """Removes the attributes that tie a node to a machine, to other nodes, or to the Python code that made it."""
    node.device = ""
    node.ClearField("experimental_debug_info")
    for name in ("_class", "_output_shapes", "_gradient_op_type", "_XlaCompile"):
        if name in node.attr:
            del node.attr[name]


def _prune_functions(frozen: FrozenGraph) -> None:
    """Keeps the functions that the nodes call, and those that these call."""
    functions = frozen.functions()
    if not functions:
        return
    waiting = [name for node in frozen.graph.node for name in (node.op, *functions_called(node))]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in needed or name not in functions:
            continue
        needed.add(name)
        waiting += [called for node in functions[name].node_def for called in (node.op, *functions_called(node))]
    del functions
    _keep(frozen.graph.library.function, lambda function: function.signature.name in needed)
    for function in frozen.graph.library.function:
        for node in function.node_def:
            _strip(node)
