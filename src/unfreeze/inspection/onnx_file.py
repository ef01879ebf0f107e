"""Reads an ONNX model without a package for it, and without its weights.

Source of the field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unfreeze import protobuf_wire as wire
from unfreeze.inspection.description import Constants, Description
from unfreeze.inspection.inspection import field
from unfreeze.verification.meta_graph import TensorInfo

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
DEFAULT_DOMAIN = "ai.onnx"  # which files write as an empty string
EXTERNAL = 1  # TensorProto.DataLocation: the value is in a file of its own


def read_onnx(path: Path) -> Description:
    """Returns the description of an ONNX model.

    Raises: ValueError: the file is cut short, or is not an ONNX model.
    """
    model = memoryview(path.read_bytes())
    graphs = list(wire.parts(model, 7))
    if not graphs:
        raise ValueError("it has no graph")
    graph = graphs[-1]
    opsets = {wire.text(opset, 1) or DEFAULT_DOMAIN: wire.integer(opset, 2) for opset in wire.parts(model, 8)}
    if not opsets:
        raise ValueError("it does not say which version of the operations it uses")
    tensors = list(wire.parts(graph, 5))
    initializers = {wire.text(tensor, 8) for tensor in tensors}
    external = sorted({location for tensor in tensors for location in _external_files(tensor)})
    missing = [name for name in external if not (path.parent / name).is_file()]
    producer = f"{wire.text(model, 2)} {wire.text(model, 3)}".strip()
    inputs = _tensors(graph, 11)
    return Description(
        path=path,
        files=[path, *(path.parent / name for name in external if name not in missing)],
        inputs={name: tensor for name, tensor in inputs.items() if name not in initializers},
        outputs=_tensors(graph, 12),
        operations=Counter(_operations(graph)),
        constants=Constants(len(tensors), sum(map(_size_bytes, tensors))),
        properties=[
            field("opset", opsets, ", ".join(f"{domain} {version}" for domain, version in opsets.items())),
            field("ir_version", wire.integer(model, 1), str(wire.integer(model, 1))),
            field("producer", producer or None, producer or "unknown"),
        ],
        problems=[f"{name}, which has weights of it, is missing in {path.parent}" for name in missing],
    )


def _tensors(graph: memoryview, number: int) -> dict[str, TensorInfo]:
    return {wire.text(value, 1): _tensor(value) for value in wire.parts(graph, number)}


def _tensor(value: memoryview) -> TensorInfo:
    name = wire.text(value, 1)
    for kind in wire.parts(value, 2):
        for tensor in wire.parts(kind, 1):
            dtype = wire.integer(tensor, 1)
            shapes = [tuple(map(_dimension, wire.parts(shape, 1))) for shape in wire.parts(tensor, 2)]
            return TensorInfo(name, DTYPES.get(dtype, f"dtype {dtype}"), shapes[-1] if shapes else None)
    return TensorInfo(name, "not a tensor", None)


def _dimension(message: memoryview) -> int | None:
    sizes = [value for number, value in wire.fields(message) if number == 1 and isinstance(value, int)]
    return sizes[-1] if sizes and sizes[-1] < 1 << 63 else None


def _operations(graph: memoryview) -> Iterator[str]:
    """Yields the operation of each node of a graph, and of the graphs inside its nodes."""
    for node in wire.parts(graph, 1):
        domain = wire.text(node, 7)
        yield f"{domain}.{wire.text(node, 4)}" if domain else wire.text(node, 4)
        for attribute in wire.parts(node, 5):
            for number in (6, 11):
                for inner in wire.parts(attribute, number):
                    yield from _operations(inner)


def _external_files(tensor: memoryview) -> Iterator[str]:
    if wire.integer(tensor, 14) == EXTERNAL:
        yield from (bytes(value).decode() for key, value in wire.entries(tensor, 13) if key == "location")


def _size_bytes(tensor: memoryview) -> int:
    """Returns the size of a value: that of its data, or the `length` of its data in another file."""
    inside = sum(end - start for number, _, start, end in wire.spans(tensor) if number in (4, 5, 6, 7, 9, 10, 11))
    lengths = [int(bytes(value)) for key, value in wire.entries(tensor, 13) if key == "length"]
    return inside + sum(lengths)
