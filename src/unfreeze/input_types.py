"""The names of the input types of a detector. Source: object_detection/exporter.py."""

from __future__ import annotations

from collections.abc import Sequence

from unfreeze.errors import UnsupportedError

IMAGE_TENSOR = "image_tensor"
FLOAT_IMAGE_TENSOR = "float_image_tensor"
ENCODED_IMAGE = "encoded_image_string_tensor"
TF_EXAMPLE = "tf_example"
IMAGE_AND_BOXES = "image_and_boxes_tensor"  # the detector returns masks of these boxes

INPUT_TYPES = (IMAGE_TENSOR, FLOAT_IMAGE_TENSOR, ENCODED_IMAGE, TF_EXAMPLE)  # those that every detector has


def require_known_input_types(names: Sequence[str]) -> None:
    """Raises UnsupportedError if one of the names is not an input type."""
    known = (*INPUT_TYPES, IMAGE_AND_BOXES)
    for name in names:
        if name not in known:
            raise UnsupportedError(f"not supported: --input-type {name}. Use one of {', '.join(known)}.")
