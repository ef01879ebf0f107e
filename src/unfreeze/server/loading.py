"""Finds the model of a version, and loads it: a SavedModel, or a file of ONNX, OpenVINO or TFLite."""

import os
from pathlib import Path

from unfreeze.runtimes import FILE_RUNTIMES, ModelFile, find_model_file
from unfreeze.server.loaded import LoadedModel
from unfreeze.server.model_files import load_model_file
from unfreeze.server.saved_models import SAVED_MODEL, load_saved_model
from unfreeze.server.status import not_found


def load(path: str | os.PathLike[str]) -> LoadedModel:
    """Loads the model in the folder of a version, or a model file.

    Raises: StatusError if there is none, or if its runtime cannot load it.
    """
    path = Path(path)
    file = other_model_file(path)
    if file:
        return load_model_file(version_folder(path), file)
    require_no_misnamed_file(path)
    return load_saved_model(path)


def version_folder(path: Path) -> Path:
    """Returns the folder of a version, which is that of the file if a version is one file."""
    return path if path.is_dir() else path.parent


def other_model_file(path: Path) -> ModelFile | None:
    """Returns the model file of a version; None if it has a SavedModel, which comes first, or no model."""
    return None if (path / SAVED_MODEL).exists() else find_model_file(path)


def require_no_misnamed_file(folder: Path) -> None:
    """Raises StatusError NOT_FOUND if a folder has no SavedModel, but a model file of another name than expected."""
    if (folder / SAVED_MODEL).exists():
        return
    for runtime in FILE_RUNTIMES:
        for file in sorted(folder.glob(f"*{runtime.suffix}")):
            raise not_found(f"{file} is not served under this name. Rename it to {runtime.files[0]}.")
