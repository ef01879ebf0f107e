"""Finds the operations and attributes of a SavedModel that the TensorFlow of a server does not know.

scripts/op_registries makes data/operations.json.gz from the libraries in TensorFlow's wheels.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypedDict

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import SavedModelError

# Field of an AttrValue -> the type of the attribute in an operation's definition.
_ATTRIBUTE_TYPES = {
    "s": "string",
    "i": "int",
    "f": "float",
    "b": "bool",
    "type": "type",
    "shape": "shape",
    "tensor": "tensor",
    "func": "func",
}


class _Attribute(TypedDict, total=False):
    """An attribute of an operation: its type, whether it has a default, the values it may have, and its minimum."""

    type: str
    optional: int
    allowed: list[str]
    minimum: int


class _Operation(TypedDict):
    """An operation: for each input "" or the attribute that says how many tensors it is, and the attributes."""

    inputs: list[str]
    attributes: dict[str, _Attribute]


class _Registry(TypedDict):
    """data/operations.json.gz: the changes of each operation, as [index of the TensorFlow version, definition]."""

    tensorflows: list[str]
    operations: dict[str, list[tuple[int, _Operation | None]]]


def tensorflow_versions() -> list[str]:
    """Returns the TensorFlow versions whose operations are known, the oldest first."""
    return list(_registry()["tensorflows"])


def unknown_operations(saved_model: Path, tensorflow: str) -> list[str]:
    """Returns a line for each operation, attribute and value of a SavedModel that a TensorFlow version does not know.

    Checks the main graph and every function, called or not, since a loader reads them all.
    """
    version = tensorflow_versions().index(tensorflow)
    problems: dict[str, None] = {}  # a dict keeps the order and drops repetitions
    for node, functions in _nodes(saved_model):
        if node.op in functions or node.op.startswith("_"):
            continue  # names with "_" are internal to TensorFlow
        problems.update(dict.fromkeys(_node_problems(node, version)))
    return list(problems)


def _node_problems(node: Any, version: int) -> Iterator[str]:
    operation = _operation(node.op, version)
    if operation is None:
        yield f"{node.op}: not known; {_first_version(node.op, lambda later: True)}"
        return
    inputs = sum(not name.startswith("^") for name in node.input)
    expected = _input_count(operation, node)
    if expected is not None and inputs != expected:
        since = _first_version(node.op, lambda later: _input_count(later, node) == inputs)
        yield f"{node.op}: expects {expected} inputs, but has {inputs}; {since}"
    for name, attribute in operation["attributes"].items():
        if name not in node.attr and not attribute.get("optional"):
            yield f"{node.op}: attribute {name} is required, but missing; {_first_version(node.op, _is_optional(name))}"
    for name, value in sorted(node.attr.items()):
        if not name.startswith("_"):
            yield from _attribute_problems(node.op, name, value, operation["attributes"].get(name))


def _attribute_problems(op: str, name: str, value: Any, attribute: _Attribute | None) -> Iterator[str]:
    if attribute is None:
        yield f"{op}: attribute {name} is not known; {_first_version(op, lambda later: name in later['attributes'])}"
        return
    actual, expected = _type_of(value), attribute["type"]
    if actual is not None and actual != expected and not (actual == "list" and expected.startswith("list(")):
        since = _first_version(op, lambda later: later["attributes"].get(name, {}).get("type") == actual)
        yield f"{op}: attribute {name} is of type {actual}, expected {expected}; {since}"
        return
    allowed = attribute.get("allowed") or _values(value)
    for item in sorted(_values(value) - set(allowed)):
        yield f"{op}: attribute {name} may not be {item}; {_first_version(op, _allows(name, item))}"


def _allows(name: str, value: str) -> Callable[[_Operation], bool]:
    def allows(operation: _Operation) -> bool:
        attribute = operation["attributes"].get(name)
        return attribute is not None and value in (attribute.get("allowed") or [value])

    return allows


def _is_optional(name: str) -> Callable[[_Operation], bool]:
    """Returns whether a definition of an operation has no such attribute, or has a default for it."""
    return lambda operation: bool(operation["attributes"].get(name, {"optional": 1}).get("optional"))


def _type_of(value: Any) -> str | None:
    """Returns the type of an attribute with this value; None if the caller of a function sets it."""
    kind = value.WhichOneof("value")
    return None if kind in (None, "placeholder") else "list" if kind == "list" else _ATTRIBUTE_TYPES[kind]


def _values(value: Any) -> set[str]:
    """Returns the data types and strings in an attribute, spelled as the allowed values are."""
    kind = value.WhichOneof("value")
    types = value.list.type if kind == "list" else [value.type] if kind == "type" else []
    strings = value.list.s if kind == "list" else [value.s] if kind == "s" else []
    return {tf.as_dtype(number).name for number in types} | {text.decode("utf-8", "replace") for text in strings}


def _input_count(operation: _Operation, node: Any) -> int | None:
    """Returns how many inputs an operation expects with the attributes of a node; None if they do not say."""
    total = 0
    for attribute in operation["inputs"]:
        if not attribute:
            total += 1
            continue
        if attribute not in node.attr:
            return None
        value = node.attr[attribute]
        total += len(value.list.type) if value.WhichOneof("value") == "list" else value.i
    return total


def _first_version(op: str, fits: Callable[[_Operation], bool]) -> str:
    """Returns which TensorFlow version is the first whose definition of an operation fits."""
    for index, version in enumerate(tensorflow_versions()):
        operation = _operation(op, index)
        if operation is not None and fits(operation):
            return f"TensorFlow {version} is the first that has it"
    return f"no TensorFlow up to {tensorflow_versions()[-1]} has it"


def _operation(op: str, version: int) -> _Operation | None:
    """Returns the definition of an operation in a TensorFlow version; None if it has no such operation."""
    definition = None
    for since, changed in _registry()["operations"].get(op, ()):
        if since > version:
            break
        definition = changed
    return definition


def _nodes(saved_model: Path) -> Iterator[tuple[Any, set[str]]]:
    """Yields each node of each graph and function, with the names of the functions that are defined beside it."""
    path = saved_model / "saved_model.pb"
    try:
        message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise SavedModelError(f"{path}: cannot be read ({error}). Export the model again.") from None
    for meta_graph in message.meta_graphs:
        functions = meta_graph.graph_def.library.function
        names = {function.signature.name for function in functions}
        bodies: Sequence[Any] = [meta_graph.graph_def.node, *(function.node_def for function in functions)]
        for body in bodies:
            for node in body:
                yield node, names


@cache
def _registry() -> _Registry:
    compressed = (files("unfreeze.targets") / "data" / "operations.json.gz").read_bytes()
    registry: _Registry = json.loads(gzip.decompress(compressed))
    return registry
