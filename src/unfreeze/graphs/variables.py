"""Turns the constants of a graph that were variables into variables; nothing else of the graph changes.

In the place of a constant, a node of the same name reads the variable, so that its consumers stay as they are. In a
function, the node returns an argument, which every caller passes. A variable that a loop uses is read outside of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow.core.framework import tensor_shape_pb2

from unfreeze.graphs.files import FrozenGraph, Place
from unfreeze.graphs.frames import Frame, frames
from unfreeze.graphs.operations import called_arguments, unused_name
from unfreeze.graphs.parameters import Parameter


@dataclass(frozen=True)
class GraphWithVariables:
    """A graph with a VarHandleOp for each variable; `handles` has the parameter by the node's name."""

    graph: Any
    handles: Mapping[str, Parameter]


def constants_to_variables(frozen: FrozenGraph, parameters: Sequence[Parameter]) -> GraphWithVariables:
    """Returns the graph with its parameters as variables, and with the values of its other constants.

    It is the graph of `frozen` itself, changed in place; `frozen.tensor` still returns the values of all constants.
    """
    graph = frozen.graph
    _fill(frozen, {parameter.place for parameter in parameters})
    taken = {node.name for node in graph.node}
    own = {p.place[1]: p for p in parameters if not p.place[0]}
    inner: dict[str, list[Parameter]] = {}
    for parameter in parameters:
        if parameter.place[0]:
            inner.setdefault(parameter.place[0], []).append(parameter)
    handles: dict[str, Parameter] = {}
    reads = _Reads(graph, taken, handles)
    _replace(graph.node, {name: reads.of(p, name) for name, p in own.items()}, taken)
    if inner:
        _pass_into_functions(graph, inner, reads)
    return GraphWithVariables(graph, handles)


class _Reads:
    """Adds nodes to the graph that read variables."""

    def __init__(self, graph: Any, taken: set[str], handles: dict[str, Parameter]) -> None:
        self._graph, self._taken, self._handles = graph, taken, handles

    def of(self, parameter: Parameter, name: str) -> _Source:
        """Returns a new handle of a parameter, which replaces the constant of that name."""
        handle = _take_name(f"{name}/handle", self._taken)
        node = self._graph.node.add(name=handle, op="VarHandleOp")
        node.attr["dtype"].type = parameter.dtype.as_datatype_enum
        node.attr["shape"].shape.CopyFrom(_shape(parameter))
        node.attr["shared_name"].s = parameter.name.encode()
        self._handles[handle] = parameter
        return _Source(handle, parameter.dtype.as_datatype_enum, reads=True)

    def value(self, parameter: Parameter) -> str:
        """Returns a new node that reads a parameter outside all loops."""
        name = _take_name(f"unfrozen/value_{len(self._handles)}", self._taken)
        source = self.of(parameter, name)
        _become(self._graph.node.add(name=name), source, [])
        return name


@dataclass(frozen=True)
class _Source:
    """The replacement of a constant: a handle that has to be read, or a tensor."""

    operand: str
    dtype: int
    reads: bool


def _replace(nodes: Any, sources: Mapping[str, _Source], taken: set[str]) -> None:
    """Replaces constants by nodes that read their sources, by name."""
    around = frames(nodes)
    named = {node.name: node for node in nodes}
    for name, source in sources.items():
        node = named[name]
        control = [operand for operand in node.input if operand.startswith("^")]
        frame = around.get(name, ())
        if frame:
            source = _inside(nodes, source, frame, [named[enter] for enter in frame], taken)
        node.ClearField("input")
        _become(node, source, control)


def _become(node: Any, source: _Source, control: Iterable[str]) -> None:
    """Turns a node into one that reads a source."""
    node.op = "ReadVariableOp" if source.reads else "Identity"
    node.input.extend([source.operand, *control])
    node.attr.clear()
    node.attr["dtype" if source.reads else "T"].type = source.dtype


def _inside(nodes: Any, source: _Source, frame: Frame, enters: Sequence[Any], taken: set[str]) -> _Source:
    """Returns the source, read outside all loops and passed into the loops of `frame` as a loop invariant."""
    if source.reads:
        name = _take_name(f"{source.operand}/value", taken)
        _become(nodes.add(name=name), source, [])
        source = _Source(name, source.dtype, reads=False)
    for enter in enters:
        name = _take_name(f"{source.operand.split(':')[0]}/enter", taken)
        node = nodes.add(name=name, op="Enter", input=[source.operand])
        node.attr["T"].type = source.dtype
        node.attr["frame_name"].s = enter.attr["frame_name"].s
        node.attr["is_constant"].b = True
        if "parallel_iterations" in enter.attr:
            node.attr["parallel_iterations"].i = enter.attr["parallel_iterations"].i
        source = _Source(name, source.dtype, reads=False)
    return source


def _pass_into_functions(graph: Any, inner: Mapping[str, Sequence[Parameter]], reads: _Reads) -> None:
    """Passes parameters that are used inside functions as arguments, from the graph down through all calls."""
    functions = {function.signature.name: function for function in graph.library.function}
    needed = _needed(graph, functions, inner)
    arguments = {name: {p.place: f"unfrozen_{i}" for i, p in enumerate(added)} for name, added in needed.items()}
    for name, added in needed.items():
        _add_arguments(functions[name], [(arguments[name][p.place], p) for p in added])
        taken = {node.name for node in functions[name].node_def} | set(arguments[name].values())
        sources = {
            p.place[1]: _Source(arguments[name][p.place], p.dtype.as_datatype_enum, reads=False)
            for p in inner.get(name, ())
        }
        _replace_in_function(functions[name].node_def, sources, taken)
        _pass_on(functions[name].node_def, functions, needed, arguments[name])
        _return_from_loops(graph, functions, name, arguments[name])
    called = {p.place: p for node in graph.node for name in _called(node, functions) for p in needed.get(name, ())}
    values = {place: reads.value(parameter) for place, parameter in called.items()}
    _pass_on(graph.node, functions, needed, values)


def _needed(
    graph: Any, functions: Mapping[str, Any], inner: Mapping[str, Sequence[Parameter]]
) -> dict[str, list[Parameter]]:
    """Returns the parameters that each function needs: its own, and those of the functions that it calls.

    Functions that one node calls, such as the branches of an If, get the same parameters.
    """
    needed: dict[str, dict[Any, Parameter]] = {name: {p.place: p for p in own} for name, own in inner.items()}
    everywhere = [*graph.node, *(node for function in functions.values() for node in function.node_def)]
    groups = [_called(node, functions) for node in everywhere]
    calls = [(name, _called(node, functions)) for name, function in functions.items() for node in function.node_def]
    changed = True
    while changed:
        before = sum(map(len, needed.values()))
        for group in groups:
            everything = {place: p for name in group for place, p in needed.get(name, {}).items()}
            for name in group if everything else ():
                needed.setdefault(name, {}).update(everything)
        for caller, called in calls:
            for name in called:
                if needed.get(name):
                    needed.setdefault(caller, {}).update(needed[name])
        changed = sum(map(len, needed.values())) > before
    return {name: [by_place[place] for place in sorted(by_place)] for name, by_place in needed.items()}


def _called(node: Any, functions: Mapping[str, Any]) -> list[str]:
    return [name for name, _ in called_arguments(node, tuple(functions))]


def _add_arguments(function: Any, arguments: Sequence[tuple[str, Parameter]]) -> None:
    function.attr.pop("_input_shapes", None)  # describes the former arguments only; shapes are inferred without it
    for name, parameter in arguments:
        function.signature.input_arg.add(name=name, type=parameter.dtype.as_datatype_enum)
        shape = function.arg_attr[len(function.signature.input_arg) - 1].attr["_output_shapes"].list.shape.add()
        shape.CopyFrom(_shape(parameter))


def _replace_in_function(nodes: Any, sources: Mapping[str, _Source], taken: set[str]) -> None:
    _replace(nodes, sources, taken)
    for node in nodes:  # a constant's output is called `output`, as that of Identity is
        if node.op == "Enter" and node.input[0].endswith("/enter"):
            node.input[0] += ":output:0"
        if node.name in sources and "/enter" in node.input[0]:
            node.input[0] += ":output:0"


def _pass_on(
    nodes: Any, functions: Mapping[str, Any], needed: Mapping[str, Sequence[Parameter]], values: Mapping[Any, str]
) -> None:
    """Adds the parameters that a function needs to the arguments of its calls, after the existing arguments."""
    for node in nodes:
        passed = next((needed[name] for name in _called(node, functions) if needed.get(name)), None)
        if not passed:
            continue
        control = [operand for operand in node.input if operand.startswith("^")]
        operands = [operand for operand in node.input if not operand.startswith("^")]
        operands += [values[parameter.place] for parameter in passed]
        node.ClearField("input")
        node.input.extend([*operands, *control])
        types = [parameter.dtype.as_datatype_enum for parameter in passed]
        if node.op in ("While", "StatelessWhile"):
            node.attr["T"].list.type.extend(types)
            shapes = node.attr["output_shapes"].list.shape
            if shapes:
                shapes.extend(_shape(parameter) for parameter in passed)
        elif "Tin" in node.attr:
            node.attr["Tin"].list.type.extend(types)


def _return_from_loops(graph: Any, functions: Mapping[str, Any], name: str, arguments: Mapping[Any, str]) -> None:
    """Makes the body of a loop return the new arguments, as a loop requires."""
    everywhere = [*graph.node, *(node for function in functions.values() for node in function.node_def)]
    bodies = {node.attr["body"].func.name for node in everywhere if node.op in ("While", "StatelessWhile")}
    if name not in bodies:
        return
    function = functions[name]
    types = {argument.name: argument.type for argument in function.signature.input_arg}
    for argument in arguments.values():
        function.signature.output_arg.add(name=f"{argument}_out", type=types[argument])
        function.ret[f"{argument}_out"] = argument


def _fill(frozen: FrozenGraph, parameters: set[Place]) -> None:
    """Reads the values of large constants that stay constants into the graph."""
    for function in ("", *frozen.functions()):
        for node in frozen.nodes(function):
            place = (function, node.name)
            if node.op == "Const" and place not in parameters and frozen.emptied(place):
                node.attr["value"].tensor.CopyFrom(frozen.proto(place))


def _shape(parameter: Parameter) -> Any:
    sizes = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in parameter.shape]
    return tensor_shape_pb2.TensorShapeProto(dim=sizes)


def _take_name(name: str, taken: set[str]) -> str:
    """Returns an unused name like `name`, which is taken from now on."""
    name = unused_name(name, taken)
    taken.add(name)
    return name
