"""A frozen graph from its file, node by node, so that its weights are never in memory all at once.

A large constant is left in the file: the node keeps its dtype and shape, and `FrozenGraph.tensor` reads the value
when it is asked for. The file is mapped meanwhile: of a mapped file only what is looked at comes into memory.

Source of the field numbers: tensorflow/core/protobuf/{saved_model,meta_graph}.proto,
tensorflow/core/framework/{graph,function}.proto.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2, tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from unfreeze import protobuf_wire as wire
from unfreeze.errors import SavedModelError, UnsupportedError

SAVED_MODEL = "saved_model.pb"
LARGE_BYTES = 256  # of a node; smaller constants are kept in the graph
CONST = b"Const"
VALUES = set(range(3, 32))  # the fields of a TensorProto but its dtype and shape
SERVE = "serve"

# (function, node): the name of the function is empty for a node of the graph itself.
Place = tuple[str, str]


@dataclass(frozen=True)
class FrozenGraph:
    """A graph whose large constants are still in the file that it was read from.

    `constants` says where each one is: the first byte of its node, and the end. `signatures` are those of a
    SavedModel.
    """

    path: Path
    graph: Any
    constants: Mapping[Place, tuple[int, int]]
    signatures: Mapping[str, Any]

    def tensor(self, place: Place) -> np.ndarray:
        """The value of a constant, at an address that TensorFlow can use without a copy."""
        data = _mapped(self.path)
        start, end = _tensor_at(data, *self.constants[place])
        told = tensor_pb2.TensorProto.FromString(wire.without(data[start:end], VALUES))
        dtype = np.dtype(tf.as_dtype(told.dtype).as_numpy_dtype)
        shape = [size.size for size in told.tensor_shape.dim]
        first, last = _field(data, start, end, 4) or (0, 0)  # the bytes as they are in memory, if it is written so
        if last - first != math.prod(shape) * dtype.itemsize or first == last or dtype.hasobject:
            return tf.make_ndarray(self.proto(place))
        return np.frombuffer(_read(self.path, first, last - first), dtype).reshape(shape)

    def proto(self, place: Place) -> Any:
        """The value of a constant as the graph holds it."""
        data = _mapped(self.path)
        return tensor_pb2.TensorProto.FromString(bytes(data[slice(*_tensor_at(data, *self.constants[place]))]))

    def emptied(self, place: Place) -> bool:
        """Whether the value of a constant is not in the graph."""
        start, end = self.constants[place]
        return end - start > LARGE_BYTES

    def nodes(self, function: str = "") -> Any:
        """The nodes of a function, or of the graph itself."""
        return self.graph.node if not function else self.functions()[function].node_def

    def functions(self) -> dict[str, Any]:
        """The functions of the graph by name."""
        return {each.signature.name: each for each in self.graph.library.function}


def read_frozen(path: str | Path) -> FrozenGraph:
    """The graph at `path`: a GraphDef in a file, a SavedModel folder, or the folder above it.

    Raises: SavedModelError when there is none, or when it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        folders = [folder for folder in (path, path / "saved_model") if (folder / SAVED_MODEL).is_file()]
        if not folders:
            raise SavedModelError(f"{path}: no {SAVED_MODEL} in this folder; give the .pb file itself")
        path = folders[0] / SAVED_MODEL
    if not path.is_file():
        raise SavedModelError(f"{path}: no such file or folder")
    _require_binary(path)
    try:
        data = _mapped(path)
        return _saved_model(path, data) if path.name == SAVED_MODEL else _graph_file(path, data)
    except (ValueError, DecodeError) as error:
        raise SavedModelError(
            f"{path}: not a frozen graph, or one that is cut short ({error}): copy it again"
        ) from None


def _require_binary(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(64)
    if head[4:8] == b"TFL3":
        raise UnsupportedError(
            f"not supported yet: {path}: a TensorFlow Lite model; give the frozen graph or the checkpoint it is made of"
        )
    if head.lstrip().startswith((b"node {", b"node{", b"meta_graphs", b"saved_model_schema_version", b"library {")):
        raise UnsupportedError(f"not supported yet: {path}: a graph in text form; give the binary .pb file")


def _mapped(path: Path) -> memoryview:
    """The bytes of a file, until nothing refers to them any more.

    Raises: ValueError when it is empty.
    """
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read(path: Path, start: int, size: int) -> mmap.mmap:
    """Bytes of a file, in pages of their own: they go back to the system at once, and begin where TensorFlow wants.

    A copy, since pages of the mapped file count as memory of this process for as long as it is mapped.
    """
    room = mmap.mmap(-1, size)
    with path.open("rb") as file:
        file.seek(start)
        file.readinto(room)
    return room


def _graph_file(path: Path, data: memoryview) -> FrozenGraph:
    graph, constants = _graph(data, 0, len(data))
    if not graph.node or not all(node.op and node.name for node in graph.node):
        raise ValueError("it has no nodes")
    return FrozenGraph(path, graph, constants, {})


def _saved_model(path: Path, data: memoryview) -> FrozenGraph:
    """The meta graph tagged `serve`, or the only one."""
    found = [(start, end) for number, _, start, end in wire.spans(data) if number == 2]
    metas = [(_without_graph(data[start:end]), start, end) for start, end in found]
    chosen = [each for each in metas if SERVE in each[0].meta_info_def.tags] or metas[:1]
    if not chosen:
        raise ValueError("it holds no graph")
    meta, start, end = chosen[0]
    graph, constants = _graph(data, *(_field(data, start, end, 2) or (end, end)))
    signatures = {name: each for name, each in sorted(meta.signature_def.items()) if not name.startswith("__")}
    return FrozenGraph(path, graph, constants, signatures)


def _without_graph(meta_graph: memoryview) -> Any:
    """A meta graph without its graph and its objects: signatures and tags."""
    return meta_graph_pb2.MetaGraphDef.FromString(wire.without(meta_graph, {2, 7}))


def _graph(data: memoryview, start: int, end: int) -> tuple[Any, dict[Place, tuple[int, int]]]:
    """The GraphDef in this part of the file, and where the constants of it and of its functions are."""
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
    """Read a node in place: what is copied from a message, or cleared from it, stays in its memory."""
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
    """First byte and end of the tensor in the constant at `start`: attr["value"].tensor."""
    for number, _, at, stop in wire.spans(data, start, end):
        value = _field(data, at, stop, 2) if number == 5 else None
        tensor = _field(data, *value, 8) if value else None
        if tensor is not None:
            return tensor
    raise ValueError(f"the constant at byte {start} has no value")


def _field(data: memoryview, start: int, end: int, number: int) -> tuple[int, int] | None:
    """First byte and end of a field of the message at `start`."""
    return next(((at, stop) for each, _, at, stop in wire.spans(data, start, end) if each == number), None)
