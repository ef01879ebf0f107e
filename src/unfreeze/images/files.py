"""Reads image files upright and in RGB, and writes them atomically."""

import base64
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unfreeze.errors import ImageError, OutputError

JPEG_SUFFIXES = (".jpg", ".jpeg")
QUALITY, PAGE_QUALITY = 95, 85  # of JPEG files, and of those in a page or a report


def read_image(path: str | Path, encoded: bytes | None = None) -> Image.Image:
    """Returns an image in RGB, rotated as its EXIF says; for an animation, the first frame.

    `encoded` is the content of the file, if it has been read already.

    Raises: ImageError if the file is missing, incomplete, or not an image.
    """
    with image_errors(path), Image.open(path if encoded is None else io.BytesIO(encoded)) as opened:
        opened.load()
        upright = ImageOps.exif_transpose(opened)
        return to_eight_bits(upright).convert("RGB")


def require_image(path: str | Path) -> None:
    """Raises ImageError if the file is missing or does not start as an image does; reads only its start."""
    with image_errors(path), Image.open(path):
        pass


@contextmanager
def image_errors(path: str | Path) -> Iterator[None]:
    """Raises what Pillow raises in the block as an ImageError."""
    try:
        yield
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image. Pass a JPEG, PNG, GIF, BMP, WebP or TIFF file.") from None
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist. Pass the path of an image.") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder. Pass the images in it, as in {path}/*.jpg.") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is larger than the pixel limit ({error}). Scale it down first.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's readers raise for incomplete files
        raise ImageError(f"{path} cannot be read as an image ({error}). Check that the file is complete.") from None


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Returns 16-bit grayscale as 8-bit: the upper byte, as TensorFlow's PNG decoder does. Pillow would clip it."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return image


def write_image(image: Image.Image, path: Path) -> None:
    """Writes a JPEG or a PNG, by the path's suffix, atomically.

    Raises: OutputError if it cannot be written.
    """
    staged = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            staged = file.name
            image.save(file, **save_options(path.suffix))
        os.chmod(staged, 0o666 & ~umask())
        os.replace(staged, path)
        staged = ""
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}). Choose another --output-directory."
        ) from None
    finally:
        if staged:
            os.unlink(staged)


def encode_image(image: Image.Image, suffix: str) -> bytes:
    """Returns an image as a JPEG or PNG file."""
    file = io.BytesIO()
    image.save(file, **save_options(suffix))
    return file.getvalue()


def data_uri(image: Image.Image, suffix: str) -> str:
    """Returns an image as the `src` of an <img>: a JPEG or PNG that is small enough for a page."""
    file = io.BytesIO()
    options = save_options(suffix, PAGE_QUALITY)
    image.save(file, **options, optimize=True)
    return f"data:image/{options['format'].lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def save_options(suffix: str, quality: int = QUALITY) -> dict[str, Any]:
    """Returns Pillow's options for a file with that suffix: JPEG if it is a JPEG's, else PNG."""
    return {"format": "JPEG", "quality": quality} if suffix.lower() in JPEG_SUFFIXES else {"format": "PNG"}


def umask() -> int:
    """Returns the process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
