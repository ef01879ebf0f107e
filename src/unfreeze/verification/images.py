"""Pictures to try a detector with, in every form in which a signature may ask for them."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unfreeze import protobuf_wire as wire
from unfreeze.errors import ImageError
from unfreeze.verification.meta_graph import TensorInfo

Feed = np.ndarray | list[bytes]
SIDE_LENGTH = 8  # of what a side input has any number of
LONE_PICTURE = (64, 96, 3)


def sample_images(height: int = 240, width: int = 320) -> np.ndarray:
    """`-> [2, H, W, 3]` uint8: a picture of blocks and rings, and its mirror image; the same on every machine."""
    y, x = np.mgrid[0:height, 0:width]
    red = x * 200 // max(width - 1, 1)
    green = y * 200 // max(height - 1, 1)
    blue = (x // 9 + y // 9) % 2 * 90 + (x * 7 + y * 13) % 31
    ring = ((2 * x - width) ** 2 + (2 * y - height) ** 2) // max(height * width // 8, 1) % 3 == 1
    block = (abs(4 * x - width) < width // 2) & (abs(4 * y - 3 * height) < height // 2)
    picture = np.stack([np.where(ring, 255 - red, red), np.where(block, 240, green), np.where(block, 20, blue)], -1)
    return with_mirror(picture.astype(np.uint8))


def with_mirror(picture: np.ndarray) -> np.ndarray:
    """`[H, W, 3] -> [2, H, W, 3]`: the picture and its mirror image, so that a batch of two has one size."""
    return np.ascontiguousarray(np.stack([picture, picture[:, ::-1]]))


def read_picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """`-> [H, W, 3]` uint8 RGB, upright, brought to `size` (H, W) where the model takes one size only.

    Raises:
        ImageError: no such file, or one that is no picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ImageError(f"{path}: not a picture this program can read: {error}") from error
    if size is not None:
        upright = upright.resize((size[1], size[0]))
    return np.asarray(upright)


def feeds(pictures: np.ndarray, tensor: TensorInfo, form: str | None) -> list[Feed]:
    """Put `[N, H, W, 3]` uint8 into the form that an input takes.

    Gives both forms where its strings may be either, and none where it takes no picture.

    Args:
        form: `encoded_image_string_tensor` or `tf_example`, where it is known what the strings are.
    """
    if tensor.dtype == "string":
        pngs = [png(picture) for picture in pictures]
        forms = {"encoded_image_string_tensor": pngs, "tf_example": [tf_example(data) for data in pngs]}
        return [forms[form]] if form in forms else list(forms.values())
    shape = (None, None, None, None) if tensor.shape is None else tensor.shape
    if tensor.dtype in ("uint8", "float32") and len(shape) == 4 and shape[3] in (3, None):
        return [pictures.astype(tensor.dtype)]
    return []


def numbers(tensor: TensorInfo, places: Sequence[int]) -> np.ndarray:
    """A row for each place: numbers around 0, or counts from 1 to SIDE_LENGTH; a single number is half, 1 or false.

    An input whose first dimension is fixed to another number has rows of its own, the same for every place.
    """
    if tensor.shape == ():
        return np.array(0.5 if tensor.dtype.startswith("float") else tensor.dtype != "bool", tensor.dtype)
    fixed, *rest = tensor.shape or (None,)
    sizes = [size or (SIDE_LENGTH if len(rest) < 3 else SIDE_LENGTH**2) for size in rest]
    rows = []
    for place in places if fixed in (None, len(places)) else range(fixed):
        random = np.random.RandomState(place)
        counts = tensor.dtype.startswith(("int", "uint"))
        rows.append(random.randint(1, SIDE_LENGTH + 1, sizes) if counts else random.standard_normal(sizes))
    made = np.array(rows)
    return made > 0 if tensor.dtype == "bool" else made.astype(tensor.dtype)


def lone_or_numbers(tensor: TensorInfo, places: Sequence[int]) -> np.ndarray:
    """For an input beside which none takes a batch of pictures: `[?, ?, 3]` is a lone picture, others get numbers."""
    if tensor.shape == (None, None, 3):
        return np.random.RandomState(0).randint(0, 256, LONE_PICTURE).astype(tensor.dtype)
    return numbers(tensor, places)


def side_feeds(
    tensors: Mapping[str, TensorInfo],
    places: Sequence[int],
    make: Callable[[TensorInfo, Sequence[int]], np.ndarray] = numbers,
) -> dict[str, tuple[str, Feed]]:
    """What to give the inputs besides the picture: tensor and value by key, the same for the same place of a pair."""
    return {key: (tensor.name, make(tensor, places)) for key, tensor in tensors.items()}


def png(picture: np.ndarray) -> bytes:
    """The picture as a PNG file: it decodes to the very same pixels."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return out.getvalue()


def tf_example(encoded: bytes) -> bytes:
    """A serialized tf.Example that holds a PNG under the keys of the original's decoder.

    Source: object_detection/data_decoders/tf_example_decoder.py; tensorflow/core/example/{example,feature}.proto.
    """
    features = b"".join(
        wire.field(1, wire.field(1, key) + wire.field(2, wire.field(1, wire.field(1, value))))
        for key, value in ((b"image/encoded", encoded), (b"image/format", b"png"))
    )
    return wire.field(1, features)
