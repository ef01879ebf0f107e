"""A model file that the library of another runtime than TensorFlow has loaded: its tensors by name, and its call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from unfreeze.errors import MissingExtraError, SavedModelError
from unfreeze.formatting import first_line
from unfreeze.runtimes.model import Outputs

Shape = tuple[int | None, ...]  # a dimension is None if it may have any length


@dataclass(frozen=True)
class TensorSpec:
    """The name, shape and dtype of an input or output; `shape` is None if it may have any rank."""

    name: str
    shape: Shape | None
    dtype: np.dtype


@dataclass(frozen=True)
class LoadedFile:
    """A loaded model file with all its inputs and outputs.

    `call` takes an array for each input, of its dtype and shape, and returns all outputs. Several threads may call it.
    It raises the errors of its library, which say in their first line what is wrong.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    call: Callable[[Mapping[str, np.ndarray]], Outputs]


def imported(module: str, path: Path, extra: str) -> ModuleType:
    """Returns the module of a runtime. Raises: MissingExtraError if it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtraError(
            f"{path}: needs the package {module.partition('.')[0].replace('_', '-')} to run; "
            f"run pip install 'unfreeze[{extra}]'"
        ) from None


def cannot_be_loaded(path: Path, library: str, error: Exception) -> SavedModelError:
    """Returns the error for a file that a runtime rejects."""
    message = first_line(error).rstrip(".")
    return SavedModelError(f"{path} cannot be loaded by {library}: {message}. Copy or export it again.")
