"""Reads from a .tflite what its interpreter has no method for: the normalization, and the inputs of the last operation.

The numbers are those of fields in tensorflow/lite/schema/schema.fbs and mediapipe/tasks/metadata/metadata_schema.fbs.
Both functions raise struct.error or IndexError if the model refers to what is not in it.
"""

from __future__ import annotations

import numpy as np

from unfreeze.flatbuffer import Table, root

METADATA = "TFLITE_METADATA"
NORMALIZATION_OPTIONS = 1

Normalization = tuple[np.ndarray, np.ndarray]  # means and deviations, float32


def read_normalization(content: bytes) -> Normalization | None:
    """Returns means and deviations of the input: `(pixel - mean) / deviation`; None if the model does not say."""
    model = root(content)
    for entry in model.tables(6):
        if entry.text(0) == METADATA:
            return _normalization(root(model.tables(4)[entry.number(1, "I")].content(0, 1)))
    return None


def read_last_inputs(content: bytes) -> tuple[int, ...]:
    """Returns the indices of the tensors that the last operation takes."""
    return root(content).tables(2)[0].tables(3)[-1].numbers(1)


def _normalization(metadata: Table) -> Normalization | None:
    for unit in metadata.tables(3)[0].tables(2)[0].tables(4):
        if unit.number(0, "B") == NORMALIZATION_OPTIONS:
            options = unit.table(1)
            return np.frombuffer(options.content(0, 4), np.float32), np.frombuffer(options.content(1, 4), np.float32)
    return None
