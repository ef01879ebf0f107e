"""Splits a .tflite into the part up to the end of its network and the rest, and joins the two again.

TensorFlow's converter measures ranges by running the whole file, and ends with a segmentation fault in the loops of
suppression. So only the first part is quantized, as a file of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from unfreeze.formats.network_operations import Operation, network_operations

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
PRODUCTS = ("FULLY_CONNECTED", "BATCH_MATMUL")
BETWEEN = (
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "DEPTH_TO_SPACE", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D",
    "MEAN", "MUL", "PAD", "PADV2", "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE",
    "SPLIT", "SQUEEZE", "STRIDED_SLICE", "TRANSPOSE",
)  # fmt: skip
IDENTIFIER = b"TFL3"
PER_CHANNEL_HYBRID = 5  # the version of CONV_2D with a scale for each filter and inputs in float32
KINDS = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def read_model(content: bytes) -> Any:
    """Returns the tables of a .tflite as objects that can be changed."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))


def write_model(model: Any) -> bytes:
    """Returns the .tflite of `read_model`'s objects."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


@dataclass(frozen=True)
class Parts:
    """The first part of a .tflite in float32, as a file, and what is needed to join it with the rest.

    `boundary` are the tensors that the rest takes from the first part, in the order of the first part's outputs.
    `preprocessing` are the names of the tensors that are computed before the network, in the first part.
    """

    model: Any
    first: bytes
    boundary: Sequence[int]
    rest: Sequence[Any]
    preprocessing: Sequence[str]


def split_after_network(content: bytes) -> Parts:
    """Returns the two parts of a .tflite: what the network needs and the network itself, and all other operations."""
    model = read_model(content)
    graph = model.subgraphs[0]
    operations = list(_operations(model, graph))
    network = network_operations(operations, convolutions=CONVOLUTIONS, products=PRODUCTS, between=BETWEEN)
    before = _before(operations, network) - network
    is_first = [operation.name in network | before for operation in operations]
    first = [operator for operator, belongs in zip(graph.operators, is_first, strict=True) if belongs]
    rest = [operator for operator, belongs in zip(graph.operators, is_first, strict=True) if not belongs]
    computed = {int(tensor) for operator in first for tensor in operator.outputs}
    taken = {int(tensor) for operator in rest for tensor in operator.inputs} | set(map(int, graph.outputs))
    boundary = sorted(computed & taken)
    part = copy(model)
    part.subgraphs = [copy(graph)]
    part.subgraphs[0].operators, part.subgraphs[0].outputs = first, boundary
    part.signatureDefs, part.metadata, part.metadataBuffer = [], [], []
    names = [tensor for operation in operations if operation.name in before for tensor in operation.outputs]
    return Parts(model, write_model(_without_unused(part)), boundary, rest, names)


def join(first: bytes, parts: Parts) -> bytes:
    """Returns a .tflite of a first part, which was quantized meanwhile, and the rest."""
    joined, source = read_model(first), parts.model
    graph, rest = joined.subgraphs[0], source.subgraphs[0]
    buffers, codes, tensors = len(joined.buffers), len(joined.operatorCodes), len(graph.tensors)
    places = {
        **dict(zip(map(int, rest.inputs), map(int, graph.inputs), strict=True)),
        **dict(zip(parts.boundary, map(int, graph.outputs), strict=True)),
    }

    def place(tensor: int) -> int:
        return places.get(tensor, tensor + tensors) if tensor >= 0 else tensor

    joined.buffers += source.buffers
    joined.operatorCodes += source.operatorCodes
    for subgraph in source.subgraphs:
        for tensor in subgraph.tensors:
            tensor.buffer += buffers
        for operator in parts.rest if subgraph is rest else subgraph.operators:
            operator.opcodeIndex += codes
    graph.tensors += rest.tensors
    for operator in parts.rest:
        operator.inputs = [place(int(tensor)) for tensor in operator.inputs]
        operator.outputs = [place(int(tensor)) for tensor in operator.outputs]
    graph.operators += parts.rest
    graph.outputs = [place(int(tensor)) for tensor in rest.outputs]
    joined.subgraphs += source.subgraphs[1:]
    joined.signatureDefs = source.signatureDefs
    for signature in joined.signatureDefs or ():
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = place(int(entry.tensorIndex))
    joined.metadata, joined.metadataBuffer = [], []
    return write_model(_without_unused(joined))


def last_layers(parts: Parts) -> list[str]:
    """Returns the names of the tensors that layers with weights pass on to the rest."""
    model = read_model(parts.first)
    graph = model.subgraphs[0]
    ends = {graph.tensors[tensor].name.decode() for tensor in graph.outputs}
    layers = [operation for operation in _operations(model, graph) if operation.kind in (*CONVOLUTIONS, *PRODUCTS)]
    return [tensor for operation in layers for tensor in operation.outputs if tensor in ends]


def with_int8_weights(content: bytes, outputs: Collection[str]) -> bytes:
    """Returns a .tflite in which the convolutions with these outputs have int8 weights, and float32 in- and outputs.

    LiteRT rounds their inputs at each call (dynamic range quantization). The converter can do this only with all
    operations of a file.
    """
    model = read_model(content)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if code.builtinCode != schema.BuiltinOperator.CONV_2D or len(operator.inputs) < 2:
            continue
        weights = graph.tensors[operator.inputs[1]]
        output = graph.tensors[operator.outputs[0]]
        if (
            output.name.decode() in outputs
            and weights.type == schema.TensorType.FLOAT32
            and _is_constant(model, weights)
        ):
            _quantize_weights(model, weights)
            hybrid = copy(code)
            hybrid.version = PER_CHANNEL_HYBRID
            model.operatorCodes.append(hybrid)
            operator.opcodeIndex = len(model.operatorCodes) - 1
    return write_model(_without_unused(model))


def _quantize_weights(model: Any, weights: Any) -> None:
    """Stores weights [F, h, w, C] as int8, with a scale for each filter."""
    values = np.frombuffer(bytes(model.buffers[weights.buffer].data), np.float32).reshape(weights.shape)
    scales = np.maximum(np.abs(values).reshape(len(values), -1).max(axis=1), np.finfo(np.float32).tiny) / 127
    buffer = schema.BufferT()
    buffer.data = np.rint(values / scales[:, np.newaxis, np.newaxis, np.newaxis]).astype(np.int8).view(np.uint8).ravel()
    model.buffers.append(buffer)
    weights.buffer, weights.type = len(model.buffers) - 1, schema.TensorType.INT8
    weights.quantization = schema.QuantizationParametersT()
    weights.quantization.scale = scales.astype(np.float32)
    weights.quantization.zeroPoint = np.zeros(len(scales), np.int64)
    weights.quantization.quantizedDimension = 0


def _operations(model: Any, graph: Any) -> Iterator[Operation]:
    names = [tensor.name.decode() for tensor in graph.tensors]
    constants = {name for name, tensor in zip(names, graph.tensors, strict=True) if _is_constant(model, tensor)}
    for number, operator in enumerate(graph.operators):
        code = model.operatorCodes[operator.opcodeIndex]
        kind = KINDS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
        inputs = [names[index] for index in operator.inputs if index >= 0]
        outputs = [names[index] for index in operator.outputs]
        weights = inputs[1] in constants if len(inputs) > 1 else False
        yield Operation(f"{kind} {number}", kind, inputs, outputs, weights)


def _is_constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _before(operations: Sequence[Operation], network: Collection[str]) -> set[str]:
    """Returns the names of the operations that the network is computed from."""
    needed = {tensor for operation in operations if operation.name in network for tensor in operation.inputs}
    before: set[str] = set()
    for operation in reversed(operations):  # they are in the order of their computation
        if needed & set(operation.outputs):
            before.add(operation.name)
            needed |= set(operation.inputs)
    return before


def _without_unused(model: Any) -> Any:
    """Removes the tensors of the first graph that nothing uses, and the buffers and kinds of operations without users.

    Buffer 0 stays: by the schema it is empty, and is that of all tensors without data.
    """
    graph = model.subgraphs[0]
    used = {int(tensor) for operator in graph.operators for tensor in (*operator.inputs, *operator.outputs)}
    used |= {int(tensor) for operator in graph.operators for tensor in _intermediates(operator)}
    kept = sorted((used | {*map(int, graph.inputs), *map(int, graph.outputs)}) - {-1})
    places = {tensor: place for place, tensor in enumerate(kept)}
    places[-1] = -1
    graph.tensors = [copy(graph.tensors[tensor]) for tensor in kept]
    graph.inputs = [places[int(tensor)] for tensor in graph.inputs]
    graph.outputs = [places[int(tensor)] for tensor in graph.outputs]
    graph.operators = [copy(operator) for operator in graph.operators]
    for operator in graph.operators:
        operator.inputs = [places[int(tensor)] for tensor in operator.inputs]
        operator.outputs = [places[int(tensor)] for tensor in operator.outputs]
        if _intermediates(operator):
            operator.intermediates = [places[int(tensor)] for tensor in operator.intermediates]
    for signature in model.signatureDefs or ():
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = places[int(entry.tensorIndex)]
    model.subgraphs = [graph, *map(_copied, model.subgraphs[1:])]
    _renumber_kinds(model)
    _renumber_buffers(model)
    return model


def _copied(graph: Any) -> Any:
    """Returns a copy whose tensors and operators can be renumbered."""
    graph = copy(graph)
    graph.tensors = list(map(copy, graph.tensors))
    graph.operators = list(map(copy, graph.operators))
    return graph


def _renumber_kinds(model: Any) -> None:
    """Removes kinds of operations without users: the measuring of ranges rejects them."""
    operators = [operator for subgraph in model.subgraphs for operator in subgraph.operators]
    kept = sorted({operator.opcodeIndex for operator in operators})
    places = {code: place for place, code in enumerate(kept)}
    model.operatorCodes = [model.operatorCodes[code] for code in kept]
    for operator in operators:
        operator.opcodeIndex = places[operator.opcodeIndex]


def _intermediates(operator: Any) -> Sequence[int]:
    return () if operator.intermediates is None else operator.intermediates


def _renumber_buffers(model: Any) -> None:
    """Removes buffers without users, and stores equal ones once."""
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    places: dict[int, int] = {}
    by_content: dict[bytes, int] = {}
    kept: list[Any] = []
    for index in sorted({0, *(tensor.buffer for tensor in tensors)}):
        data = model.buffers[index].data
        content = b"" if data is None else bytes(data)
        if content and content in by_content:
            places[index] = by_content[content]
            continue
        places[index] = len(kept)
        if content:
            by_content[content] = len(kept)
        kept.append(model.buffers[index])
    model.buffers = kept
    for tensor in tensors:
        tensor.buffer = places[tensor.buffer]
