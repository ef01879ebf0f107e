"""The size that a picture claims is read from its first bytes, whatever it is encoded as."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from unfreeze.server.failures import Failure
from unfreeze.server.image_headers import check_pictures, picture_size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (333, 17), (640, 480)])
def test_the_size_of_a_picture(kind: str, size: tuple[int, int]) -> None:
    for mode in ("RGB", "L"):
        for options in ({}, {"lossless": True}, {"progressive": True}):
            buffer = io.BytesIO()
            Image.new(mode, size, 7).save(buffer, kind, **options)
            assert picture_size(buffer.getvalue()) == size


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_every_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.fromarray(np.full((20, 30, 3), shade, np.uint8)) for shade in (0, 100, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert picture_size(buffer.getvalue()) == (30, 60)


def test_jpeg_xl() -> None:
    def bits(*fields: tuple[int, int]) -> bytes:
        value = position = 0
        for number, count in fields:
            value |= number << position
            position += count
        return b"\xff\x0a" + value.to_bytes(14, "little")

    assert picture_size(bits((1, 1), (4, 5), (0, 3), (9, 5))) == (80, 40)  # eighths
    large = bits((0, 1), (3, 2), (29_999, 30), (1, 3))  # a square
    assert picture_size(large) == (30_000, 30_000)
    boxes = (
        b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4sI", 12, b"ftyp", 0) + struct.pack(">I4s", 24, b"jxlc") + large
    )
    assert picture_size(boxes) == (30_000, 30_000)


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in some kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def test_a_bomb_is_refused_also_inside_of_an_example() -> None:
    features = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bomb()]))}
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    for string in (bomb(), example):
        with pytest.raises(Failure, match="a picture of 30000 x 30000 pixels is larger than the 64000000"):
            check_pictures({"inputs": np.array([b"", string], object)}, 64_000_000)


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"\xff\xd8", b"RIFF", b"\xff\x0a", b"\n"])
def test_what_only_begins_like_a_picture_is_left_to_the_model(start: bytes) -> None:
    noise = np.random.default_rng(0).bytes(40)
    for cut in range(0, len(noise), 3):
        for content in (noise[:cut], b"\xff" * cut, b"\0" * cut):
            check_pictures({"inputs": np.array([start + content], object)}, 2**70)
