"""A frozen graph from its file, node by node, so that its weights are never in memory all at once.

A large constant is left in the file: the node keeps its dtype and shape, and `FrozenGraph.tensor` reads the value
when it is asked for.

Source of the field numbers: tensorflow/core/protobuf/{saved_model,meta_graph}.proto,
tensorflow/core/framework/{graph,function}.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2, tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from unfreeze.errors import SavedModelError, UnsupportedError

SAVED_MODEL = "saved_model.pb"
LARGE_BYTES = 256  # of a node; smaller constants are kept in the graph
SERVE = "serve"

# (function, node): the name of the function is empty for a node of the graph itself.
Place = tuple[str, str]


@dataclass(frozen=True)
class FrozenGraph:
    """A graph whose large constants are still in the file that it was read from.

    `constants` says where each one is: the first byte and the length of its node. `signatures` are those of a
    SavedModel, and `initializer` is the node that its loader runs.
    """

    path: Path
    graph: Any
    constants: Mapping[Place, tuple[int, int]]
    signatures: Mapping[str, Any]
    initializer: str = ""

    def tensor(self, place: Place) -> np.ndarray:
        """The value of a constant."""
        with self.path.open("rb") as file:
            found = _tensor_at(file, *self.constants[place])
            content = _field(file, *found, 4)  # the bytes as they are in memory, if it is written so
            if content is None:
                return tf.make_ndarray(self.proto(place))
            tensor = tensor_pb2.TensorProto.FromString(_rest(file, *found, {4}))
        shape = [size.size for size in tensor.tensor_shape.dim]
        dtype = tf.as_dtype(tensor.dtype).as_numpy_dtype
        return np.fromfile(self.path, dtype, math.prod(shape), offset=content[0]).reshape(shape)

    def proto(self, place: Place) -> Any:
        """The value of a constant as the graph holds it."""
        with self.path.open("rb") as file:
            start, size = _tensor_at(file, *self.constants[place])
            file.seek(start)
            return tensor_pb2.TensorProto.FromString(file.read(size))

    def emptied(self, place: Place) -> bool:
        """Whether the value of a constant is not in the graph."""
        return self.constants[place][1] > LARGE_BYTES

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
        with path.open("rb") as file:
            return _saved_model(path, file) if path.name == SAVED_MODEL else _graph_file(path, file)
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


def _graph_file(path: Path, file: BinaryIO) -> FrozenGraph:
    graph, constants = _graph(file, 0, path.stat().st_size)
    if not graph.node or not all(node.op and node.name for node in graph.node):
        raise ValueError("it has no nodes")
    return FrozenGraph(path, graph, constants, {})


def _saved_model(path: Path, file: BinaryIO) -> FrozenGraph:
    """The meta graph tagged `serve`, or the only one."""
    found = [(start, size) for number, start, size in _fields(file, 0, path.stat().st_size) if number == 2]
    metas = [(_without_graph(file, start, size), start, size) for start, size in found]
    chosen = [each for each in metas if SERVE in each[0].meta_info_def.tags] or metas[:1]
    if not chosen:
        raise ValueError("it holds no graph")
    meta, start, size = chosen[0]
    graph = graph_pb2.GraphDef()
    constants: dict[Place, tuple[int, int]] = {}
    for number, at, length in _fields(file, start, size):
        if number == 2:
            graph, constants = _graph(file, at, length)
    signatures = {name: each for name, each in sorted(meta.signature_def.items()) if not name.startswith("__")}
    return FrozenGraph(path, graph, constants, signatures, _initializer(meta))


def _initializer(meta: Any) -> str:
    """The node that a loader runs once the variables are restored."""
    told = meta.signature_def.get("__saved_model_init_op")
    if told is not None:
        return next(iter(told.outputs.values())).name.split(":")[0]
    for key in ("saved_model_main_op", "legacy_init_op"):
        if meta.collection_def[key].node_list.value:
            return meta.collection_def[key].node_list.value[0]
    return ""


def _without_graph(file: BinaryIO, start: int, size: int) -> Any:
    """A meta graph without its graph and its objects: signatures and tags."""
    return meta_graph_pb2.MetaGraphDef.FromString(_rest(file, start, size, {2, 7}))


def _graph(file: BinaryIO, start: int, size: int) -> tuple[Any, dict[Place, tuple[int, int]]]:
    """A GraphDef, and where the large constants of it and of its functions are."""
    graph = graph_pb2.GraphDef.FromString(_rest(file, start, size, {1, 2}))
    constants: dict[Place, tuple[int, int]] = {}
    for number, at, length in _fields(file, start, size):
        if number == 1:
            _add_node(file, at, length, graph.node, "", constants)
        elif number == 2:
            for part, inner, inner_length in _fields(file, at, length):
                if part == 1:
                    _add_function(file, inner, inner_length, graph.library.function, constants)
    return graph, constants


def _add_function(
    file: BinaryIO, start: int, size: int, functions: Any, constants: dict[Place, tuple[int, int]]
) -> None:
    function = functions.add()
    function.CopyFrom(function_pb2.FunctionDef.FromString(_rest(file, start, size, {3})))
    for number, at, length in _fields(file, start, size):
        if number == 3:
            _add_node(file, at, length, function.node_def, function.signature.name, constants)


def _add_node(
    file: BinaryIO, start: int, size: int, nodes: Any, function: str, constants: dict[Place, tuple[int, int]]
) -> None:
    file.seek(start)
    node = node_def_pb2.NodeDef.FromString(file.read(size))
    if node.op == "Const":
        constants[function, node.name] = start, size
    if node.op == "Const" and size > LARGE_BYTES:
        tensor = node.attr["value"].tensor
        emptied = type(tensor)(dtype=tensor.dtype, tensor_shape=tensor.tensor_shape)
        node.attr["value"].tensor.CopyFrom(emptied)
    nodes.add().CopyFrom(node)  # a copy: what was cleared from a message stays in its memory


def _tensor_at(file: BinaryIO, start: int, size: int) -> tuple[int, int]:
    """First byte and length of the tensor in the constant at `start`: attr["value"].tensor."""
    for attr, at, length in _fields(file, start, size):
        value = _field(file, at, length, 2) if attr == 5 else None
        tensor = _field(file, *value, 8) if value else None
        if tensor is not None:
            return tensor
    raise ValueError(f"the constant at byte {start} has no value")


def _field(file: BinaryIO, start: int, size: int, number: int) -> tuple[int, int] | None:
    """First byte and length of a field of the message at `start`."""
    return next(((at, length) for each, at, length in _fields(file, start, size) if each == number), None)


def _rest(file: BinaryIO, start: int, size: int, without: set[int]) -> bytes:
    """The bytes of a message without some of its fields, which are a message again."""
    kept = []
    end = start
    for number, at, length in _fields(file, start, size):
        if number not in without:
            file.seek(end)
            kept.append(file.read(at + length - end))
        end = at + length
    return b"".join(kept)


def _fields(file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and length of each field of the message at `start`.

    Raises: ValueError when the bytes are no message.
    """
    at, end = start, start + size
    while at < end:
        file.seek(at)
        head = file.read(20)
        key, used = _varint(head, 0)
        number, kind = key >> 3, key & 7
        if kind == 0:
            length = _varint(head, used)[1] - used
        elif kind == 2:
            length, used = _varint(head, used)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {at} is no field of a message")
        at += used
        if number == 0 or at + length > end:
            raise ValueError(f"a field of {length} bytes at byte {at} does not fit")
        yield number, at, length
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it ends in the middle of a number")
