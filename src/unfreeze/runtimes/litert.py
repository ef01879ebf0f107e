"""Runs a TFLite model by LiteRT."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.runtimes.image_input import FileModel, image_model
from unfreeze.runtimes.loaded_file import LoadedFile, TensorSpec, cannot_be_loaded, imported
from unfreeze.runtimes.model import Outputs, name_list
from unfreeze.runtimes.tflite_file import read_last_inputs, read_normalization

POSTPROCESS = "TFLite_Detection_PostProcess"  # the operation, and the first of its four outputs
# The outputs of the operation, and what it decodes and suppresses, by the names of the Object Detection API.
POSTPROCESS_OUTPUTS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
POSTPROCESS_INPUTS = ("raw_outputs/box_encodings", "raw_outputs/class_predictions")

Call = Callable[[Mapping[str, np.ndarray]], Outputs]


def load_model(path: Path, threads: int | None) -> FileModel:
    """Returns a TFLite model of images, ready to run: with one signature, or that of TFLite_Detection_PostProcess.

    Raises: SavedModelError if it cannot be loaded, or does not take images. MissingExtraError if LiteRT is not
    installed.
    """
    return image_model(load_file(path, threads))


def load_file(path: Path, threads: int | None) -> LoadedFile:
    """Returns a TFLite model of any kind with one signature, or with the outputs of TFLite_Detection_PostProcess.

    Raises: SavedModelError if it cannot be loaded. MissingExtraError if LiteRT is not installed.
    """
    module = imported("ai_edge_litert.interpreter", path, "tflite")
    try:
        # The content, not the path, of which LiteRT makes a memory map: a process that runs the model would not
        # survive that its file is overwritten.
        content = path.read_bytes()
        interpreter = module.Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except Exception as error:
        raise cannot_be_loaded(path, "LiteRT", error) from None
    signatures = interpreter.get_signature_list()
    outputs = interpreter.get_output_details()
    if not signatures and len(outputs) == 4 and outputs[0]["name"] == POSTPROCESS:
        try:
            return _postprocess_file(path, content, interpreter)
        except (struct.error, IndexError) as error:  # its metadata is damaged, which LiteRT does not read
            raise cannot_be_loaded(path, "LiteRT", error) from None
    if len(signatures) != 1:
        raise SavedModelError(f"{path}: must have one signature (found {name_list(signatures)})")
    runner = interpreter.get_signature_runner()
    return LoadedFile(
        path,
        _tensor_specs(runner.get_input_details()),
        _tensor_specs(runner.get_output_details()),
        _one_at_a_time(lambda inputs: dict(runner(**inputs))),
    )


def _postprocess_file(path: Path, content: bytes, interpreter: Any) -> LoadedFile:
    """Returns a model that ends in TFLite_Detection_PostProcess, with the outputs of the Object Detection API."""
    [image] = interpreter.get_input_details()
    normalization = None if image["dtype"] == np.uint8 else read_normalization(content)
    if normalization is None and image["dtype"] != np.uint8:
        raise SavedModelError(
            f"{path}: has no metadata that says how pixels are normalized. Export it again with --postprocessing "
            "tflite_op."
        )
    means, deviations = normalization or (np.float32(0), np.float32(1))
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    outputs = {
        **dict(zip(POSTPROCESS_OUTPUTS, interpreter.get_output_details(), strict=True)),
        **{name: tensors[index] for name, index in zip(POSTPROCESS_INPUTS, read_last_inputs(content)[:2], strict=True)},
    }

    def call(inputs: Mapping[str, np.ndarray]) -> Outputs:
        pixels = ((inputs[image["name"]] - means) / deviations).astype(image["dtype"])
        interpreter.set_tensor(image["index"], pixels)
        interpreter.invoke()
        results = {name: interpreter.get_tensor(tensor["index"]) for name, tensor in outputs.items()}
        results["detection_classes"] += 1  # the operation counts from 0
        return results

    return LoadedFile(path, _tensor_specs({image["name"]: image}), _tensor_specs(outputs), _one_at_a_time(call))


def _tensor_specs(details: Mapping[str, Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, tuple(int(n) if n > 0 else None for n in detail["shape_signature"]), np.dtype(detail["dtype"]))
        for name, detail in details.items()
    )


def _one_at_a_time(call: Call) -> Call:
    """Returns a call that waits for the one before: an interpreter has one set of tensors."""
    lock = threading.Lock()

    def locked(inputs: Mapping[str, np.ndarray]) -> Outputs:
        with lock:
            return call(inputs)

    return locked
