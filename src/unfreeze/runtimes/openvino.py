"""Runs a model of OpenVINO's intermediate representation (model.xml, model.bin)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unfreeze.runtimes.image_input import FileModel, ImageInput, cannot_be_loaded, file_model, imported
from unfreeze.runtimes.model import Outputs


def load_model(path: Path, threads: int | None) -> FileModel:
    """Returns a model on the CPU in float32, ready to run.

    Raises: SavedModelError if it cannot be loaded, or does not take images. MissingExtraError if
    OpenVINO is not installed.
    """
    openvino = imported("openvino", path, "openvino")
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:
        raise cannot_be_loaded(path, "OpenVINO", error) from None
    inputs = [
        ImageInput(
            port.get_any_name(),
            tuple(None if n.is_dynamic else n.get_length() for n in port.get_partial_shape()),
            np.dtype(port.get_element_type().to_dtype()),
        )
        for port in compiled.inputs
    ]
    names = [port.get_any_name() for port in compiled.outputs]

    def call(batch: np.ndarray) -> Outputs:
        request = compiled.create_infer_request()  # one for each call, so that several threads can run the model
        results = request.infer([batch])
        return {name: np.array(results[index]) for index, name in enumerate(names)}

    return file_model(path, inputs, names, call)
