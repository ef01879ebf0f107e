"""Reads a TFLite model without a package for it. Source of the numbers: tensorflow/lite/schema/schema.fbs."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from unfreeze.flatbuffer import Table, root
from unfreeze.inspection.description import Constants, Description
from unfreeze.inspection.inspection import Field, field
from unfreeze.verification.meta_graph import TensorInfo

IDENTIFIER = b"TFL3"  # at byte 4
DTYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16", "int2", "uint4",
)  # fmt: skip
CUSTOM = 32
# The operations of the enumeration BuiltinOperator, in order.
NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM
MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN
EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2
GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG
SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT
UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE
MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND
SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D
CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE
VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL
GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT
"""
OPERATIONS = tuple(NAMES.split())


def read_tflite(path: Path) -> Description:
    """Returns the description of a TFLite model; the names of its inputs and outputs are those of its signature.

    Raises: ValueError: the file is cut short, or is not a TFLite model.
    """
    data = path.read_bytes()
    if data[4:8] != IDENTIFIER:
        raise ValueError("it does not have the bytes TFL3 of a TFLite model")
    try:
        return _description(path, data)
    except (struct.error, IndexError):
        raise ValueError(f"what it refers to is not in its {len(data):,} bytes") from None


def _description(path: Path, data: bytes) -> Description:
    model = root(data)
    codes = [(operation_name(code), code.number(2, "i", 1)) for code in model.tables(1)]
    graphs = model.tables(2)
    if not graphs:
        raise ValueError("it has no graph")
    tensors = graphs[0].tables(0)
    by_signature = {signature.text(2): signature for signature in model.tables(7)}
    signature = next(iter(by_signature.values()), None)
    inputs, outputs = (
        _tensors(tensors, graphs[0].numbers(graph_field), signature.tables(field) if signature else [])
        for graph_field, field in ((1, 0), (2, 1))
    )
    buffers = [(len(buffer.content(0, 1)) or buffer.number(2, "Q")) for buffer in model.tables(4)]
    ends = [buffer.number(1, "Q") + buffer.number(2, "Q") for buffer in model.tables(4)]
    if max(ends, default=0) > len(data):
        raise ValueError(f"its weights end at byte {max(ends)}, and it has {len(data)} bytes")
    constants = {tensor.number(2, "I") for graph in graphs for tensor in graph.tables(0)}
    sizes = [buffers[index] for index in constants if buffers[index]]
    operators = [operator.number(0, "I") for graph in graphs for operator in graph.tables(3)]
    return Description(
        path=path,
        files=[path],
        inputs=inputs,
        outputs=outputs,
        operations=Counter(codes[index][0] for index in operators),
        constants=Constants(len(sizes), sum(sizes)),
        properties=[
            field("schema_version", model.number(0, "I"), str(model.number(0, "I"))),
            field("signatures", list(by_signature), ", ".join(by_signature) or "none"),
            *_versions_field({codes[index] for index in operators}),
            *_metadata_fields(model, data),
        ],
    )


def operation_name(code: Table) -> str:
    """Returns the name of a kind of operations; custom ones have names of their own."""
    index = max(code.number(0, "b"), code.number(3, "i"))  # codes above 127 do not fit into the old field of one byte
    if index == CUSTOM:
        return code.text(1)
    return OPERATIONS[index] if index < len(OPERATIONS) else f"operation {index}"


def _versions_field(operations: set[tuple[str, int]]) -> list[Field]:
    """Returns the versions of the operations, which a runtime must know; only those above 1 are printed."""
    versions: dict[str, int] = {}
    for name, version in sorted(operations):
        versions[name] = max(version, versions.get(name, 0))
    text = ", ".join(f"{name} {version}" for name, version in versions.items() if version > 1)
    return [field("operation_versions", versions, text or "all 1")]


def _metadata_fields(model: Table, data: bytes) -> list[Field]:
    """Returns the names of the metadata, and of the files that are appended to the model as a ZIP archive."""
    names = [entry.text(0) for entry in model.tables(6)]
    file = io.BytesIO(data)
    attached = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    return [
        field("metadata", names, ", ".join(names) or "none"),
        field("attached_files", attached, ", ".join(attached)),
    ]


def _tensors(tensors: list[Table], indices: tuple[int, ...], named: list[Table]) -> Mapping[str, TensorInfo]:
    """Returns the tensors of the indices by the names of the signature, or by their own if there is none."""
    names = {entry.number(1, "I"): entry.text(0) for entry in named}
    found = [(names.get(index, tensors[index].text(3)), tensors[index]) for index in (*names, *indices)]
    return {name: _tensor(name, tensor) for name, tensor in found}


def _tensor(name: str, tensor: Table) -> TensorInfo:
    dtype = tensor.number(1, "b")
    sizes = tensor.numbers(7) if tensor.has(7) else tensor.numbers(0)
    shape = tuple(None if size < 0 else size for size in sizes)
    is_known = bool(shape) or tensor.number(8, "b") != 0  # field 8: whether the rank is known
    return TensorInfo(name, DTYPES[dtype] if dtype < len(DTYPES) else f"dtype {dtype}", shape if is_known else None)
