"""Reads from a .tflite what its interpreter has no method for: the normalization, and the inputs of the last operation.

The numbers are those of fields in tensorflow/lite/schema/schema.fbs and mediapipe/tasks/metadata/metadata_schema.fbs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from flatbuffers import encode, number_types, packer
from flatbuffers.table import Table

METADATA = b"TFLITE_METADATA"
NORMALIZATION_OPTIONS = 1

Normalization = tuple[np.ndarray, np.ndarray]  # means and deviations, float32


def read_normalization(content: bytes) -> Normalization | None:
    """Returns means and deviations of the input: `(pixel - mean) / deviation`; None if the model does not say."""
    model = _root(content)
    buffers = list(_tables(model, 4))
    for entry in _tables(model, 6):
        name = entry.Offset(_slot(0))
        if name and bytes(entry.String(entry.Pos + name)) == METADATA:
            buffer = buffers[_number(entry, 1, number_types.Uint32Flags)]
            return _normalization(_root(bytes(_vector(buffer, 0, np.uint8))))
    return None


def read_last_inputs(content: bytes) -> list[int]:
    """Returns the indices of the tensors that the last operation takes."""
    [*_, operation] = _tables(next(_tables(_root(content), 2)), 3)
    return [int(index) for index in _vector(operation, 1, np.int32)]


def _normalization(metadata: Any) -> Normalization | None:
    subgraph = next(_tables(metadata, 3))
    image = next(_tables(subgraph, 2))
    for unit in _tables(image, 4):
        if _number(unit, 0, number_types.Uint8Flags) == NORMALIZATION_OPTIONS:
            options = Table(unit.Bytes, unit.Indirect(unit.Pos + unit.Offset(_slot(1))))
            return _vector(options, 0, np.float32), _vector(options, 1, np.float32)
    return None


def _root(content: bytes) -> Any:
    return Table(content, encode.Get(packer.uoffset, content, 0))


def _slot(field: int) -> int:
    """Returns the place of a field in the table of offsets."""
    return 4 + 2 * field


def _number(table: Any, field: int, kind: Any) -> int:
    offset = table.Offset(_slot(field))
    return int(table.Get(kind, table.Pos + offset)) if offset else 0


def _tables(table: Any, field: int) -> Iterator[Any]:
    offset = table.Offset(_slot(field))
    for number in range(table.VectorLen(offset) if offset else 0):
        yield Table(table.Bytes, table.Indirect(table.Vector(offset) + 4 * number))


def _vector(table: Any, field: int, dtype: Any) -> np.ndarray:
    offset = table.Offset(_slot(field))
    if not offset:
        return np.zeros([0], dtype)
    return np.frombuffer(table.Bytes, dtype, table.VectorLen(offset), table.Vector(offset))
