"""Reads the operations of a TFLite model without a package for it.

Source of the numbers: tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from unfreeze.comparison.operation_graph import (
    Op,
    Operation,
    OperationGraph,
    from_hwc,
    from_ohwi,
    from_transposed_matrix,
)
from unfreeze.flatbuffer import Table, root
from unfreeze.inspection.tflite_file import DTYPES, operation_name

OPS = {
    "DEQUANTIZE": Op.IDENTITY, "CAST": Op.IDENTITY, "ADD": Op.ADD, "MUL": Op.MULTIPLY, "SUB": Op.SUBTRACT,
    "DIV": Op.DIVIDE, "RSQRT": Op.RSQRT, "SQRT": Op.SQRT,
}  # fmt: skip
LAYERS = {
    "CONV_2D": from_ohwi,
    "DEPTHWISE_CONV_2D": from_hwc,
    "FULLY_CONNECTED": from_transposed_matrix,
    "TRANSPOSE_CONV": from_ohwi,
}
BIASES = {"TRANSPOSE_CONV": 3}  # the input of the bias, where it is not the third


def read_operations(path: Path) -> OperationGraph:
    """Returns the operations of the main graph of a TFLite model.

    Raises: ValueError: the file is cut short, or is not a TFLite model.
    """
    data = path.read_bytes()
    try:
        model = root(data)
        names = [operation_name(code) for code in model.tables(1)]
        graph, buffers = model.tables(2)[0], model.tables(4)
        tensors = graph.tables(0)
        # Several tensors may have one name, so that names of tensors have their number in front.
        labels = [f"{index}:{tensor.text(3)}" for index, tensor in enumerate(tensors)]
        constants: dict[str, Callable[[], np.ndarray]] = {
            label: partial(_array, tensor, content)
            for label, tensor in zip(labels, tensors, strict=True)
            if (content := _content(data, buffers[tensor.number(2, "I")]))
        }
        operations = [_operation(names, labels, operator) for operator in graph.tables(3)]
    except (struct.error, IndexError):
        raise ValueError(f"what it refers to is not in its {len(data):,} bytes") from None
    return OperationGraph(operations, constants, {label: label.partition(":")[2] for label in constants})


def _operation(names: list[str], labels: list[str], operator: Table) -> Operation:
    kind = names[operator.number(0, "I")]
    inputs, outputs = ([labels[index] if index >= 0 else "" for index in operator.numbers(field)] for field in (1, 2))
    if kind in LAYERS:
        return Operation(Op.LAYER, inputs, outputs, bias=BIASES.get(kind, 2), to_kernel=LAYERS[kind])
    return Operation(OPS.get(kind, Op.OTHER), inputs, outputs)


def _content(data: bytes, buffer: Table) -> bytes:
    """Returns the bytes of a buffer: in it, or at an offset of the file."""
    start, size = buffer.number(1, "Q"), buffer.number(2, "Q")
    return data[start : start + size] if size else buffer.content(0, 1)


def _array(tensor: Table, content: bytes) -> np.ndarray:
    """Returns the value of a constant, as float32 if it is quantized."""
    name = DTYPES[tensor.number(1, "b")]
    if name not in ("float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"):
        raise ValueError(f"a constant has the data type {name}")
    values = np.frombuffer(content, np.dtype(name)).reshape(tensor.numbers(0))
    if not tensor.has(4):
        return values
    quantization = tensor.table(4)
    scales = np.frombuffer(quantization.content(2, 4), "<f4")
    zero_points = np.frombuffer(quantization.content(3, 8), "<i8").astype(np.float32)
    if not scales.size:
        return values
    if not zero_points.size:
        zero_points = np.zeros_like(scales)
    axis = quantization.number(6, "i")
    shape = [-1 if index == axis else 1 for index in range(values.ndim)] if scales.size > 1 else [1] * values.ndim
    result: np.ndarray = (values.astype(np.float32) - zero_points.reshape(shape)) * scales.reshape(shape)
    return result
