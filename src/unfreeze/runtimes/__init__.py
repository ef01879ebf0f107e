"""Runs a model file on images: one way for prediction and evaluation, whatever runtime the file is for.

To add a runtime, write a module with a `load_model` function and add a row to RUNTIMES.

Three packages load SavedModels by themselves: `verification` tests that each loader accepts a file, `server` serves
any signature with the wire protocol's own checks, and `targets` replays recorded requests of a warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from unfreeze.model_paths import saved_model_folder, saved_model_in
from unfreeze.runtimes.loaded_file import LoadedFile
from unfreeze.runtimes.model import Model, require_detections

SAVED_MODEL = "saved_model.pb"


class RuntimeModule(Protocol):
    """The interface of a runtime's module."""

    def load_model(self, path: Path, threads: int | None) -> Model:
        """Returns the model in a file or folder, ready to run.

        `threads` limits the threads of one call; None leaves the choice to the runtime.

        Raises: SavedModelError if it cannot be loaded, or does not take images.
        """


class FileRuntimeModule(RuntimeModule, Protocol):
    """The interface of the module of a runtime other than TensorFlow."""

    def load_file(self, path: Path, threads: int | None) -> LoadedFile:
        """Returns the model in a file with all its inputs and outputs, whether it is a detector or not.

        Raises: SavedModelError if it cannot be loaded. MissingExtraError if the library is not installed.
        """


@dataclass(frozen=True)
class Runtime:
    """A kind of model file: the suffix by which it is recognized, and the module and the library that run it.

    `files` are the names that the file may have in the folder of a version or of an export; they are empty for the
    runtimes of TensorFlow, whose modules have no `load_file`.
    `package` and `extra`: what to import and to install for the library.
    """

    name: str
    suffix: str  # empty for folders
    module: str
    library: str = "TensorFlow"  # as its users call it
    files: tuple[str, ...] = ()
    package: str = "tensorflow"
    extra: str = ""


RUNTIMES = (
    Runtime("SavedModel", "", "unfreeze.runtimes.saved_model"),
    Runtime("frozen graph", ".pb", "unfreeze.runtimes.frozen_graph"),
    Runtime("ONNX", ".onnx", "unfreeze.runtimes.onnx_runtime", "ONNX Runtime", ("model.onnx",), "onnxruntime", "onnx"),
    Runtime(
        "OpenVINO",
        ".xml",
        "unfreeze.runtimes.openvino",
        "OpenVINO",
        ("model.xml", "openvino/model.xml"),
        "openvino",
        "openvino",
    ),
    Runtime("TFLite", ".tflite", "unfreeze.runtimes.litert", "LiteRT", ("model.tflite",), "ai_edge_litert", "tflite"),
)
FILE_RUNTIMES = tuple(runtime for runtime in RUNTIMES if runtime.files)


@dataclass(frozen=True)
class ModelFile:
    """A model on this machine, and the runtime that can run it."""

    path: Path
    runtime: Runtime


def find_model(path: str | Path) -> ModelFile:
    """Returns the model of a path: a file with a runtime's suffix, or the SavedModel or the first file of a folder.

    Imports no runtime, so that a wrong path is reported at once. Raises: SavedModelError if there is no model.
    """
    file = Path(path)
    is_file = "://" not in str(path) and file.name != SAVED_MODEL and not file.is_dir()
    for runtime in RUNTIMES:
        if runtime.suffix and is_file and file.suffix == runtime.suffix:
            return ModelFile(file, runtime)
    if "://" not in str(path) and not saved_model_in(file) and (found := find_model_file(file)):
        return found
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


def find_model_file(path: Path) -> ModelFile | None:
    """Returns a file of a runtime other than TensorFlow, or the first one of a folder in the order of RUNTIMES."""
    for runtime in FILE_RUNTIMES:
        candidates = [path / name for name in runtime.files] if path.is_dir() else [path]
        for file in candidates:
            if file.suffix == runtime.suffix and file.is_file():
                return ModelFile(file, runtime)
    return None


def load_file(file: ModelFile, threads: int | None = None) -> LoadedFile:
    """Returns the model in a file of a runtime other than TensorFlow, with all its inputs and outputs.

    Raises: SavedModelError if it cannot be loaded. MissingExtraError if its library is not installed.
    """
    return cast(FileRuntimeModule, import_module(file.runtime.module)).load_file(file.path, threads)
