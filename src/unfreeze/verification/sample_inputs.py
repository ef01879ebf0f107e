"""The images that a model is run on: the user's, or generated ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from unfreeze.verification.meta_graph import MetaGraph

# Heights and widths of a generated image: for a detector, which resizes it, and for any graph, which may accept only
# what its strides divide.
DETECTOR_SIZE, GRAPH_SIZE = (240, 320), (256, 384)


@dataclass(frozen=True)
class SampleInput:
    """Two images of one size, `[2, H, W, 3]` uint8; `generated` if they show no real objects."""

    name: str
    images: np.ndarray
    generated: bool = False


Image: TypeAlias = str | Path | np.ndarray | SampleInput  # a file, uint8 `[H, W, 3]`, or a pair that exists already


def sample_inputs(
    meta_graphs: Sequence[MetaGraph],
    images: Sequence[Image],
    default_size: tuple[int, int] = DETECTOR_SIZE,
) -> list[SampleInput]:
    """Returns each of the images with its mirror image, in the size that the models require.

    Raises: ImageError if an image cannot be read.
    """
    return image_pairs(images, fixed_image_size(meta_graphs), default_size)


def image_pairs(
    images: Sequence[Image],
    size: tuple[int | None, int | None],
    default_size: tuple[int, int] = DETECTOR_SIZE,
) -> list[SampleInput]:
    """Returns each of the images with its mirror image; a generated pair if there are no images.

    Args:
        size: height and width to which image files are resized; None keeps their own.
        default_size: that of a generated image, where `size` is None.

    Raises: ImageError if an image cannot be read.
    """
    height, width = size
    if not images:
        generated = sample_images(height or default_size[0], width or default_size[1])
        return [SampleInput("a generated image", generated, generated=True)]
    fixed = (height, width) if height and width else None
    return [_image_pair(image, index, fixed) for index, image in enumerate(images)]


def _image_pair(image: Image, index: int, size: tuple[int, int] | None) -> SampleInput:
    if isinstance(image, SampleInput):
        return image
    if isinstance(image, np.ndarray):
        return SampleInput(f"image {index}", with_mirror_image(image))
    return SampleInput(str(image), with_mirror_image(_read_resized(Path(image), size)))


def fixed_image_size(meta_graphs: Iterable[MetaGraph]) -> tuple[int | None, int | None]:
    """Returns the height and width that a signature of one of the models requires, or (None, None)."""
    for meta_graph in meta_graphs:
        for signature in meta_graph.signatures.values():
            for tensor in signature.inputs.values():
                if tensor.shape is not None and len(tensor.shape) == 4 and None not in tensor.shape[1:3]:
                    return tensor.shape[1], tensor.shape[2]
    return None, None


def sample_images(height: int = 240, width: int = 320) -> np.ndarray:
    """`-> [2, H, W, 3]` uint8: an image of blocks and rings, and its mirror image; the same on every machine."""
    y, x = np.mgrid[0:height, 0:width]
    red = x * 200 // max(width - 1, 1)
    green = y * 200 // max(height - 1, 1)
    blue = (x // 9 + y // 9) % 2 * 90 + (x * 7 + y * 13) % 31
    ring = ((2 * x - width) ** 2 + (2 * y - height) ** 2) // max(height * width // 8, 1) % 3 == 1
    block = (abs(4 * x - width) < width // 2) & (abs(4 * y - 3 * height) < height // 2)
    image = np.stack([np.where(ring, 255 - red, red), np.where(block, 240, green), np.where(block, 20, blue)], -1)
    return with_mirror_image(image.astype(np.uint8))


def with_mirror_image(image: np.ndarray) -> np.ndarray:
    """`[H, W, 3] -> [2, H, W, 3]`: the image and its mirror image, which make a batch of one size."""
    return np.ascontiguousarray(np.stack([image, image[:, ::-1]]))


def require_images(images: Sequence[str | Path]) -> None:
    """Raises ImageError if one of the files is missing or is not an image."""
    if images:
        from unfreeze.images import require_image  # imports Pillow, which most exports do not need

        for path in images:
            require_image(path)


def _read_resized(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """`-> [H, W, 3]` uint8 RGB, upright, resized to `size` (H, W) where the model takes one size only."""
    from unfreeze.images import read_image  # imports Pillow, which most exports do not need

    image = read_image(path)
    return np.asarray(image if size is None else image.resize((size[1], size[0])))
