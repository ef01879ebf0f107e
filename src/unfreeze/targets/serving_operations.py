"""Whether a runtime knows every operation and attribute of a SavedModel.

The data is made by scripts/op_registries from the libraries in TensorFlow's wheels.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import SavedModelError

# The fields of an AttrValue -> the type of an attribute that has it.
_TYPES = {"s": "string", "i": "int", "f": "float", "b": "bool", "type": "type", "shape": "shape", "tensor": "tensor"}
_TYPES |= {"func": "func"}


def tensorflow_versions() -> list[str]:
    """The TensorFlow versions of which the operations are known, the oldest first."""
    return list(_data()["tensorflows"])


def unknown_operations(saved_model: Path, tensorflow: str) -> list[str]:
    """What of a SavedModel a TensorFlow does not know, a line each: operation, attribute or value, and since when.

    The main graph and every function are looked at, called or not, for a loader reads them all.
    """
    at = tensorflow_versions().index(tensorflow)
    found: dict[str, None] = {}  # in order, each once
    for node, functions in _nodes(saved_model):
        if node.op in functions or node.op.startswith("_"):
            continue  # names with "_" are the runtime's own
        found.update(dict.fromkeys(_misfits(node, at)))
    return list(found)


def _misfits(node: Any, at: int) -> Iterator[str]:
    known = _known(node.op, at)
    if known is None:
        yield f"{node.op}: not known; {_since(node.op, lambda later: True)}"
        return
    inputs = sum(not name.startswith("^") for name in node.input)
    expected = _inputs(known, node)
    if expected is not None and inputs != expected:
        fits = _since(node.op, lambda later: _inputs(later, node) == inputs)
        yield f"{node.op}: takes {expected} inputs, not {inputs}; {fits}"
    for name, attribute in known["attributes"].items():
        if name not in node.attr and not attribute.get("optional"):
            yield f"{node.op}: attribute {name} is needed there, and is not given; {_since(node.op, _optional(name))}"
    for name, value in sorted(node.attr.items()):
        if not name.startswith("_"):
            yield from _attribute_misfits(node.op, name, value, known["attributes"].get(name))


def _attribute_misfits(op: str, name: str, value: Any, attribute: Mapping[str, Any] | None) -> Iterator[str]:
    """What a runtime's attribute does not take of a value."""
    if attribute is None:
        yield f"{op}: attribute {name} is not known; {_since(op, lambda later: name in later['attributes'])}"
        return
    kind, wanted = _kind(value), attribute["type"]
    if kind is not None and kind != wanted and not (kind == "list" and wanted.startswith("list(")):
        since = _since(op, lambda later: later["attributes"].get(name, {}).get("type") == kind)
        yield f"{op}: attribute {name} is of type {kind}, not {wanted}; {since}"
        return
    allowed = attribute.get("allowed") or _values(value)
    for each in sorted(_values(value) - set(allowed)):
        yield f"{op}: attribute {name} may not be {each}; {_since(op, partial(_allows, name, each))}"


def _allows(name: str, value: str, known: Mapping[str, Any]) -> bool:
    attribute = known["attributes"].get(name)
    return attribute is not None and value in (attribute.get("allowed") or [value])


def _optional(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda known: bool(known["attributes"].get(name, {"optional": True}).get("optional"))


def _kind(value: Any) -> str | None:
    """The type of an attribute that has such a value; None where it is left to the caller of the function."""
    kind = value.WhichOneof("value")
    return None if kind in (None, "placeholder") else "list" if kind == "list" else _TYPES[kind]


def _values(value: Any) -> set[str]:
    """The data types or strings in an attribute, as the allowed ones are written."""
    held = value.list if value.WhichOneof("value") == "list" else None
    types = list(held.type) if held is not None else [value.type] if value.WhichOneof("value") == "type" else []
    strings = list(held.s) if held is not None else [value.s] if value.WhichOneof("value") == "s" else []
    return {tf.as_dtype(each).name for each in types} | {each.decode("utf-8", "replace") for each in strings}


def _inputs(known: Mapping[str, Any], node: Any) -> int | None:
    """How many inputs an operation takes with a node's attributes, None where they do not say."""
    total = 0
    for counted in known["inputs"]:
        if not counted:
            total += 1
            continue
        if counted not in node.attr:
            return None
        value = node.attr[counted]
        total += len(value.list.type) if value.WhichOneof("value") == "list" else value.i
    return total


def _since(op: str, fits: Callable[[Mapping[str, Any]], bool]) -> str:
    """The first version that has what is missing."""
    for number, version in enumerate(tensorflow_versions()):
        known = _known(op, number)
        if known is not None and fits(known):
            return f"TensorFlow {version} is the first that has it"
    return f"no TensorFlow up to {tensorflow_versions()[-1]} has it"


def _known(op: str, at: int) -> Mapping[str, Any] | None:
    """An operation as a version has it."""
    known = None
    for since, described in _data()["operations"].get(op, ()):
        if since > at:
            break
        known = described
    return known


def _nodes(saved_model: Path) -> Iterator[tuple[Any, set[str]]]:
    """Every node of every graph and function, with the names of the functions beside it."""
    path = saved_model / "saved_model.pb"
    try:
        message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise SavedModelError(f"{path}: cannot be read: {error}; export it again") from None
    for meta_graph in message.meta_graphs:
        functions = meta_graph.graph_def.library.function
        names = {function.signature.name for function in functions}
        bodies: Sequence[Any] = [meta_graph.graph_def.node, *(function.node_def for function in functions)]
        for body in bodies:
            for node in body:
                yield node, names


@cache
def _data() -> dict[str, Any]:
    compressed = (files("unfreeze.targets") / "data" / "operations.json.gz").read_bytes()
    data: dict[str, Any] = json.loads(gzip.decompress(compressed))
    return data
