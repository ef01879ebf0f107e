"""Reads the operations of OpenVINO's intermediate representation without OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from unfreeze.comparison.operation_graph import (
    Op,
    Operation,
    OperationGraph,
    from_goihw,
    from_iohw,
    from_matrix,
    from_oihw,
    from_transposed_matrix,
)
from unfreeze.inspection.openvino_file import DTYPES, read_net

OPS = {
    "Convert": Op.IDENTITY, "Add": Op.ADD, "Multiply": Op.MULTIPLY, "Subtract": Op.SUBTRACT, "Divide": Op.DIVIDE,
    "Sqrt": Op.SQRT,
}  # fmt: skip
LAYERS = {"Convolution": from_oihw, "GroupConvolution": from_goihw, "ConvolutionBackpropData": from_iohw}


def read_operations(path: Path) -> OperationGraph:
    """Returns the operations of the main graph of a model whose .bin is beside it.

    Raises: ValueError: the file is cut short, or is not such a model. OSError: there is no .bin.
    """
    net = read_net(path)
    weights = np.memmap(path.with_suffix(".bin"), np.uint8, "r")
    sources = {
        (edge.get("to-layer"), edge.get("to-port")): _tensor(edge.get("from-layer"), edge.get("from-port"))
        for edge in net.iterfind("edges/edge")
    }
    constants: dict[str, Callable[[], np.ndarray]] = {}
    operations, names = [], {}
    for layer in net.iterfind("layers/layer"):
        number, kind = layer.get("id"), layer.get("type", "")
        outputs = [_tensor(number, port.get("id")) for port in layer.iterfind("output/port")]
        inputs = [sources.get((number, port.get("id")), "") for port in layer.iterfind("input/port")]
        data = layer.find("data")
        if kind == "Const" and data is not None:
            names[outputs[0]] = layer.get("name", "?")
            constants[outputs[0]] = partial(_array, weights, dict(data.attrib))
        else:
            operations.append(_operation(kind, inputs, outputs, layer))
    return OperationGraph(operations, constants, names)


def _operation(kind: str, inputs: list[str], outputs: list[str], layer: ElementTree.Element) -> Operation:
    data = layer.find("data")
    attributes = {} if data is None else data.attrib
    if kind in LAYERS:
        return Operation(Op.LAYER, inputs, outputs, to_kernel=LAYERS[kind])
    if kind == "MatMul":
        is_transposed = attributes.get("transpose_b") == "true"
        return Operation(Op.LAYER, inputs, outputs, to_kernel=from_transposed_matrix if is_transposed else from_matrix)
    if kind == "Reshape":
        shape = [int(size.text or "-1") for size in layer.iterfind("output/port/dim")]
        if min(shape, default=0) >= 0:
            return Operation(Op.RESHAPE, inputs[:1], outputs, shape=shape)
    return Operation(OPS.get(kind, Op.OTHER), inputs, outputs)


def _array(weights: np.ndarray, data: dict[str, str]) -> np.ndarray:
    offset, size = int(data["offset"]), int(data["size"])
    kind = data["element_type"]
    name = DTYPES.get(kind, kind)
    if name in ("bfloat16", "string") or name not in DTYPES.values():
        raise ValueError(f"a constant has the data type {name}")
    shape = [int(length) for length in data.get("shape", "").split(",") if length.strip()]
    return np.frombuffer(weights[offset : offset + size].tobytes(), np.dtype(name)).reshape(shape)


def _tensor(layer: str | None, port: str | None) -> str:
    return f"{layer}:{port}"
