"""Runs a model of OpenVINO's intermediate representation (model.xml, model.bin)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.runtimes.image_input import FileModel, image_model
from unfreeze.runtimes.loaded_file import LoadedFile, TensorSpec, cannot_be_loaded, imported
from unfreeze.runtimes.model import Outputs


def load_model(path: Path, threads: int | None) -> FileModel:
    """Returns a model of images on the CPU in float32, ready to run.

    Raises: SavedModelError if it cannot be loaded, or does not take images. MissingExtraError if
    OpenVINO is not installed.
    """
    return image_model(load_file(path, threads))


def load_file(path: Path, threads: int | None) -> LoadedFile:
    """Returns a model of any kind on the CPU in float32.

    Raises: SavedModelError if it cannot be loaded. MissingExtraError if OpenVINO is not installed.
    """
    openvino = imported("openvino", path, "openvino")
    # Without a memory map, a process that runs the model survives that its file is overwritten.
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_MMAP": False}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:
        raise cannot_be_loaded(path, "OpenVINO", error) from None
    inputs = tuple(map(tensor_spec, compiled.inputs))
    outputs = tuple(map(tensor_spec, compiled.outputs))

    def call(arrays: Mapping[str, np.ndarray]) -> Outputs:
        request = compiled.create_infer_request()  # one for each call, so that several threads can run the model
        results = request.infer([arrays[spec.name] for spec in inputs])
        return {spec.name: np.array(results[index]) for index, spec in enumerate(outputs)}

    return LoadedFile(path, inputs, outputs, call)


def tensor_spec(port: Any) -> TensorSpec:
    """Returns an input or output."""
    shape = port.get_partial_shape()
    lengths = None if shape.rank.is_dynamic else tuple(None if n.is_dynamic else n.get_length() for n in shape)
    return TensorSpec(port.get_any_name(), lengths, np.dtype(port.get_element_type().to_dtype()))
