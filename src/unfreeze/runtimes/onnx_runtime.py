"""Runs an ONNX model by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.runtimes.image_input import FileModel, image_model
from unfreeze.runtimes.loaded_file import LoadedFile, TensorSpec, cannot_be_loaded, imported
from unfreeze.runtimes.model import Outputs

TENSORRT_PLUGIN = "EfficientNMS_TRT"

# The type of a tensor in ONNX Runtime -> the name of NumPy's dtype.
DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
}  # fmt: skip


def load_model(path: Path, threads: int | None) -> FileModel:
    """Returns an ONNX model of images on the CPU, ready to run.

    Raises: SavedModelError if it cannot be loaded, or does not take images. MissingExtraError if
    ONNX Runtime is not installed.
    """
    return image_model(load_file(path, threads))


def load_file(path: Path, threads: int | None) -> LoadedFile:
    """Returns an ONNX model of any kind on the CPU.

    Raises: SavedModelError if it cannot be loaded. MissingExtraError if ONNX Runtime is not installed.
    """
    onnxruntime = imported("onnxruntime", path, "onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if TENSORRT_PLUGIN in str(error):
            raise SavedModelError(
                f"{path}: ends in {TENSORRT_PLUGIN}, which only TensorRT has, so that ONNX Runtime cannot run it. Run "
                "it in TensorRT, or export the model without --postprocessing tensorrt."
            ) from None
        raise cannot_be_loaded(path, "ONNX Runtime", error) from None
    outputs = tuple(tensor_spec(path, node) for node in session.get_outputs())
    names = [output.name for output in outputs]

    def call(inputs: Mapping[str, np.ndarray]) -> Outputs:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return LoadedFile(path, tuple(tensor_spec(path, node) for node in session.get_inputs()), outputs, call)


def tensor_spec(path: Path, node: Any) -> TensorSpec:
    """Returns an input or output. Raises: SavedModelError if it is not a tensor of numbers."""
    if node.type not in DTYPES:
        raise SavedModelError(f"{path}: {node.name} is a {node.type} (expected: a tensor of numbers)")
    return TensorSpec(
        node.name, tuple(n if isinstance(n, int) else None for n in node.shape), np.dtype(DTYPES[node.type])
    )
