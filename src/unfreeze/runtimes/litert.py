"""Runs a TFLite model by LiteRT."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.runtimes.image_input import FileModel, ImageInput, cannot_be_loaded, file_model, imported
from unfreeze.runtimes.model import Outputs, name_list


def load_model(path: Path, threads: int | None) -> FileModel:
    """Returns a TFLite model with one signature, ready to run.

    Raises: SavedModelError if it cannot be loaded, or does not take images. MissingExtraError if
    LiteRT is not installed.
    """
    module = imported("ai_edge_litert.interpreter", path, "tflite")
    try:
        interpreter = module.Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except Exception as error:
        raise cannot_be_loaded(path, "LiteRT", error) from None
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise SavedModelError(f"{path}: must have one signature (found {name_list(signatures)})")
    runner = interpreter.get_signature_runner()
    inputs = [
        ImageInput(name, tuple(n if n > 0 else None for n in detail["shape_signature"]), np.dtype(detail["dtype"]))
        for name, detail in runner.get_input_details().items()
    ]
    lock = threading.Lock()  # an interpreter has one set of tensors

    def call(batch: np.ndarray) -> Outputs:
        with lock:
            return dict(runner(**{inputs[0].name: batch}))

    return file_model(path, inputs, list(runner.get_output_details()), call)
