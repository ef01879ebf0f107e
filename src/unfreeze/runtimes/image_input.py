"""The input of a model file of another runtime than TensorFlow: its name, its shape, and batches that fit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.errors import SavedModelError
from unfreeze.runtimes.loaded_file import LoadedFile, Shape, library_message
from unfreeze.runtimes.model import Outputs, name_list


@dataclass(frozen=True)
class ImageInput:
    """The input for images `[N, H, W, 3]`; a dimension is None if it may have any length."""

    name: str
    shape: Shape
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
            raise SavedModelError(f"{self.path}: the model failed: {library_message(error)}") from error
        return {name: np.concatenate([result[name] for result in results])[: len(images)] for name in results[0]}


def image_model(file: LoadedFile) -> FileModel:
    """Returns the model of a file that has one input for images. Raises: SavedModelError if it has other inputs."""
    path = file.path
    if len(file.inputs) != 1:
        names = name_list(each.name for each in file.inputs)
        raise SavedModelError(f"{path}: must take one input, images; it takes {names}")
    [spec] = file.inputs
    if spec.shape is None or len(spec.shape) != 4 or spec.shape[3] not in (3, None):
        shape = "any shape" if spec.shape is None else list(spec.shape)
        raise SavedModelError(f"{path}: takes {shape}, not images [N, H, W, 3]")
    image_input = ImageInput(spec.name, spec.shape, spec.dtype)
    outputs = tuple(output.name for output in file.outputs)
    return FileModel(path, image_input, outputs, lambda batch: file.call({spec.name: batch}))


def resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns images `[N, H, W, 3]` uint8 in another size."""
    if images.shape[1:3] == (height, width):
        return images
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in images])
