"""Runs a model file on images: one way for prediction and evaluation, whatever runtime the file is for.

To add a runtime, write a module with a `load_model` function and add a row to RUNTIMES.

Three packages load models by themselves: `verification` tests that each loader accepts a file, `server` serves any
signature with the wire protocol's own checks, and `targets` replays recorded requests of a warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from unfreeze.model_paths import saved_model_folder
from unfreeze.runtimes.model import Model, require_detections

SAVED_MODEL = "saved_model.pb"


class RuntimeModule(Protocol):
    """The interface of a runtime's module."""

    def load_model(self, path: Path, threads: int | None) -> Model:
        """Returns the model in a file or folder, ready to run.

        `threads` limits the threads of one call; None leaves the choice to the runtime.

        Raises: SavedModelError if it cannot be loaded, or does not take images.
        """


@dataclass(frozen=True)
class Runtime:
    """A kind of model file: the suffix by which it is recognized, and the module and the library that run it."""

    name: str
    suffix: str  # empty for folders
    module: str
    library: str = "TensorFlow"  # as its users call it


RUNTIMES = (
    Runtime("SavedModel", "", "unfreeze.runtimes.saved_model"),
    Runtime("frozen graph", ".pb", "unfreeze.runtimes.frozen_graph"),
    Runtime("ONNX", ".onnx", "unfreeze.runtimes.onnx_runtime", "ONNX Runtime"),
    Runtime("OpenVINO", ".xml", "unfreeze.runtimes.openvino", "OpenVINO"),
    Runtime("TFLite", ".tflite", "unfreeze.runtimes.litert", "LiteRT"),
)


@dataclass(frozen=True)
class ModelFile:
    """A model on this machine, and the runtime that can run it."""

    path: Path
    runtime: Runtime


def find_model(path: str | Path) -> ModelFile:
    """Returns the model of a path: a file with a runtime's suffix, or a SavedModel's folder or the one above it.

    Imports no runtime, so that a wrong path is reported at once. Raises: SavedModelError if there is no model.
    """
    file = Path(path)
    is_file = "://" not in str(path) and file.name != SAVED_MODEL and not file.is_dir()
    for runtime in RUNTIMES:
        if runtime.suffix and is_file and file.suffix == runtime.suffix:
            return ModelFile(file, runtime)
    return ModelFile(saved_model_folder(path), RUNTIMES[0])


def load_model(file: ModelFile, threads: int | None = None) -> Model:
    """Returns a model, ready to run.

    `threads` limits the threads of one call of `run`; None leaves the choice to the runtime. With TensorFlow it is a
    setting of the process, and has no effect once TensorFlow has run.

    Raises: SavedModelError if it cannot be loaded, or is not a detector that takes images.
    """
    model = load_any_model(file, threads)
    require_detections(model.title, model.output_names)
    return model


def load_any_model(file: ModelFile, threads: int | None = None) -> Model:
    """Returns a model of images, a detector or another, ready to run; as `load_model`."""
    return cast(RuntimeModule, import_module(file.runtime.module)).load_model(file.path, threads)
