"""Runs a model of OpenVINO's intermediate representation (model.xml, model.bin)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from unfreeze.runtimes.image_input import FileModel, image_model
from unfreeze.runtimes.loaded_file import LoadedFile, TensorSpec, cannot_be_loaded, imported
from unfreeze.runtimes.model import Outputs

CONVERTER = "openvino.tools.ovc"
HEADINGS = re.compile(r"Exception from \S+:\d+:|Check '.*' failed at \S+:\d+:|While validating node ")


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
    openvino = import_openvino(path)
    # Without a memory map, a process that runs the model survives that its file is overwritten.
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_MMAP": False}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    require_intermediate_representation(path)
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:
        raise cannot_be_loaded(path, "OpenVINO", without_headings(error)) from None
    inputs = tuple(map(tensor_spec, compiled.inputs))
    outputs = tuple(map(tensor_spec, compiled.outputs))

    def call(arrays: Mapping[str, np.ndarray]) -> Outputs:
        request = compiled.create_infer_request()  # one for each call, so that several threads can run the model
        try:
            results = request.infer([arrays[spec.name] for spec in inputs])
        except RuntimeError as error:
            raise without_headings(error) from None
        return {spec.name: np.array(results[index]) for index, spec in enumerate(outputs)}

    return LoadedFile(path, inputs, outputs, call)


def without_headings(error: Exception) -> RuntimeError:
    """Returns an error of OpenVINO without the lines about its own source, so that the first line is the reason."""
    lines = [line for line in str(error).splitlines() if not HEADINGS.match(line)]
    return RuntimeError("\n".join(lines) or str(error))


def require_intermediate_representation(path: Path) -> None:
    """Raises SavedModelError if a file does not begin as a model.xml.

    OpenVINO would load its readers of all other formats for it, TensorFlow's among them, into a process that may have
    TensorFlow itself.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1000)
    except OSError as error:
        raise cannot_be_loaded(path, "OpenVINO", error) from None
    if b"<net" not in head:
        raise cannot_be_loaded(path, "OpenVINO", ValueError("it does not begin with a <net> element"))


def import_openvino(path: Path) -> ModuleType:
    """Returns the module of OpenVINO. Raises: MissingExtraError if it is not installed.

    Its converter of models takes half of the time of its import, and running a model does not need it: it is imported
    when it is used.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    sys.modules[CONVERTER] = None  # type: ignore[assignment]  # makes the import of it fail, which OpenVINO allows
    try:
        openvino = imported("openvino", path, "openvino")
    finally:
        del sys.modules[CONVERTER]
    openvino.__getattr__ = attribute_of_openvino  # type: ignore[method-assign]
    return openvino


def attribute_of_openvino(name: str) -> object:
    """Returns an attribute that the module of OpenVINO does not have yet."""
    if name == "convert_model":
        return import_module(CONVERTER).convert_model
    raise AttributeError(f"module 'openvino' has no attribute {name!r}")


def tensor_spec(port: Any) -> TensorSpec:
    """Returns an input or output."""
    shape = port.get_partial_shape()
    lengths = None if shape.rank.is_dynamic else tuple(None if n.is_dynamic else n.get_length() for n in shape)
    return TensorSpec(port.get_any_name(), lengths, np.dtype(port.get_element_type().to_dtype()))
