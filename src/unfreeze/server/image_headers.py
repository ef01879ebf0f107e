"""The size that an encoded picture claims, read from its first bytes: a few hundred bytes may unpack to gigabytes."""

import struct
from collections.abc import Callable, Iterator, Mapping

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


JXL_BOXES = b"\0\0\0\x0cJXL \r\n\x87\n"
KINDS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"\xff\xd8": "JPEG",
    b"RIFF": "WEBP",
    b"\xff\x0a": "JXL",
    JXL_BOXES: "JXL",
}


def picture_kind(string: bytes) -> str | None:
    return next((kind for start, kind in KINDS.items() if string.startswith(start)), None)


def picture_size(encoded: bytes) -> tuple[int, int] | None:
    """(width, height) of a picture, of an animation the height of all frames; None where there is no telling."""
    try:
        return SIZES[picture_kind(encoded) or "none"](encoded)
    except (struct.error, IndexError, ValueError):
        return None


def png_size(encoded: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", encoded, 16)
    return width, height


def bmp_size(encoded: bytes) -> tuple[int, int]:
    old = struct.unpack_from("<I", encoded, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", encoded, 18)
    return abs(width), abs(height)


def webp_size(encoded: bytes) -> tuple[int, int]:
    chunk = encoded[12:16]
    if chunk == b"VP8X":
        width, height = (1 + int.from_bytes(encoded[start : start + 3], "little") for start in (24, 27))
        return width, height * max(1, encoded.count(b"ANMF"))
    if chunk == b"VP8L":
        bits = int.from_bytes(encoded[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", encoded, 26)
    return width & 0x3FFF, height & 0x3FFF


def jxl_size(encoded: bytes) -> tuple[int, int]:
    """Of JPEG XL. Source: ISO/IEC 18181-1, SizeHeader."""
    stream = jxl_codestream(encoded) if encoded.startswith(JXL_BOXES) else encoded
    bits, position = int.from_bytes(stream[2:16], "little"), 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return bits >> (position - count) & ((1 << count) - 1)

    def length(small: int) -> int:
        return 8 * (1 + read(5)) if small else 1 + read((9, 13, 18, 30)[read(2)])

    small = read(1)
    height = length(small)
    ratio = read(3)
    if ratio == 0:
        return length(small), height
    across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * across // down, height


def jxl_codestream(encoded: bytes) -> bytes:
    """The first part of the codestream in a file of boxes."""
    position = len(JXL_BOXES)
    while position + 8 <= len(encoded):
        size, kind = struct.unpack_from(">I4s", encoded, position)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", encoded, position + 8)[0], 16
        if kind in (b"jxlc", b"jxlp"):
            start = position + header + (4 if kind == b"jxlp" else 0)
            return encoded[start : start + 16]
        if size < header:
            break
        position += size
    raise ValueError("no codestream")


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


SIZES: dict[str, Callable[[bytes], tuple[int, int] | None]] = {
    "PNG": png_size,
    "GIF": gif_size,
    "BMP": bmp_size,
    "JPEG": jpeg_size,
    "WEBP": webp_size,
    "JXL": jxl_size,
    "none": lambda encoded: None,
}
