"""Picture files: read upright and in RGB, written whole or not at all."""

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unfreeze.errors import OutputError, ImageError

JPEG_SUFFIXES = (".jpg", ".jpeg")


def read_picture(path: str | Path, encoded: bytes | None = None) -> Image.Image:
    """The picture as a person sees it: turned as its EXIF says, in RGB; of an animation the first frame.

    `encoded` is what the file holds, where it is at hand already.

    Raises: ImageError for what is missing, a folder, cut short, or not a picture.
    """
    try:
        with Image.open(path if encoded is None else io.BytesIO(encoded)) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            return eight_bits(upright).convert("RGB")
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a picture: give a JPEG, PNG, GIF, BMP, WebP or TIFF file") from None
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist: give the path of a picture") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder: give the pictures in it, as in {path}/*.jpg") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to be read safely ({error}): scale it down first") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's readers raise for torn files
        raise ImageError(f"{path} cannot be read as a picture ({error}): is it complete?") from None


def eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit greys keep their upper byte, as TensorFlow's PNG decoder does; Pillow would clip them to white."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return picture


def write_picture(picture: Image.Image, path: Path) -> None:
    """A JPEG or a PNG, by the path's suffix; a file is in place only once it is complete.

    Raises: OutputError when it cannot be written.
    """
    staged = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            staged = file.name
            picture.save(file, **kind_of(path.suffix))
        os.chmod(staged, 0o666 & ~umask())
        os.replace(staged, path)
        staged = ""
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): choose another --output-directory"
        ) from None
    finally:
        if staged:
            os.unlink(staged)


def encoded_as(picture: Image.Image, suffix: str) -> bytes:
    """The bytes of a picture's file."""
    file = io.BytesIO()
    picture.save(file, **kind_of(suffix))
    return file.getvalue()


def kind_of(suffix: str) -> dict[str, Any]:
    return {"format": "JPEG", "quality": 95} if suffix.lower() in JPEG_SUFFIXES else {"format": "PNG"}


def umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
