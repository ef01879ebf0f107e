"""A graph reduced to what its outputs need, in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unfreeze.errors import SavedModelError, UnsupportedError
from unfreeze.graphs.endpoints import Ends
from unfreeze.graphs.files import FrozenGraph
from unfreeze.graphs.operations import functions_called, producer


def prune(frozen: FrozenGraph, ends: Ends) -> dict[str, str]:
    """Reduce the graph, and tell for each input by its key the placeholder that takes it.

    Left are the nodes and functions that the outputs need when the inputs are given. An input that is no placeholder
    becomes one: what made it is left out. What says on which device a node is to run, and with which other it belongs,
    goes too: a frozen graph of a machine with a GPU has to run on one without.

    Raises: UnsupportedError when the outputs need a placeholder that is not among the inputs.
    """
    graph = frozen.graph
    inputs = {end.tensor: key for key, end in ends.inputs.items()}
    nodes = {node.name: node for node in graph.node}
    cut = {
        tensor: _fresh(f"input_{key}", nodes) for tensor, key in inputs.items() if not _is_placeholder(tensor, nodes)
    }
    given = {producer(tensor) for tensor in inputs if tensor not in cut}
    needed = given | _needed(frozen.path, nodes, [end.tensor for end in ends.outputs.values()], inputs)
    stray = [name for name in sorted(needed - given) if nodes[name].op == "Placeholder"]
    if stray:
        raise UnsupportedError(
            f"{frozen.path}: the outputs need {', '.join(stray[:5])} too, which nothing fills: "
            "give all inputs, --graph-input NAME=TENSOR once for each"
        )
    del nodes  # before they are taken out
    _keep(graph.node, lambda node: node.name in needed)
    for node in graph.node:
        plain(node)
        if cut:
            _reconnect(node, cut)
        if node.name in given:
            _become_placeholder(node)
    for tensor, name in cut.items():
        end = ends.inputs[inputs[tensor]]
        placeholder = graph.node.add(name=name, op="Placeholder")
        placeholder.attr["dtype"].type = end.dtype.as_datatype_enum
        placeholder.attr["shape"].shape.CopyFrom(end.shape.as_proto())
    _prune_functions(frozen)
    return {key: cut.get(tensor, producer(tensor)) for tensor, key in inputs.items()}


def _keep(messages: Any, wanted: Callable[[Any], bool]) -> None:
    """Take all others out: in place, since a second graph beside the first would be a second graph in memory."""
    end = len(messages)
    for place in range(len(messages) - 1, -2, -1):
        if place < 0 or wanted(messages[place]):
            if place + 1 < end:
                del messages[place + 1 : end]
            end = place


def _is_placeholder(tensor: str, nodes: Mapping[str, Any]) -> bool:
    return nodes[producer(tensor)].op in ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


def _become_placeholder(node: Any) -> None:
    """An input that has a default is one without, whose default nobody has to make."""
    node.op = "Placeholder"
    node.ClearField("input")


def _fresh(name: str, nodes: Mapping[str, Any]) -> str:
    while name in nodes:
        name += "_"
    return name


def _needed(path: Path, nodes: Mapping[str, Any], outputs: Iterable[str], inputs: Mapping[str, str]) -> set[str]:
    """The nodes from which a way leads to the outputs that does not go through an input."""
    waiting = [producer(tensor) for tensor in outputs]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        if name not in nodes:
            raise SavedModelError(f"{path}: not a whole graph: the node {name}, which others need, is missing")
        needed.add(name)
        for operand in nodes[name].input:
            if canonical(operand) not in inputs:
                waiting.append(producer(operand))
    return needed


def canonical(operand: str) -> str:
    """`node` as `node:0`; `^node` and `node:1` stay."""
    return operand if operand.startswith("^") or ":" in operand else f"{operand}:0"


def _reconnect(node: Any, cut: Mapping[str, str]) -> None:
    for place, operand in enumerate(node.input):
        node.input[place] = cut.get(canonical(operand), operand)


def plain(node: Any) -> None:
    """Take from a node what ties it to a machine, to other nodes, or to the Python that made it."""
    node.device = ""
    node.ClearField("experimental_debug_info")
    for name in ("_class", "_output_shapes", "_gradient_op_type", "_XlaCompile"):
        if name in node.attr:
            del node.attr[name]


def _prune_functions(frozen: FrozenGraph) -> None:
    """Leave the functions that the nodes call, and those which these call."""
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
        waiting += [each for node in functions[name].node_def for each in (node.op, *functions_called(node))]
    del functions
    _keep(frozen.graph.library.function, lambda function: function.signature.name in needed)
    for function in frozen.graph.library.function:
        for node in function.node_def:
            plain(node)
