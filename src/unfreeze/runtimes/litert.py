"""Runs a TFLite model by LiteRT."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.runtimes.image_input import FileModel, ImageInput, cannot_be_loaded, file_model, imported
from unfreeze.runtimes.model import Outputs, name_list
from unfreeze.runtimes.tflite_file import read_last_inputs, read_normalization

POSTPROCESS = "TFLite_Detection_PostProcess"  # the operation, and the first of its four outputs
# What it decodes and suppresses, by the names of the Object Detection API.
POSTPROCESS_INPUTS = ("raw_outputs/box_encodings", "raw_outputs/class_predictions")


def load_model(path: Path, threads: int | None) -> FileModel:
    """Returns a TFLite model with one signature or the outputs of TFLite_Detection_PostProcess, ready to run.

    Raises: SavedModelError if it cannot be loaded, or does not take images. MissingExtraError if LiteRT is not
    installed.
    """
    module = imported("ai_edge_litert.interpreter", path, "tflite")
    try:
        interpreter = module.Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except Exception as error:
        raise cannot_be_loaded(path, "LiteRT", error) from None
    signatures = interpreter.get_signature_list()
    outputs = interpreter.get_output_details()
    if not signatures and len(outputs) == 4 and outputs[0]["name"] == POSTPROCESS:
        return _postprocess_model(path, interpreter)
    if len(signatures) != 1:
        raise SavedModelError(f"{path}: must have one signature (found {name_list(signatures)})")
    runner = interpreter.get_signature_runner()
    inputs = [_image_input(name, detail) for name, detail in runner.get_input_details().items()]
    return file_model(
        path,
        inputs,
        list(runner.get_output_details()),
        _one_at_a_time(lambda batch: dict(runner(**{inputs[0].name: batch}))),
    )


def _postprocess_model(path: Path, interpreter: Any) -> FileModel:
    """Returns a model that ends in TFLite_Detection_PostProcess, with the outputs of the Object Detection API."""
    [image] = interpreter.get_input_details()
    outputs = interpreter.get_output_details()
    content = path.read_bytes()
    normalization = None if image["dtype"] == np.uint8 else read_normalization(content)
    if normalization is None and image["dtype"] != np.uint8:
        raise SavedModelError(
            f"{path}: has no metadata that says how pixels are normalized. Export it again with --postprocessing "
            "tflite_op."
        )
    means, deviations = normalization or (np.float32(0), np.float32(1))
    raw = dict(zip(POSTPROCESS_INPUTS, read_last_inputs(content)[:2], strict=True))

    def call(batch: np.ndarray) -> Outputs:
        pixels = ((batch - means) / deviations).astype(image["dtype"])
        interpreter.set_tensor(image["index"], pixels)
        interpreter.invoke()
        boxes, classes, scores, number = (interpreter.get_tensor(output["index"]) for output in outputs)
        return {
            "detection_boxes": boxes,
            "detection_classes": classes + 1,  # the operation counts from 0
            "detection_scores": scores,
            "num_detections": number,
            **{name: interpreter.get_tensor(index) for name, index in raw.items()},
        }

    names = ("detection_boxes", "detection_classes", "detection_scores", "num_detections", *raw)
    return file_model(path, [_image_input(image["name"], image)], names, _one_at_a_time(call))


def _image_input(name: str, detail: Any) -> ImageInput:
    shape = tuple(length if length > 0 else None for length in detail["shape_signature"])
    return ImageInput(name, shape, np.dtype(detail["dtype"]))


def _one_at_a_time(call: Callable[[np.ndarray], Outputs]) -> Callable[[np.ndarray], Outputs]:
    """Returns a call that waits for the one before: an interpreter has one set of tensors."""
    lock = threading.Lock()

    def locked(batch: np.ndarray) -> Outputs:
        with lock:
            return call(batch)

    return locked
