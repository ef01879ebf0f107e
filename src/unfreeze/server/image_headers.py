"""Sizes of encoded images, read from their headers: a few hundred bytes can decode to gigabytes.

Pillow is not used for this: it rejects files that TensorFlow decodes, such as a PNG with a wrong checksum in an
optional chunk, and an image whose size is unknown passes the check. It also takes ten times as long. The parsers here
read the fields that TensorFlow's decoders read.

Source: tensorflow/core/kernels/image/decode_image_op.cc, tensorflow/core/lib/{gif,jpeg,png}.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator, Mapping
from enum import Enum

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from unfreeze.server.status import invalid

JPEG_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
JPEG_WITHOUT_CONTENT = {0x01, *range(0xD0, 0xD8)}  # markers without a length
GIF_FRAME, GIF_EXTENSION = 0x2C, 0x21
JXL_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"

Size = tuple[int, int]  # width, height


class ImageFormat(Enum):
    """A format that TensorFlow decodes."""

    PNG = "PNG"
    GIF = "GIF"
    BMP = "BMP"
    JPEG = "JPEG"
    WEBP = "WEBP"
    JXL = "JXL"


SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": ImageFormat.PNG,
    b"GIF8": ImageFormat.GIF,  # TensorFlow does not read the rest of the version
    b"BM": ImageFormat.BMP,
    b"\xff\xd8": ImageFormat.JPEG,
    b"RIFF": ImageFormat.WEBP,
    b"\xff\x0a": ImageFormat.JXL,
    JXL_CONTAINER: ImageFormat.JXL,
}


def check_image_sizes(inputs: Mapping[str, np.ndarray], max_pixels: int) -> None:
    """Raises StatusError INVALID_ARGUMENT if a string is an image with too many pixels, or an Example with one.

    Strings that are not images are left to the model, which rejects them with a message of its own.
    """
    for name, value in inputs.items():
        if value.dtype != object:
            continue
        for index, string in enumerate(value.ravel()):
            for encoded in images_in(string):
                size = image_size(encoded)
                if size and size[0] * size[1] > max_pixels:
                    raise invalid(
                        f"input {name}, item {index}: an image of {size[0]} x {size[1]} pixels exceeds the limit of "
                        f"this server (--max-image-pixels: {max_pixels})"
                    )


def images_in(string: bytes) -> Iterator[bytes]:
    """Yields the string if it starts like an image; otherwise the images inside if it is a tf.train.Example."""
    if image_format(string):
        yield string
    elif string[:1] == b"\n":  # field 1 of an Example: its features
        try:
            features = tf.train.Example.FromString(string).features.feature
        except DecodeError:
            return
        for feature in features.values():
            yield from (value for value in feature.bytes_list.value if image_format(value))


def image_format(string: bytes) -> ImageFormat | None:
    """Returns the format of an image by its first bytes; None if it is not an image."""
    return next((kind for start, kind in SIGNATURES.items() if string.startswith(start)), None)


def image_size(encoded: bytes) -> Size | None:
    """Returns (width, height) of an image, with the heights of all frames added up; None if it cannot be read."""
    kind = image_format(encoded)
    try:
        return SIZE_READERS[kind](encoded) if kind else None
    except (struct.error, IndexError, ValueError):
        return None


def png_size(encoded: bytes) -> Size:
    """Returns the size of a PNG."""
    width, height = struct.unpack_from(">II", encoded, 16)
    return width, height


def bmp_size(encoded: bytes) -> Size:
    """Returns the size of a BMP; the height in the file is negative if its rows go down."""
    width, height = struct.unpack_from("<ii", encoded, 18)  # whatever the header version, as TensorFlow reads it
    return abs(width), abs(height)


def webp_size(encoded: bytes) -> Size:
    """Returns the size of a WebP: of an animation, with the heights of all frames added up."""
    chunk = encoded[12:16]
    if chunk == b"VP8X":
        width, height = (1 + int.from_bytes(encoded[start : start + 3], "little") for start in (24, 27))
        return width, height * max(1, encoded.count(b"ANMF"))
    if chunk == b"VP8L":
        bits = int.from_bytes(encoded[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", encoded, 26)
    return width & 0x3FFF, height & 0x3FFF


def jxl_size(encoded: bytes) -> Size:
    """Returns the size of a JPEG XL image. Source: ISO/IEC 18181-1, SizeHeader."""
    stream = jxl_codestream(encoded) if encoded.startswith(JXL_CONTAINER) else encoded
    bits, position = int.from_bytes(stream[2:16], "little"), 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return bits >> (position - count) & ((1 << count) - 1)

    def read_length(small: int) -> int:
        return 8 * (1 + read(5)) if small else 1 + read((9, 13, 18, 30)[read(2)])

    small = read(1)
    height = read_length(small)
    ratio = read(3)
    if ratio == 0:
        return read_length(small), height
    across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * across // down, height


def jxl_codestream(encoded: bytes) -> bytes:
    """Returns the first bytes of the codestream in a JPEG XL container. Raises: ValueError if there is none."""
    position = len(JXL_CONTAINER)
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


def jpeg_size(encoded: bytes) -> Size | None:
    """Returns the size in the first start-of-frame segment; bytes between segments are skipped, as libjpeg does."""
    position = 2
    while True:
        position = encoded.index(b"\xff", position)
        while encoded[position] == 0xFF:  # any number of fill bytes
            position += 1
        marker = encoded[position]
        position += 1
        if marker in JPEG_START_OF_FRAME:
            height, width = struct.unpack_from(">HH", encoded, position + 3)
            return width, height
        if marker and marker not in JPEG_WITHOUT_CONTENT:
            position += struct.unpack_from(">H", encoded, position)[0]


def gif_size(encoded: bytes) -> Size:
    """Returns the largest width, and the largest height times the number of frames: TensorFlow decodes all of them."""
    width, height, flags = struct.unpack_from("<HHB", encoded, 6)
    position, frames = 13 + color_table_bytes(flags), 0
    with contextlib.suppress(struct.error, IndexError):  # TensorFlow decodes the first frames of an incomplete file
        while encoded[position] in (GIF_FRAME, GIF_EXTENSION):
            if encoded[position] == GIF_FRAME:
                # A frame may be larger than the screen: TensorFlow's output has the size of the largest frame.
                frame_width, frame_height, flags = struct.unpack_from("<HHB", encoded, position + 5)
                width, height, frames = max(width, frame_width), max(height, frame_height), frames + 1
                position = end_of_gif_blocks(encoded, position + 11 + color_table_bytes(flags))
            else:
                position = end_of_gif_blocks(encoded, position + 2)
    return width, height * max(1, frames)


def color_table_bytes(flags: int) -> int:
    """Returns the size of a GIF's color table, by the flags before it."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def end_of_gif_blocks(encoded: bytes, position: int) -> int:
    """Returns the position after the data blocks that begin at `position`."""
    while encoded[position]:
        position += 1 + encoded[position]
    return position + 1


SIZE_READERS: dict[ImageFormat, Callable[[bytes], Size | None]] = {
    ImageFormat.PNG: png_size,
    ImageFormat.GIF: gif_size,
    ImageFormat.BMP: bmp_size,
    ImageFormat.JPEG: jpeg_size,
    ImageFormat.WEBP: webp_size,
    ImageFormat.JXL: jxl_size,
}
