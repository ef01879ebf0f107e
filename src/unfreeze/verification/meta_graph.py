"""Reads saved_model.pb without TensorFlow: the signatures, and how many bytes of it are constants.

Source of the field numbers: tensorflow/core/protobuf/{saved_model,meta_graph}.proto and
tensorflow/core/framework/{graph,function,node_def,attr_value,tensor_shape,types}.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unfreeze import protobuf_wire as wire
from unfreeze.errors import SavedModelError, UnsupportedError

DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a signature: its name in the graph, data type, and static shape (None: unknown size or rank)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        """Returns `float32 [?, 100, 4]`."""
        if self.shape is None:
            return f"{self.dtype} of unknown shape"
        return f"{self.dtype} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """A signature of a SavedModel: its inputs and outputs by key."""

    name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


@dataclass(frozen=True)
class MetaGraph:
    """The graph of a SavedModel that has the tag `serve`; `path` is the saved_model.pb."""

    path: Path
    signatures: dict[str, Signature]
    constants_bytes: int
    tensorflow_version: str

    def is_serving(self, name: str) -> bool:
        """Returns whether a signature has the same tensors as `serving_default`, and so is another name for it."""
        own, serving = self.signatures[name], self.signatures.get("serving_default")
        return serving is not None and (own.inputs, own.outputs) == (serving.inputs, serving.outputs)


def read_meta_graph(saved_model: Path) -> MetaGraph:
    """Returns the graph in the saved_model.pb of a folder.

    Raises:
        SavedModelError: the folder does not exist, has no saved_model.pb, or one that cannot be parsed.
        UnsupportedError: the SavedModel is in text form.
    """
    path = saved_model / "saved_model.pb"
    if not saved_model.exists():
        raise SavedModelError(f"{saved_model}: no such folder. Pass the folder with saved_model.pb.")
    if not path.is_file():
        if (saved_model / "saved_model.pbtxt").is_file():
            raise UnsupportedError(
                f"not supported yet: {saved_model} is a SavedModel in text form (saved_model.pbtxt). "
                "Pass one with saved_model.pb."
            )
        raise SavedModelError(
            f"{saved_model}: not a SavedModel, since it has no saved_model.pb. Pass the folder with it."
        )
    try:
        return _parse(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise SavedModelError(f"{path}: damaged, or not a SavedModel: {error}. Copy or export it again.") from error


def _parse(path: Path) -> MetaGraph:
    graphs = list(wire.parts(path.read_bytes(), 2))
    serving = [graph for graph in graphs if "serve" in _tags(graph)]
    if not serving:
        tags = ", ".join(sorted(set().union(*map(_tags, graphs))))
        raise ValueError(f"it has no graph with the tag serve (tags: {tags})")
    graph = serving[0]
    signatures = {
        name: Signature(name, _tensors(signature, 1), _tensors(signature, 2))
        for name, signature in wire.entries(graph, 5)
        if not name.startswith("__")  # __saved_model_init_op is for loaders
    }
    info = next(wire.parts(graph, 1), memoryview(b""))
    return MetaGraph(path, signatures, sum(_constants_bytes(graph)), wire.text(info, 5))


def _tags(graph: memoryview) -> set[str]:
    return {bytes(tag).decode() for info in wire.parts(graph, 1) for tag in wire.parts(info, 4)}


def _tensors(signature: memoryview, number: int) -> dict[str, TensorInfo]:
    return {key: _tensor(info) for key, info in sorted(wire.entries(signature, number))}


def _tensor(info: memoryview) -> TensorInfo:
    dtype, sizes = 0, None
    for number, value in wire.fields(info):
        if number == 2 and isinstance(value, int):
            dtype = value
        if number == 3 and isinstance(value, memoryview):
            sizes = shape(value)
    return TensorInfo(wire.text(info, 1), DTYPES.get(dtype, f"dtype {dtype}"), sizes)


def shape(message: memoryview) -> tuple[int | None, ...] | None:
    """Returns the sizes in a TensorShapeProto; None if the rank is unknown."""
    sizes: list[int | None] = []
    for number, value in wire.fields(message):
        if number == 3 and value:
            return None
        if number == 2 and isinstance(value, memoryview):
            size = next((size for field, size in wire.fields(value) if field == 1 and isinstance(size, int)), 0)
            sizes.append(None if size >= 1 << 63 else size)  # -1 as an unsigned number
    return tuple(sizes)


def _constants_bytes(graph: memoryview) -> Iterator[int]:
    """Yields the size of each constant of the graph and of its functions."""
    for graph_def in wire.parts(graph, 2):
        nodes = list(wire.parts(graph_def, 1))
        for library in wire.parts(graph_def, 2):
            for function in wire.parts(library, 1):
                nodes.extend(wire.parts(function, 3))
        for node in nodes:
            if wire.text(node, 2) == "Const":
                yield sum(len(value) for name, value in wire.entries(node, 5) if name == "value")
