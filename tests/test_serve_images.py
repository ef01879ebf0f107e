"""Sizes in the headers of encoded images, compared with what TensorFlow decodes."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from unfreeze.server.image_headers import check_image_sizes, image_size
from unfreeze.server.status import StatusError


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (333, 17), (640, 480)])
def test_size_of_each_format(kind: str, size: tuple[int, int]) -> None:
    for mode in ("RGB", "L"):
        for options in ({}, {"lossless": True}, {"progressive": True}):
            buffer = io.BytesIO()
            Image.new(mode, size, 7).save(buffer, kind, **options)
            assert image_size(buffer.getvalue()) == size


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_frames_of_an_animation_add_up(kind: str) -> None:
    frames = [Image.fromarray(np.full((20, 30, 3), shade, np.uint8)) for shade in (0, 100, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert image_size(buffer.getvalue()) == (30, 60)


def test_size_of_jpeg_xl() -> None:
    def bits(*fields: tuple[int, int]) -> bytes:
        value = position = 0
        for number, count in fields:
            value |= number << position
            position += count
        return b"\xff\x0a" + value.to_bytes(14, "little")

    assert image_size(bits((1, 1), (4, 5), (0, 3), (9, 5))) == (80, 40)  # eighths
    large = bits((0, 1), (3, 2), (29_999, 30), (1, 3))  # a square
    assert image_size(large) == (30_000, 30_000)
    boxes = (
        b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4sI", 12, b"ftyp", 0) + struct.pack(">I4s", 24, b"jxlc") + large
    )
    assert image_size(boxes) == (30_000, 30_000)


def huge_png() -> bytes:
    """Returns a PNG of 30,000 x 30,000 pixels in some kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def test_image_above_the_pixel_limit_is_rejected_also_inside_an_example() -> None:
    features = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[huge_png()]))}
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    for string in (huge_png(), example):
        with pytest.raises(
            StatusError,
            match=r"an image of 30000 x 30000 pixels exceeds the limit of this server \(--max-image-pixels: 64000000\)",
        ):
            check_image_sizes({"inputs": np.array([b"", string], object)}, 64_000_000)


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"\xff\xd8", b"RIFF", b"\xff\x0a", b"\n"])
def test_broken_images_are_left_to_the_model(start: bytes) -> None:
    noise = np.random.default_rng(0).bytes(40)
    for cut in range(0, len(noise), 3):
        for content in (noise[:cut], b"\xff" * cut, b"\0" * cut):
            check_image_sizes({"inputs": np.array([start + content], object)}, 2**70)


def encode(kind: str, width: int, height: int, **options: Any) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), (9, 9, 9)).save(encoded, kind, **options)
    return encoded.getvalue()


def png_with_chunk(kind: bytes, content: bytes, checksum: int) -> bytes:
    encoded = encode("PNG", 64, 48)
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
    return encoded[:33] + chunk + encoded[33:]  # behind IHDR


def jpeg_with(inserted: bytes, position: int = 2) -> bytes:
    encoded = encode("JPEG", 64, 48)
    return encoded[:position] + inserted + encoded[position:]


def gif_with_small_screen() -> bytes:
    encoded = bytearray(encode("GIF", 64, 48))
    encoded[6:10] = struct.pack("<HH", 1, 1)
    return bytes(encoded)


@pytest.mark.parametrize(
    "encoded",
    [
        png_with_chunk(b"gAMA", b"\0\0\0\1", checksum=1),
        png_with_chunk(b"pHYs", b"\1", checksum=zlib.crc32(b"pHYs\1")),
        jpeg_with(b"\xff\xff\xff"),
        jpeg_with(b"\xff\xee\0\x07Adobe"),
        jpeg_with(b"\0\1\2", position=20),
        gif_with_small_screen(),
        encode("GIF", 64, 48).replace(b"GIF87a", b"GIF8xx").replace(b"GIF89a", b"GIF8xx"),
        encode("GIF", 64, 48)[:-1],
    ],
    ids=[
        "png-wrong-checksum", "png-short-chunk", "jpeg-fill-bytes", "jpeg-short-segment", "jpeg-bytes-between-segments",
        "gif-frame-larger-than-screen", "gif-unknown-version", "gif-without-end",
    ],
)  # fmt: skip
def test_damaged_files_that_tensorflow_decodes_have_a_size(encoded: bytes) -> None:
    """Otherwise they would pass the pixel limit."""
    decoded = tf.io.decode_image(encoded, expand_animations=False)
    assert image_size(encoded) == (decoded.shape[1], decoded.shape[0]) == (64, 48)
