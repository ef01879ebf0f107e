"""Values for the inputs of a signature: images in the form that an input takes, and numbers for all other inputs."""

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from unfreeze import protobuf_wire as wire
from unfreeze.input_types import ENCODED_IMAGE, TF_EXAMPLE
from unfreeze.verification.meta_graph import TensorInfo

Feed = np.ndarray | list[bytes]

STRING_INPUT_TYPES = (ENCODED_IMAGE, TF_EXAMPLE)
SIDE_INPUT_DTYPES = ("float32", "float64", "float16", "int32", "int64")
NUMBER_DTYPES = (*SIDE_INPUT_DTYPES, "uint8", "int8", "int16", "uint16", "bool")
OPEN_SIZE = 8  # of a dimension of a side input that the signature leaves open
SINGLE_IMAGE_SHAPE = (64, 96, 3)


def image_feeds(images: np.ndarray, tensor: TensorInfo, input_type: str | None) -> list[Feed]:
    """Returns `[N, H, W, 3]` uint8 images in the form that an input takes; nothing if it takes no images.

    Args:
        input_type: one of `STRING_INPUT_TYPES` if it is known what the strings are; otherwise both forms are returned.
    """
    if tensor.dtype == "string":
        files = [png(image) for image in images]
        forms: dict[str, Feed] = {ENCODED_IMAGE: files, TF_EXAMPLE: [tf_example(file) for file in files]}
        return [forms[input_type]] if input_type in forms else list(forms.values())
    shape = (None, None, None, None) if tensor.shape is None else tensor.shape
    if tensor.dtype in ("uint8", "float32") and len(shape) == 4 and shape[3] in (3, None):
        return [images.astype(tensor.dtype)]
    return []


def can_take_images(tensor: TensorInfo) -> bool:
    """Returns whether an input can take images in some form."""
    return bool(image_feeds(np.zeros((1, 1, 1, 3), np.uint8), tensor, None))


def numbers(tensor: TensorInfo, batch: Sequence[int]) -> np.ndarray:
    """Returns one row for each image of the batch: numbers around 0, or counts from 1 to OPEN_SIZE.

    The same image gets the same row in every batch. A scalar is 0.5, 1 or false. An input whose first dimension is
    fixed to a size other than the batch's has that many rows, the same in every batch.
    """
    if tensor.shape == ():
        return np.array(0.5 if tensor.dtype.startswith("float") else tensor.dtype != "bool", tensor.dtype)
    fixed, *rest = tensor.shape or (None,)
    sizes = [size or (OPEN_SIZE if len(rest) < 3 else OPEN_SIZE**2) for size in rest]
    rows = []
    for seed in batch if fixed in (None, len(batch)) else range(fixed):
        random = np.random.RandomState(seed)
        counts = tensor.dtype.startswith(("int", "uint"))
        rows.append(random.randint(1, OPEN_SIZE + 1, sizes) if counts else random.standard_normal(sizes))
    values = np.array(rows)
    return values > 0 if tensor.dtype == "bool" else values.astype(tensor.dtype)


def single_image_or_numbers(tensor: TensorInfo, batch: Sequence[int]) -> np.ndarray:
    """Returns one image for an input `[?, ?, 3]`, and numbers for any other.

    For the inputs of a signature none of which takes a batch of images.
    """
    if tensor.shape == (None, None, 3):
        return np.random.RandomState(0).randint(0, 256, SINGLE_IMAGE_SHAPE).astype(tensor.dtype)
    return numbers(tensor, batch)


def side_feeds(
    tensors: Mapping[str, TensorInfo],
    batch: Sequence[int],
    values: Callable[[TensorInfo, Sequence[int]], np.ndarray] = numbers,
) -> dict[str, tuple[str, Feed]]:
    """Returns tensor name and value, by key, for the inputs besides the images."""
    return {key: (tensor.name, values(tensor, batch)) for key, tensor in tensors.items()}


def png(image: np.ndarray) -> bytes:
    """Returns the image as a PNG file, which decodes to the same pixels."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def tf_example(file: bytes) -> bytes:
    """Returns a serialized tf.Example with a PNG file under the keys that the Object Detection API's decoder reads.

    Source: object_detection/data_decoders/tf_example_decoder.py; tensorflow/core/example/{example,feature}.proto.
    """
    features = b"".join(
        wire.field(1, wire.field(1, key) + wire.field(2, wire.field(1, wire.field(1, value))))
        for key, value in ((b"image/encoded", file), (b"image/format", b"png"))
    )
    return wire.field(1, features)
