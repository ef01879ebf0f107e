"""The input of a model file of another runtime than TensorFlow: its name, its shape, and batches that fit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.formatting import first_line
from unfreeze.runtimes.loaded_file import LoadedFile, Shape
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
        pixels = resized(images, height or images.shape[1], width or images.shape[2], self.dtype)
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


def resized(images: np.ndarray, height: int, width: int, dtype: np.dtype) -> np.ndarray:
    """Returns images `[N, H, W, 3]` uint8 in another size and dtype, rounded if it is uint8.

    Pixels are sampled as the `fixed_shape_resizer` of the Object Detection API does by default: bilinear, the corner
    pixels at the corners of the grid, without smoothing. Source: tf.compat.v1.image.resize_images.
    """
    if images.shape[1:3] == (height, width):
        return images.astype(dtype, copy=False)
    rows, next_rows, row_weights = _samples(images.shape[1], height)
    columns, next_columns, column_weights = _samples(images.shape[2], width)
    row_weights, column_weights = row_weights[:, np.newaxis, np.newaxis], column_weights[:, np.newaxis]

    def one(image: np.ndarray) -> np.ndarray:
        upper, lower = image[rows].astype(np.float32), image[next_rows].astype(np.float32)
        mixed = upper + (lower - upper) * row_weights
        left, right = mixed[:, columns], mixed[:, next_columns]
        pixels: np.ndarray = left + (right - left) * column_weights
        return (np.rint(pixels) if dtype == np.uint8 else pixels).astype(dtype)

    return np.stack([one(image) for image in images])


def _samples(length: int, new_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two pixels that each new one is between, and how far it is from the first."""
    places = np.arange(new_length, dtype=np.float32) * np.float32(length / new_length)
    first = np.minimum(places.astype(int), length - 1)
    return first, np.minimum(first + 1, length - 1), places - first
