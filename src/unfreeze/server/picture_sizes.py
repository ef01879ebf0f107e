"""The size that an encoded picture claims, read from its first bytes: a few hundred bytes may unpack to gigabytes."""

import struct
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from unfreeze.server.failures import invalid

JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # start-of-frame markers
GIF_FRAME, GIF_EXTENSION = 0x2C, 0x21


def check_pictures(inputs: Mapping[str, np.ndarray], max_pixels: int) -> None:
    """Refuse strings that are pictures of too many pixels, also inside of a tf.train.Example.

    Raises: Failure INVALID_ARGUMENT. What is no picture is left to the model, which says so itself.
    """
    for name, value in inputs.items():
        if value.dtype != object:
            continue
        for index, string in enumerate(value.ravel()):
            for encoded in pictures_in(string):
                size = picture_size(encoded)
                if size and size[0] * size[1] > max_pixels:
                    raise invalid(
                        f"input {name}, item {index}: a picture of {size[0]} x {size[1]} pixels is larger than the "
                        f"{max_pixels} pixels that this server takes"
                    )


def pictures_in(string: bytes) -> Iterator[bytes]:
    """The string, if it begins like a picture, or else the pictures in an Example that it may be."""
    if picture_kind(string):
        yield string
    elif string[:1] == b"\n":  # field 1 of an Example: its features
        try:
            features = tf.train.Example.FromString(string).features.feature
        except DecodeError:
            return
        for feature in features.values():
            yield from (value for value in feature.bytes_list.value if picture_kind(value))


def picture_kind(string: bytes) -> str | None:
    kinds = {b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP", b"\xff\xd8": "JPEG"}
    return next((kind for start, kind in kinds.items() if string.startswith(start)), None)


def picture_size(encoded: bytes) -> tuple[int, int] | None:
    """(width, height) of a picture, of a GIF all of its frames put below each other; None where there is no telling."""
    kind = picture_kind(encoded)
    try:
        if kind == "PNG":
            return struct.unpack_from(">II", encoded, 16)
        if kind == "GIF":
            return gif_size(encoded)
        if kind == "BMP":
            width, height = struct.unpack_from("<ii", encoded, 18)
            return abs(width), abs(height)
        if kind == "JPEG":
            return jpeg_size(encoded)
    except (struct.error, IndexError):
        pass
    return None


def jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(encoded):
        if encoded[position] != 0xFF:
            return None
        marker = encoded[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in JPEG_SIZES:
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return width, height
        stands_alone = marker == 0x01 or 0xD0 <= marker <= 0xD7
        position += 2 if stands_alone else 2 + struct.unpack_from(">H", encoded, position + 2)[0]
    return None


def gif_size(encoded: bytes) -> tuple[int, int]:
    """The screen's width, and its height times the number of frames: TensorFlow decodes them all."""
    width, height, flags = struct.unpack_from("<HHB", encoded, 6)
    position, frames = 13 + color_table_bytes(flags), 0
    while position < len(encoded):
        if encoded[position] == GIF_FRAME:
            frames += 1
            position = skip_blocks(encoded, position + 11 + color_table_bytes(encoded[position + 9]))
        elif encoded[position] == GIF_EXTENSION:
            position = skip_blocks(encoded, position + 2)
        else:
            break
    return width, height * max(1, frames)


def color_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def skip_blocks(encoded: bytes, position: int) -> int:
    while encoded[position]:
        position += 1 + encoded[position]
    return position + 1
