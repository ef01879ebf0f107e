"""A SavedModel with the original's outputs: loaded, and asked about pictures."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from unfreeze.errors import SavedModelError
from unfreeze.images import encode_image
from unfreeze.onednn import assume_frozen_weights

# Signatures in the order in which they are preferred; a foreign SavedModel may have `serving_default` only.
SIGNATURES = ("image_tensor", "serving_default", "float_image_tensor", "encoded_image_string_tensor", "tf_example")
NEEDED_OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes")


@dataclass(frozen=True)
class Model:
    """A loaded SavedModel and how to ask it."""

    folder: Path
    signature: str
    call: Callable[..., dict[str, tf.Tensor]]
    input_name: str
    input_spec: tf.TensorSpec
    forms: tuple[str, ...]  # of a string input: what its strings may be
    loaded: Any  # owns the variables, which are gone with it


def load_model(folder: Path) -> Model:
    """Load a SavedModel and choose the signature to ask.

    Raises: SavedModelError when it cannot be loaded, is not a detector that takes pictures, or has weights that depend
    on the request where oneDNN keeps those of the first.
    """
    assume_frozen_weights(folder)
    try:
        loaded = tf.saved_model.load(os.fspath(folder))
    except Exception as error:  # the loader raises all kinds: OSError, ValueError, OpError, DecodeError …
        raise SavedModelError(f"{folder} cannot be loaded as a SavedModel: {one_line(error)}") from error
    signatures = dict(loaded.signatures)
    name = next((name for name in SIGNATURES if name in signatures), None)
    if name is None:
        raise SavedModelError(
            f"{folder} lacks a signature for pictures ({listed(SIGNATURES)}): it has {listed(signatures)}"
        )
    inputs = signatures[name].structured_input_signature[1]
    outputs = signatures[name].structured_outputs
    missing = [output for output in NEEDED_OUTPUTS if output not in outputs]
    if missing:
        raise SavedModelError(f"{folder} is not a detector: {name} lacks {listed(missing)}, it has {listed(outputs)}")
    if len(inputs) != 1:
        raise SavedModelError(f"{folder}: {name} must take one input, a picture; it takes {listed(inputs)}")
    [(input_name, spec)] = inputs.items()
    forms = string_forms(name, signatures[name].inputs[0].name) if spec.dtype == tf.string else ()
    if not forms and (spec.shape.rank != 4 or spec.shape[3] not in (3, None)):
        raise SavedModelError(f"{folder}: {name} takes {spec.shape}, not pictures [N, H, W, 3]")
    return Model(folder, name, signatures[name], input_name, spec, forms, loaded)


def string_forms(signature: str, tensor: str) -> tuple[str, ...]:
    """What a string input may be: its signature or its tensor says so, or else both are tried in turn."""
    both = (
        "tf_example",
        "encoded_image_string_tensor",
    )  # a decoder refuses an Example in plainer words than the reverse
    return tuple(form for form in both if form == signature or tensor.startswith(form)) or both


def answer(model: Model, picture: Image.Image) -> dict[str, np.ndarray]:
    """Every output of the model for one picture, without the batch dimension.

    Raises: SavedModelError when the model cannot be run on it.
    """
    return answers(model, [picture])[0]


def answers(model: Model, batch: Sequence[Image.Image]) -> list[dict[str, np.ndarray]]:
    """Every output of the model for each of some pictures of one size, asked for together where the model allows it.

    Raises: SavedModelError when the model cannot be run on them.
    """
    shape = model.input_spec.shape
    fixed = shape[0] if shape.rank else 1
    if fixed and len(batch) > fixed:
        parts = [batch[start : start + fixed] for start in range(0, len(batch), fixed)]
        return [outputs for part in parts for outputs in answers(model, part)]
    for last, feed in enumerate(feeds(model, batch, fixed or len(batch)), start=1):
        try:
            outputs = {name: value.numpy() for name, value in model.call(**{model.input_name: feed}).items()}
            return [{name: value[place] for name, value in outputs.items()} for place in range(len(batch))]
        except tf.errors.OpError as error:
            if last >= len(model.forms):
                raise SavedModelError(f"{model.folder}: {model.signature} failed: {one_line(error)}") from error
    raise AssertionError("there is always one feed")


def feeds(model: Model, batch: Sequence[Image.Image], rows: int) -> Iterator[tf.Tensor]:
    """Pictures as the model takes them: -> [rows, H, W, 3] uint8 or float in 0 to 255, or [rows] string.

    Where there are more rows than pictures, pictures are repeated.
    """
    if model.forms:
        pngs = [encode_image(picture, ".png") for picture in batch]
        for form in model.forms:
            strings = [tf_example(png) for png in pngs] if form == "tf_example" else pngs
            yield tf.constant([strings[row % len(strings)] for row in range(rows)])
        return
    _, height, width, _ = model.input_spec.shape
    sizes = [(width or picture.width, height or picture.height) for picture in batch]
    pixels = np.stack([np.asarray(fitted(picture, size)) for picture, size in zip(batch, sizes, strict=True)])
    pixels = pixels if len(pixels) == rows else np.resize(pixels, (rows, *pixels.shape[1:]))
    yield tf.constant(pixels.astype(model.input_spec.dtype.as_numpy_dtype, copy=False))


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)


def tf_example(encoded: bytes) -> bytes:
    """A serialized tf.train.Example with the one feature that a detector reads when it answers."""
    bytes_list = tf.train.BytesList(value=[encoded])
    features = tf.train.Features(feature={"image/encoded": tf.train.Feature(bytes_list=bytes_list)})
    return tf.train.Example(features=features).SerializeToString()


def one_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
