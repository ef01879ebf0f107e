"""Runs an ONNX model by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unfreeze.runtimes.image_input import FileModel, ImageInput, cannot_be_loaded, file_model, imported
from unfreeze.runtimes.model import Outputs

DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def load_model(path: Path, threads: int | None) -> FileModel:
    """Returns an ONNX model on the CPU, ready to run.

    Raises: SavedModelError if it cannot be loaded, or does not take images. MissingExtraError if
    ONNX Runtime is not installed.
    """
    onnxruntime = imported("onnxruntime", path, "onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise cannot_be_loaded(path, "ONNX Runtime", error) from None
    inputs = [
        ImageInput(each.name, tuple(n if isinstance(n, int) else None for n in each.shape), np.dtype(DTYPES[each.type]))
        for each in session.get_inputs()
        if each.type in DTYPES
    ]
    names = [output.name for output in session.get_outputs()]

    def call(batch: np.ndarray) -> Outputs:
        return dict(zip(names, session.run(names, {inputs[0].name: batch}), strict=True))

    return file_model(path, inputs, names, call)
