"""Reads a frozen graph from its file: a GraphDef (.pb), or a SavedModel whose weights are constants.

`read_frozen_graph` leaves large constants in the file, so that the weights are never in memory all at once: the node
keeps dtype and shape, and `FrozenGraph.tensor` reads the value. The file is mapped, and only the pages that are read
come into memory. `read_graph_def` returns the complete GraphDef, for code that runs the graph.

Source of the field numbers: tensorflow/core/protobuf/{saved_model,meta_graph}.proto,
tensorflow/core/framework/{graph,function}.proto.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2, tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from unfreeze import protobuf_wire as wire
from unfreeze.errors import SavedModelError, UnfreezeError, UnsupportedError
from unfreeze.file_kinds import TEXT_GRAPH, TFLITE, kind_of_file
from unfreeze.formatting import first_line

SAVED_MODEL = "saved_model.pb"
LARGE_BYTES = 256  # constants in smaller nodes stay in the graph
CONST = b"Const"
VALUES = set(range(3, 32))  # the fields of a TensorProto except dtype and shape
SERVE = "serve"

P = TypeVar("P")
T = TypeVar("T")
Rest = ParamSpec("Rest")

# (function, node); the name of the function is empty for a node of the graph itself.
Place = tuple[str, str]


@dataclass(frozen=True)
class FrozenGraph:
    """A graph whose large constants are still in its file.

    `constants` has the first byte of each one's node in the file, and the end. `signatures` are those of a SavedModel.
    """

    path: Path
    graph: Any
    constants: Mapping[Place, tuple[int, int]]
    signatures: Mapping[str, Any]

    def tensor(self, place: Place) -> np.ndarray:
        """Returns the value of a constant, at an address that TensorFlow can use without a copy."""
        data = _mapped(self.path)
        start, end = _tensor_at(data, *self.constants[place])
        header = tensor_pb2.TensorProto.FromString(wire.without(data[start:end], VALUES))
        dtype = np.dtype(tf.as_dtype(header.dtype).as_numpy_dtype)
        shape = [size.size for size in header.tensor_shape.dim]
        first, last = _field(data, start, end, 4) or (0, 0)  # tensor_content: the bytes as they are in memory
        if last - first != math.prod(shape) * dtype.itemsize or first == last or dtype.hasobject:
            return np.asarray(tf.make_ndarray(self.proto(place)))
        return np.frombuffer(_read(self.path, first, last - first), dtype).reshape(shape)

    def proto(self, place: Place) -> Any:
        """Returns the value of a constant as a TensorProto."""
        data = _mapped(self.path)
        return tensor_pb2.TensorProto.FromString(bytes(data[slice(*_tensor_at(data, *self.constants[place]))]))

    def emptied(self, place: Place) -> bool:
        """Returns whether the value of a constant was left in the file."""
        start, end = self.constants[place]
        return end - start > LARGE_BYTES

    def nodes(self, function: str = "") -> Any:
        """Returns the nodes of a function, or of the graph itself."""
        return self.graph.node if not function else self.functions()[function].node_def

    def functions(self) -> dict[str, Any]:
        """Returns the functions of the graph by name."""
        return {function.signature.name: function for function in self.graph.library.function}


def read_frozen_graph(path: str | Path) -> FrozenGraph:
    """Returns the graph at `path`: a GraphDef in a file, a SavedModel folder, or the folder above it.

    Raises:
        SavedModelError: nothing is there, or it is damaged. UnsupportedError: it is in text form, or TensorFlow Lite.
    """
    path = Path(path)
    if path.is_dir():
        folders = [folder for folder in (path, path / "saved_model") if (folder / SAVED_MODEL).is_file()]
        if not folders:
            raise SavedModelError(f"{path}: no {SAVED_MODEL} in this folder; pass the .pb file itself")
        path = folders[0] / SAVED_MODEL
    if not path.is_file():
        raise SavedModelError(f"{path}: no such file or folder; pass a frozen graph (.pb) or a SavedModel")
    _require_binary(path)
    try:
        data = _mapped(path)
        return _saved_model(path, data) if path.name == SAVED_MODEL else _graph_file(path, data)
    except (ValueError, DecodeError) as error:
        raise _not_a_graph(path, error) from None


def read_graph_def(path: Path) -> graph_pb2.GraphDef:
    """Returns the GraphDef in a file with all its constants.

    Raises:
        SavedModelError: it is not a graph, or is damaged. UnsupportedError: it is in text form, or TensorFlow Lite.
    """
    if not path.is_file():
        raise SavedModelError(f"{path}: no such file; pass a frozen graph (.pb)")
    _require_binary(path)
    graph = graph_pb2.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
        _require_nodes(graph)
    except (ValueError, DecodeError) as error:
        raise _not_a_graph(path, error) from None
    return graph


def reporting_damage(read: Callable[Concatenate[P, Rest], T]) -> Callable[Concatenate[P, Rest], T]:
    """Decorates a function of a graph's path: what it raises for a damaged graph becomes a SavedModelError.

    Which exception protobuf or TensorFlow raises depends on the byte that is wrong.
    """

    @wraps(read)
    def reporting(path: P, /, *args: Rest.args, **kwargs: Rest.kwargs) -> T:
        try:
            return read(path, *args, **kwargs)
        except (UnfreezeError, MemoryError):
            raise
        except Exception as error:
            raise SavedModelError(f"{path}: the graph is damaged ({first_line(error)}); copy it again") from error

    return reporting


def _not_a_graph(path: Path, error: Exception) -> SavedModelError:
    return SavedModelError(f"{path}: not a frozen graph, or one that is cut short ({error}): copy it again")


def _require_nodes(graph: graph_pb2.GraphDef) -> None:
    if not graph.node or not all(node.op and node.name for node in graph.node):
        raise ValueError("it has no nodes")


def _require_binary(path: Path) -> None:
    kind = kind_of_file(path)
    if kind is not None:
        error = UnsupportedError if kind.name in (TEXT_GRAPH, TFLITE) else SavedModelError
        raise error(f"{path}: {kind.instead_of('a frozen graph')}")


def _mapped(path: Path) -> memoryview:
    """Returns the mapped bytes of a file; they stay mapped until nothing refers to them.

    Raises:
        ValueError: the file is empty.
    """
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read(path: Path, start: int, size: int) -> mmap.mmap:
    """Returns a copy of bytes of a file, in pages of their own.

    Such pages are aligned as TensorFlow needs it, and go back to the system as soon as they are released. Pages of the
    mapped file would count as memory of this process for as long as the file is mapped.
    """
    pages = mmap.mmap(-1, size)
    with path.open("rb") as file:
        file.seek(start)
        file.readinto(pages)
    return pages


def _graph_file(path: Path, data: memoryview) -> FrozenGraph:
    graph, constants = _graph(data, 0, len(data))
    _require_nodes(graph)
    return FrozenGraph(path, graph, constants, {})


def _saved_model(path: Path, data: memoryview) -> FrozenGraph:
    """Returns the graph of the meta graph tagged `serve`, or of the first one."""
    spans = [(start, end) for number, _, start, end in wire.spans(data) if number == 2]
    metas = [(_without_graph(data[start:end]), start, end) for start, end in spans]
    chosen = [meta for meta in metas if SERVE in meta[0].meta_info_def.tags] or metas[:1]
    if not chosen:
        raise ValueError("it has no graph")
    meta, start, end = chosen[0]
    graph, constants = _graph(data, *(_field(data, start, end, 2) or (end, end)))
    signatures = {name: value for name, value in sorted(meta.signature_def.items()) if not name.startswith("__")}
    return FrozenGraph(path, graph, constants, signatures)


def _without_graph(meta_graph: memoryview) -> Any:
    """Returns a meta graph without its graph and its object graph: signatures and tags."""
    return meta_graph_pb2.MetaGraphDef.FromString(wire.without(meta_graph, {2, 7}))


def _graph(data: memoryview, start: int, end: int) -> tuple[Any, dict[Place, tuple[int, int]]]:
    """Returns the GraphDef in a part of the file, and where the constants of the graph and of its functions are."""
    graph = graph_pb2.GraphDef.FromString(wire.without(data[start:end], {1, 2}))
    constants: dict[Place, tuple[int, int]] = {}
    for number, _, at, stop in wire.spans(data, start, end):
        if number == 1:
            _read_node(data, at, stop, graph.node.add(), "", constants)
        elif number == 2:
            for part, _, first, last in wire.spans(data, at, stop):
                if part == 1:
                    _read_function(data, first, last, graph.library.function.add(), constants)
    return graph, constants


def _read_function(
    data: memoryview, start: int, end: int, function: Any, constants: dict[Place, tuple[int, int]]
) -> None:
    function.MergeFromString(wire.without(data[start:end], {3}))
    for number, _, at, stop in wire.spans(data, start, end):
        if number == 3:
            _read_node(data, at, stop, function.node_def.add(), function.signature.name, constants)


def _read_node(
    data: memoryview, start: int, end: int, node: Any, function: str, constants: dict[Place, tuple[int, int]]
) -> None:
    """Reads a node in place: memory of a message that is copied or cleared later would not be released."""
    large = end - start > LARGE_BYTES and bytes(data[slice(*(_field(data, start, end, 2) or (0, 0)))]) == CONST
    if large:
        node.MergeFromString(wire.without(data[start:end], {5}))
        tensor = node.attr["value"].tensor
        tensor.MergeFromString(wire.without(data[slice(*_tensor_at(data, start, end))], VALUES))
        node.attr["dtype"].type = tensor.dtype
    else:
        node.MergeFromString(bytes(data[start:end]))
    if node.op == "Const":
        constants[function, node.name] = start, end


def _tensor_at(data: memoryview, start: int, end: int) -> tuple[int, int]:
    """Returns first byte and end of the tensor of a constant's node: attr["value"].tensor."""
    for number, _, at, stop in wire.spans(data, start, end):
        value = _field(data, at, stop, 2) if number == 5 else None
        tensor = _field(data, *value, 8) if value else None
        if tensor is not None:
            return tensor
    raise ValueError(f"the constant at byte {start} has no value")


def _field(data: memoryview, start: int, end: int, number: int) -> tuple[int, int] | None:
    """Returns first byte and end of a field of the message at `start`; None if it is absent."""
    return next(((at, stop) for key, _, at, stop in wire.spans(data, start, end) if key == number), None)
