"""Reads the operations of an ONNX model without a package for it. Source of the field numbers: onnx/onnx.proto."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from unfreeze import protobuf_wire as wire
from unfreeze.comparison.operation_graph import (
    Op,
    Operation,
    OperationGraph,
    from_iohw,
    from_matrix,
    from_oihw,
    from_transposed_matrix,
)
from unfreeze.inspection.onnx_file import DTYPES

OPS = {
    "Identity": Op.IDENTITY, "Cast": Op.IDENTITY, "Add": Op.ADD, "Mul": Op.MULTIPLY, "Sub": Op.SUBTRACT,
    "Div": Op.DIVIDE, "Sqrt": Op.SQRT, "BatchNormalization": Op.NORM, "Transpose": Op.TRANSPOSE,
    "Reshape": Op.RESHAPE,
}  # fmt: skip
# The fields of a TensorProto with values of a type, where they are not in `raw_data`.
TYPED_FIELDS = {
    "float32": 4, "float64": 10, "float16": 5, "int32": 5, "int8": 5, "uint8": 5, "int16": 5, "uint16": 5, "bool": 5,
    "int64": 7, "uint32": 11, "uint64": 11,
}  # fmt: skip
EXTERNAL, RAW = 13, 9

Constants = dict[str, Callable[[], np.ndarray]]


def read_operations(path: Path) -> OperationGraph:
    """Returns the operations of the main graph of an ONNX model.

    Raises: ValueError: the file is cut short, or is not an ONNX model.
    """
    model = memoryview(path.read_bytes())
    graph = list(wire.parts(model, 7))[-1]
    constants: Constants = {
        wire.text(tensor, 8): partial(_array, tensor, path.parent) for tensor in wire.parts(graph, 5)
    }
    operations = []
    for node in wire.parts(graph, 1):
        inputs, outputs = _texts(node, 1), _texts(node, 2)
        attributes = {wire.text(attribute, 1): attribute for attribute in wire.parts(node, 5)}
        kind = wire.text(node, 4)
        if kind == "Constant" and "value" in attributes:
            constants[outputs[0]] = partial(_array, list(wire.parts(attributes["value"], 5))[-1], path.parent)
        elif kind == "DequantizeLinear" and all(name in constants for name in inputs):
            axis = _integer(attributes, "axis", 1)
            constants[outputs[0]] = partial(_dequantized, *(constants[name] for name in inputs[:3]), axis=axis)
        else:
            operations.append(_operation(kind, inputs, outputs, attributes))
    return OperationGraph(operations, constants)


def _operation(kind: str, inputs: list[str], outputs: list[str], attributes: Mapping[str, memoryview]) -> Operation:
    if kind == "Conv":
        return Operation(Op.LAYER, inputs, outputs, bias=2, to_kernel=from_oihw)
    if kind == "ConvTranspose":
        return Operation(Op.LAYER, inputs, outputs, bias=2, to_kernel=from_iohw)
    if kind in ("MatMul", "Gemm"):
        is_transposed = _integer(attributes, "transB", 0) == 1
        return Operation(
            Op.LAYER, inputs, outputs, bias=2, to_kernel=from_transposed_matrix if is_transposed else from_matrix
        )
    op = OPS.get(kind, Op.OTHER)
    return Operation(
        op,
        inputs,
        outputs,
        epsilon=_float(attributes, "epsilon", 1e-5) if op is Op.NORM else 0.0,
        axes=_integers(attributes, "perm") if op is Op.TRANSPOSE else (),
    )


def _array(tensor: memoryview, folder: Path) -> np.ndarray:
    """Returns the value of a TensorProto. Raises: ValueError: it is of a type that NumPy does not have."""
    code = wire.integer(tensor, 2)
    name = DTYPES.get(code, "")
    if name in ("", "string", "bfloat16"):
        raise ValueError(f"a constant has the data type {name or code}")
    shape = list(_packed(tensor, 1))
    dtype = np.dtype(name).newbyteorder("<")
    external = {key: bytes(value).decode() for key, value in wire.entries(tensor, EXTERNAL)}
    if external:
        offset, count = int(external.get("offset", 0)), int(np.prod(shape, dtype=int))
        return np.fromfile(folder / external["location"], dtype, count, offset=offset).reshape(shape)
    raw = list(wire.parts(tensor, RAW))
    if raw:
        return np.frombuffer(raw[-1], dtype).reshape(shape)
    number = TYPED_FIELDS[name]
    if name in ("float32", "float64"):
        return np.frombuffer(b"".join(wire.parts(tensor, number)), dtype).reshape(shape)
    values = np.array(list(_packed(tensor, number)), np.int64)
    if name == "float16":  # whose bits are stored
        return values.astype(np.uint16).view(np.float16).reshape(shape)
    return values.astype(dtype).reshape(shape)


def _dequantized(
    quantized: Callable[[], np.ndarray],
    scale: Callable[[], np.ndarray],
    zero_point: Callable[[], np.ndarray] | None = None,
    *,
    axis: int,
) -> np.ndarray:
    values, scales = quantized().astype(np.float32), scale()
    zero = np.zeros_like(scales) if zero_point is None else zero_point().astype(np.float32)
    axes = range(values.ndim if scales.ndim else 0)
    shape = [-1 if index == axis % values.ndim else 1 for index in axes]
    result: np.ndarray = (values - zero.reshape(shape)) * scales.reshape(shape)
    return result


def _texts(message: memoryview, number: int) -> list[str]:
    return [bytes(value).decode("utf-8") for value in wire.parts(message, number)]


def _packed(message: memoryview, number: int) -> Iterator[int]:
    """Yields the integers of a repeated field, packed or not, with their sign."""
    for key, value in wire.fields(message):
        if key != number:
            continue
        numbers = [value] if isinstance(value, int) else wire.varints(value)
        yield from (number - (1 << 64) if number >= 1 << 63 else number for number in numbers)


def _integer(attributes: Mapping[str, memoryview], name: str, default: int) -> int:
    return next(_packed(attributes[name], 3), default) if name in attributes else default


def _integers(attributes: Mapping[str, memoryview], name: str) -> tuple[int, ...]:
    return tuple(_packed(attributes[name], 8)) if name in attributes else ()


def _float(attributes: Mapping[str, memoryview], name: str, default: float) -> float:
    if name not in attributes:
        return default
    for number, _, start, end in wire.spans(attributes[name]):
        if number == 2:
            value: float = struct.unpack("<f", attributes[name][start:end])[0]
            return value
    return default
