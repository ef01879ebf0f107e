"""The input of a model file of another runtime than TensorFlow: its name, its shape, and batches that fit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from unfreeze.errors import MissingExtraError, SavedModelError
from unfreeze.formatting import first_line
from unfreeze.runtimes.model import Outputs, name_list


@dataclass(frozen=True)
class ImageInput:
    """The input for images `[N, H, W, 3]`; a dimension is None if it may have any length."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype

    def batches(self, images: np.ndarray) -> list[np.ndarray]:
        """Returns images `[N, H, W, 3]` uint8 in batches, sizes and the dtype that the input takes."""
        count, height, width, _ = self.shape
        pixels = resized(images, height or images.shape[1], width or images.shape[2]).astype(self.dtype, copy=False)
        rows = count or len(pixels)
        parts = [pixels[start : start + rows] for start in range(0, len(pixels), rows)]
        return [part if len(part) == rows else np.resize(part, (rows, *part.shape[1:])) for part in parts]


@dataclass(frozen=True)
class FileModel:
    """A loaded model file of a runtime; `call` runs one batch that fits `input`."""

    path: Path
    input: ImageInput
    output_names: Sequence[str]
    call: Callable[[np.ndarray], Outputs]
    uses_gpu: bool = False

    @property
    def title(self) -> str:
        """Returns the path."""
        return str(self.path)

    def run(self, images: np.ndarray) -> Outputs:
        """Returns every output for images `[N, H, W, 3]`, in one call if the model's batch size allows it."""
        try:
            results = [self.call(batch) for batch in self.input.batches(images)]
        except Exception as error:  # each runtime has its own errors
            raise SavedModelError(f"{self.path}: the model failed: {first_line(error)}") from error
        return {name: np.concatenate([result[name] for result in results])[: len(images)] for name in results[0]}


def file_model(
    path: Path,
    inputs: Sequence[ImageInput],
    outputs: Sequence[str],
    call: Callable[[np.ndarray], Outputs],
) -> FileModel:
    """Returns a model with one input for images. Raises: SavedModelError if it has other inputs."""
    if len(inputs) != 1:
        names = name_list(tuple(each.name for each in inputs))
        raise SavedModelError(f"{path}: must take one input, images; it takes {names}")
    if len(inputs[0].shape) != 4 or inputs[0].shape[3] not in (3, None):
        raise SavedModelError(f"{path}: takes {list(inputs[0].shape)}, not images [N, H, W, 3]")
    return FileModel(path, inputs[0], outputs, call)


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
    return SavedModelError(f"{path} cannot be loaded by {library}: {first_line(error)}. Copy or export it again.")


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns images `[N, H, W, 3]` uint8 in another size."""
    if images.shape[1:3] == (height, width):
        return images
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in images])
