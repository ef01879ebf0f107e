"""Finds the constants of a graph that were variables.

A graph that was only frozen shows them by name: the freezing of TensorFlow 1 leaves `NAME` with `NAME/read` behind it,
that of TensorFlow 2 leaves `…/ReadVariableOp/resource`. In a graph that was optimized or converted, weights are found
by their use: each constant is followed through casts, transpositions and arithmetic with other constants to the
operations that combine it with something that depends on the input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from unfreeze.graphs.consumers import ARITHMETIC, FORMS, KEEPS_CHANNELS, LINEAR, MOVES, VALUES, weight_role
from unfreeze.graphs.files import FrozenGraph, Place
from unfreeze.graphs.operations import called_arguments, functions_called, op_def, producer, unused_name

READ = "/read"
RESOURCE = re.compile(r"/(resource|ReadVariableOp(_\d+)?/resource)$")
LARGE_ELEMENTS = 1024  # an operand of arithmetic with at least so many is a parameter, unless it has the shape of boxes
SUMS = ("bias", "filter", "operand")  # roles that integers can have in a layer
BOX_SIZES = (2, 4)  # the last dimension of centers, sizes and boxes


@dataclass(frozen=True)
class Parameter:
    """A constant that becomes the variable `name`, and why."""

    name: str
    place: Place
    shape: tuple[int, ...]
    dtype: tf.DType
    reason: str

    @property
    def size_bytes(self) -> int:
        """Returns the size of the value in memory."""
        return math.prod(self.shape) * int(self.dtype.size)


@dataclass(frozen=True)
class Constant:
    """A constant that stays one, and why."""

    place: Place
    shape: tuple[int, ...]
    dtype: tf.DType
    reason: str

    @property
    def size_bytes(self) -> int:
        """Returns the size of the value in memory."""
        return math.prod(self.shape) * max(int(self.dtype.size), 1)


@dataclass(frozen=True)
class Parameters:
    """All constants of a graph: those that become variables, and those that stay constants."""

    variables: Sequence[Parameter]
    constants: Sequence[Constant]


@dataclass(frozen=True)
class _Use:
    """A use of a tensor: the input at `position` of a node, in a function or in the graph itself."""

    function: str
    node: Any
    position: int


def find_parameters(frozen: FrozenGraph, names: Mapping[str, tuple[int, ...]] | None = None) -> Parameters:
    """Returns which constants of the graph and its functions are parameters.

    Args:
        names: the variables of the checkpoint that the graph was frozen from, with their shapes. If passed, these
            constants are parameters, and no others.
    """
    flow = _Flow(frozen)
    variables: list[Parameter] = []
    constants: list[Constant] = []
    for place, node in flow.constants():
        tensor = node.attr["value"].tensor
        dtype, shape = tf.as_dtype(tensor.dtype), tuple(size.size for size in tensor.tensor_shape.dim)
        if names is not None:
            reason, why_not = _by_name(flow, place, shape, names)
        else:
            reason, why_not = _by_use(flow, place, dtype, shape)
        if reason:
            variables.append(Parameter(_variable_name(flow, place), place, shape, dtype, reason))
        else:
            constants.append(Constant(place, shape, dtype, why_not))
    return Parameters(_distinct(variables), constants)


def marked_name(flow: _Flow, place: Place) -> str:
    """Returns the name of the variable that a constant was, if freezing left it; else an empty string."""
    name = place[1]
    for use in flow.uses(place):
        if use.node.op == "Identity" and use.node.name == name + READ:
            return name
    if RESOURCE.search(name):
        return RESOURCE.sub("", name) if name.endswith("/resource") and "ReadVariableOp" not in name else name
    return ""


def _by_name(
    flow: _Flow, place: Place, shape: tuple[int, ...], names: Mapping[str, tuple[int, ...]]
) -> tuple[str, str]:
    name = _variable_name(flow, place)
    if names.get(name) == shape:
        return "the checkpoint has a variable of this name and shape", ""
    marked = marked_name(flow, place)
    if marked and (not place[0]):
        return "frozen variable", ""
    return "", "the checkpoint has no variable of this name"


def _by_use(flow: _Flow, place: Place, dtype: tf.DType, shape: tuple[int, ...]) -> tuple[str, str]:
    """Returns why a constant is a parameter, or else why it is not."""
    if not flow.can_pass_variables(place[0]):
        return "", "in a function that is called in a way that cannot pass a variable to it"
    if marked_name(flow, place):
        return "frozen variable", ""
    if dtype.is_floating or dtype.is_quantized or dtype.is_complex or dtype in (tf.int8, tf.uint8):
        return flow.verdict(place, shape)
    reason = flow.integer_verdict(place, shape) if dtype.is_integer else ""
    return (reason, "") if reason else ("", f"{dtype.name}: a shape, an axis, an index or a choice")


def _variable_name(flow: _Flow, place: Place) -> str:
    name = marked_name(flow, place)
    if name:
        return RESOURCE.sub(lambda match: match[0].removesuffix("/resource"), name)
    read = flow.read_name(place)
    return read or place[1]


def _distinct(parameters: Iterable[Parameter]) -> list[Parameter]:
    """Returns the parameters with distinct names: a name that is taken gets its function in front."""
    taken: set[str] = set()
    distinct = []
    for parameter in parameters:
        name = parameter.name
        if name in taken:
            name = "/".join(part for part in parameter.place if part)
        name = unused_name(name, taken)
        taken.add(name)
        distinct.append(replace(parameter, name=name))
    return distinct


class _Flow:
    """The data flow of a graph: where the values of constants go, from node to node and into functions."""

    def __init__(self, frozen: FrozenGraph) -> None:
        self._functions = frozen.functions()
        self._bodies: dict[str, dict[str, Any]] = {"": {node.name: node for node in frozen.nodes()}}
        for name, function in self._functions.items():
            self._bodies[name] = {node.name: node for node in function.node_def}
        self._uses: dict[Place, list[_Use]] = {}
        for function, nodes in self._bodies.items():
            for node in nodes.values():
                for position, operand in enumerate(node.input):
                    if not operand.startswith("^"):
                        self._uses.setdefault((function, producer(operand)), []).append(_Use(function, node, position))
        self._opaque = self._opaquely_called()
        self._dynamic = self._dependent()

    def constants(self) -> Iterator[tuple[Place, Any]]:
        """Yields every constant with its place."""
        for function, nodes in self._bodies.items():
            for node in nodes.values():
                if node.op == "Const":
                    yield (function, node.name), node

    def uses(self, place: Place) -> Sequence[_Use]:
        """Returns the inputs that a node's outputs go to."""
        return self._uses.get(place, ())

    def can_pass_variables(self, function: str) -> bool:
        """Returns whether every call of the function can pass one more argument."""
        return function not in self._opaque

    def read_name(self, place: Place) -> str:
        """Returns the name of the node that read the variable in TensorFlow 2, `…/ReadVariableOp`; empty if none."""
        for use in self._reachable_uses(place):
            if use.node.op == "Identity" and re.search(r"/ReadVariableOp(_\d+)?$", use.node.name):
                return str(use.node.name)
        return ""

    def verdict(self, place: Place, shape: tuple[int, ...]) -> tuple[str, str]:
        """Returns why a constant of floats or bytes is a parameter, or else why it is not."""
        why_not = "nothing uses it"
        single = math.prod(shape) == 1
        for use in self._reachable_uses(place, through_arithmetic=not single):
            reason, objection = self._judge(use, shape)
            if reason:
                return reason, ""
            why_not = objection or why_not
        return "", why_not

    def integer_verdict(self, place: Place, shape: tuple[int, ...]) -> str:
        """Returns why a constant of wide integers is a parameter: a bias of an integer layer, or packed weights."""
        if math.prod(shape) < 2:
            return ""
        for use in self._reachable_uses(place, only_values=True):
            role = weight_role(use.node.op, use.position)
            if role in SUMS or (role == "parameter" and LINEAR.fullmatch(use.node.op)):
                return f"{role} of {use.node.op} {use.node.name}"
            adds = use.node.op in ARITHMETIC and self.depends(use.function, use.node.name)
            if adds and len(_wide(shape)) == 1 and self._follows_layer(use):
                return f"number per channel of {use.node.op} {use.node.name}"
        return ""

    def _judge(self, use: _Use, shape: tuple[int, ...]) -> tuple[str, str]:
        """Returns why a use makes a constant a parameter, or why not; empty strings if it only moves the value."""
        node, boxes = use.node, bool(shape) and shape[-1] in BOX_SIZES and len(_wide(shape)) > 1
        role = weight_role(node.op, use.position)
        if role == "table":  # rows of boxes are gathered too, and lists of numbers
            learned = len(_wide(shape)) > 1 and not boxes
            return (f"table of {node.op} {node.name}", "") if learned else ("", f"numbers that {node.op} selects from")
        if role:
            return f"{role} of {node.op} {node.name}", ""
        if not self.depends(use.function, node.name):
            return "", f"one number of {node.op} {node.name}" if math.prod(shape) == 1 else ""
        if node.op in FORMS:
            return "", "only its shape is used"
        if MOVES.fullmatch(node.op) and use.position == 0:
            return "", ""
        count = math.prod(shape)
        if count < 2:
            return "", f"one number of {node.op} {node.name}"
        if node.op in ARITHMETIC and len(_wide(shape)) == 1:
            if self._follows_layer(use):
                return f"number per channel of {node.op} {node.name}", ""
            return "", f"numbers of {node.op} {node.name}, which is not applied to the channels of a layer"
        if boxes:
            return "", f"boxes or points of {node.op} {node.name}"
        if count >= LARGE_ELEMENTS and len(_wide(shape)) > 1:
            return f"{count} numbers of {node.op} {node.name}", ""
        return "", f"few numbers of {node.op} {node.name}"

    def _reachable_uses(
        self, place: Place, *, through_arithmetic: bool = True, only_values: bool = False
    ) -> Iterator[_Use]:
        """Yields every use of a constant, of what is computed from it alone, and inside functions that it is passed to.

        With `through_arithmetic`, the result of arithmetic with other constants counts as computed from it: a weight
        times a constant is a weight, but a single number, such as an epsilon, is not followed. With `only_values`, a
        use of integers as a shape or as indices is not followed.
        """
        waiting, seen = [place], {place}
        while waiting:
            for use in self.uses(waiting.pop(0)):
                yield use
                if only_values and not self._passes_values_on(use):
                    continue
                for following in self._next_places(use, through_arithmetic):
                    if following not in seen:
                        seen.add(following)
                        waiting.append(following)

    def _passes_values_on(self, use: _Use) -> bool:
        op = use.node.op
        moved = use.position == 0 and MOVES.fullmatch(op)
        return bool(moved or VALUES.fullmatch(op) or called_arguments(use.node, tuple(self._functions)))

    def _next_places(self, use: _Use, through_arithmetic: bool) -> Iterator[Place]:
        """Yields the places where a value goes on from a use."""
        calls = called_arguments(use.node, tuple(self._functions))
        for function, first in calls:
            arguments = self._functions[function].signature.input_arg
            if 0 <= use.position - first < len(arguments):
                yield function, arguments[use.position - first].name
        if calls or use.node.op in FORMS or weight_role(use.node.op, use.position):
            return
        moved = MOVES.fullmatch(use.node.op) and use.position == 0
        if moved or (through_arithmetic and not self.depends(use.function, use.node.name)):
            yield use.function, use.node.name

    def depends(self, function: str, name: str) -> bool:
        """Returns whether a node depends on an input of the graph or on state."""
        return (function, name) in self._dynamic

    def _dependent(self) -> set[Place]:
        """Returns the nodes that depend on placeholders or on state, in functions through their arguments too."""
        dynamic: set[Place] = set()
        waiting = [
            (function, node.name)
            for function, nodes in self._bodies.items()
            for node in nodes.values()
            if node.op.startswith("Placeholder") or _has_state(node, self._functions)
        ]
        for function in self._opaque:
            waiting += [(function, argument.name) for argument in self._functions[function].signature.input_arg]
        while waiting:
            place = waiting.pop()
            if place in dynamic:
                continue
            dynamic.add(place)
            for use in self.uses(place):
                waiting.append((use.function, use.node.name))
                for function, first in called_arguments(use.node, tuple(self._functions)):
                    arguments = self._functions[function].signature.input_arg
                    if 0 <= use.position - first < len(arguments):
                        waiting.append((function, arguments[use.position - first].name))
        return dynamic

    def _opaquely_called(self) -> set[str]:
        """Returns the functions that are called without passing inputs as arguments, and those that these call."""
        waiting = []
        for nodes in self._bodies.values() if self._functions else ():
            for node in nodes.values():
                handed = {name for name, _ in called_arguments(node, tuple(self._functions))}
                waiting += [name for name in functions_called(node) if name not in handed]
        opaque: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in opaque or name not in self._functions:
                continue
            opaque.add(name)
            for node in self._bodies[name].values():
                waiting += functions_called(node)
        return opaque

    def _follows_layer(self, use: _Use) -> bool:
        """Returns whether an arithmetic operation combines a constant with the channels of a layer's output."""
        waiting = [
            (use.function, producer(operand))
            for position, operand in enumerate(use.node.input)
            if position != use.position and not operand.startswith("^")
        ]
        seen: set[Place] = set()
        while waiting:
            place = waiting.pop()
            node = self._bodies[place[0]].get(place[1])
            if place in seen or node is None:
                continue
            seen.add(place)
            if LINEAR.fullmatch(node.op):
                return True
            if KEEPS_CHANNELS.fullmatch(node.op):
                waiting += [(place[0], producer(operand)) for operand in node.input if not operand.startswith("^")]
        return False


def _wide(shape: Collection[int]) -> list[int]:
    """Returns the dimensions above one."""
    return [size for size in shape if size > 1]


def _has_state(node: Any, functions: Collection[str]) -> bool:
    if node.op in functions or node.op in ("If", "While", "Case", "StatefulPartitionedCall"):
        return False
    definition = op_def(node.op)
    return bool(definition is not None and definition.is_stateful)
