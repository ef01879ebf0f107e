"""Runs a SavedModel with the outputs of the Object Detection API, through the signature that suits images best."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from unfreeze.errors import SavedModelError
from unfreeze.formatting import first_line
from unfreeze.images import encode_image
from unfreeze.onednn import assume_frozen_weights
from unfreeze.runtimes.image_input import resized
from unfreeze.runtimes.model import SIGNATURES, Outputs, name_list
from unfreeze.runtimes.tensorflow_settings import has_gpu, limit_threads

# What a string input may take. Examples come first: a decoder's error for an Example is easier to understand than the
# error of an Example parser for an image.
STRING_FORMATS = ("tf_example", "encoded_image_string_tensor")


@dataclass(frozen=True)
class SavedModel:
    """A loaded SavedModel and the signature that is called."""

    folder: Path
    signature: str
    call: Callable[..., Mapping[str, tf.Tensor]]
    input_name: str
    input_spec: tf.TensorSpec
    string_formats: tuple[str, ...]  # the formats to try in turn if the input is a string
    loaded: object  # owns the variables, which are freed with it
    output_names: Sequence[str]
    uses_gpu: bool

    @property
    def title(self) -> str:
        """Returns the folder and the signature."""
        return f"{self.folder}: signature {self.signature}"

    def run(self, images: np.ndarray) -> Outputs:
        """Returns every output for images `[N, H, W, 3]`, in one call if the model's batch size allows it."""
        shape = self.input_spec.shape
        rows = (shape[0] if shape.rank else 1) or len(images)
        if len(images) > rows:
            parts = [self.run(images[start : start + rows]) for start in range(0, len(images), rows)]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for number, tensor in enumerate(self.inputs_for(images, rows), start=1):
            try:
                outputs = self.call(**{self.input_name: tensor})
                return {name: value.numpy()[: len(images)] for name, value in outputs.items()}
            except tf.errors.OpError as error:
                if number >= len(self.string_formats):
                    raise SavedModelError(f"{self.folder}: {self.signature} failed: {first_line(error)}") from error
        raise AssertionError("inputs_for yields at least one tensor")

    def inputs_for(self, images: np.ndarray, rows: int) -> Iterator[tf.Tensor]:
        """Yields the images as the input takes them: `[rows, H, W, 3]` in 0 to 255, or each format of `[rows]` strings.

        If there are more rows than images, images are repeated.
        """
        if self.string_formats:
            pngs = [encode_image(Image.fromarray(image), ".png") for image in images]
            for string_format in self.string_formats:
                strings = list(map(tf_example, pngs)) if string_format == "tf_example" else pngs
                yield tf.constant([strings[row % len(strings)] for row in range(rows)])
            return
        _, height, width, _ = self.input_spec.shape
        dtype = np.dtype(self.input_spec.dtype.as_numpy_dtype)
        pixels = resized(images, height or images.shape[1], width or images.shape[2], dtype)
        pixels = pixels if len(pixels) == rows else np.resize(pixels, (rows, *pixels.shape[1:]))
        yield tf.constant(pixels)


def load_model(folder: Path, threads: int | None) -> SavedModel:
    """Returns a SavedModel with the signature to call.

    Raises: SavedModelError if it cannot be loaded, does not take images, or has weights that depend on
    the request while oneDNN is set to reuse those of the first.
    """
    limit_threads(threads)
    assume_frozen_weights(folder)
    try:
        loaded = tf.saved_model.load(os.fspath(folder))
    except Exception as error:  # the loader raises all kinds: OSError, ValueError, OpError, DecodeError …
        raise SavedModelError(
            f"{folder} cannot be loaded as a SavedModel: {first_line(error)}. Copy or export it again."
        ) from error
    signatures = dict(loaded.signatures)
    name = next((name for name in SIGNATURES if name in signatures), None)
    if name is None:
        raise SavedModelError(
            f"{folder} has no signature that takes images (found {name_list(signatures)}; "
            f"expected one of {name_list(SIGNATURES)})"
        )
    signature = signatures[name]
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise SavedModelError(f"{folder}: signature {name} must take one input, images; it takes {name_list(inputs)}")
    [(input_name, spec)] = inputs.items()
    string_formats = formats_of(name, signature.inputs[0].name) if spec.dtype == tf.string else ()
    if not string_formats and (spec.shape.rank != 4 or spec.shape[3] not in (3, None)):
        raise SavedModelError(f"{folder}: signature {name} takes {spec.shape}, not images [N, H, W, 3]")
    return SavedModel(
        folder,
        name,
        signature,
        input_name,
        spec,
        string_formats,
        loaded,
        tuple(signature.structured_outputs),
        has_gpu(),
    )


def formats_of(signature: str, tensor: str) -> tuple[str, ...]:
    """Returns the format of a string input, by the name of its signature or tensor; both formats if neither says."""
    named = tuple(name for name in STRING_FORMATS if name == signature or tensor.startswith(name))
    return named or STRING_FORMATS


def tf_example(encoded: bytes) -> bytes:
    """Returns a serialized tf.train.Example with the one feature that a detector reads for inference."""
    features = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))}
    example: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return example
