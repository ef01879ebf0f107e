"""The input types of a detector, each with its signature. Source: object_detection/exporter.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from unfreeze.input_types import ENCODED_IMAGE, FLOAT_IMAGE_TENSOR, IMAGE_TENSOR, TF_EXAMPLE
from unfreeze.ops import images as ops

if TYPE_CHECKING:
    from unfreeze.detectors import Detector

Shape = Sequence[int | None]
Detect = Callable[..., dict[str, tf.Tensor]]
ANY_SHAPE = (None, None, None, 3)

# Input type -> dtype, and the function that decodes a string to an image (None for pixels).
DTYPE_AND_DECODER: dict[str, tuple[tf.DType, Callable[[tf.Tensor], tf.Tensor] | None]] = {
    IMAGE_TENSOR: (tf.uint8, None),
    FLOAT_IMAGE_TENSOR: (tf.float32, None),
    ENCODED_IMAGE: (tf.string, ops.decode_image),
    TF_EXAMPLE: (tf.string, ops.decode_tf_example),
}

BOXES = tf.TensorSpec([None, None, 4], name="boxes")


def signatures_to_write(requested: Sequence[str], possible: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Returns the input types that get a signature, that of `serving_default` first.

    If several are requested, only these; else all that are possible, the requested one, or `default`, first.
    """
    first = requested[:1] or default[:1]
    return tuple(dict.fromkeys([*first, *(requested if len(requested) > 1 else possible)]))


def signature(detector: Detector, detect: Detect, input_type: str, input_shape: Shape | None) -> Any:
    """Returns the traced function of an input type: pixels `[N, H, W, 3]` or strings `[N]` -> the detector's outputs.

    `input_shape` fixes the shape of the pixels; decoded images are resized to its height and width first. The side
    inputs of the detector are further arguments; if their N is fixed, so is that of the images.
    """
    dtype, decode = DTYPE_AND_DECODER[input_type]
    side = list(detector.side_inputs.values())
    num_images = input_shape[0] if input_shape else next((spec.shape[0] for spec in side if spec.shape[0]), None)
    if decode is None:
        spec = tf.TensorSpec([num_images, *(input_shape or ANY_SHAPE)[1:]], dtype, name=detector.input_name)
        return traced_by_name(lambda images, *side: detect(*detector.preprocess(images), *side), [spec, *side])
    preprocess = detector.preprocess if input_shape is None else partial(_resized_first, detector, input_shape[1:3])
    spec = tf.TensorSpec([num_images], dtype, name=detector.input_name)

    def call(strings: tf.Tensor, *side: tf.Tensor) -> dict[str, tf.Tensor]:
        return detect(*ops.decoded_batch(strings, decode, preprocess, detector.preprocessed_shape), *side)

    return traced_by_name(call, [spec, *side])


def with_boxes(detector: Detector) -> Detector:
    """Returns the detector for `IMAGE_AND_BOXES`, with normalized boxes `[N, B, 4]` as its side input."""
    return replace(detector, side_inputs={"boxes": BOXES})


def with_class_names(function: Any, names: Mapping[int, str]) -> Any:
    """Returns a signature with `detection_class_names` (string `[N, D]`) too; "" for padding rows and unknown ids."""
    table = ["", *(names.get(number, "") for number in range(1, max(names, default=0) + 1))]

    def call(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = function(*inputs)
        rows = tf.range(tf.shape(outputs["detection_scores"])[1])
        is_detection = rows[tf.newaxis] < tf.cast(outputs["num_detections"], tf.int32)[:, tf.newaxis]
        numbers = tf.cast(outputs["detection_classes"], tf.int32)
        rows_of_table = tf.where(is_detection & (numbers < len(table)), numbers, 0)
        return outputs | {"detection_class_names": tf.gather(tf.constant(table), rows_of_table)}

    return traced(call, specs_of(function))


def with_positional_arguments(function: Any, arguments: Sequence[str]) -> Any:
    """Returns the function for `__call__` of the loaded model, whose arguments may be passed by position."""
    specs = {spec.name: spec for spec in specs_of(function)}
    positions = [list(arguments).index(name) for name in specs]
    return traced(lambda *inputs: function(*(inputs[i] for i in positions)), [specs[name] for name in arguments])


def traced_by_name(call: Detect, specs: Sequence[tf.TensorSpec]) -> Any:
    """Returns the traced function with its arguments sorted by name, as loaders pass them to a signature."""
    order = sorted(range(len(specs)), key=lambda i: specs[i].name)
    positions = [order.index(i) for i in range(len(specs))]
    return traced(lambda *inputs: call(*(inputs[i] for i in positions)), [specs[i] for i in order])


def traced(call: Detect, specs: Sequence[tf.TensorSpec]) -> Any:
    """Returns the concrete function of a call with inputs of these specs."""
    return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()


def specs_of(function: Any) -> Sequence[tf.TensorSpec]:
    """Returns the specs of a concrete function's inputs."""
    specs: Sequence[tf.TensorSpec] = function.structured_input_signature[0]
    return specs


def _resized_first(detector: Detector, size: Shape, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width = (
        length if length is not None else tf.shape(images)[axis] for axis, length in zip((1, 2), size, strict=True)
    )
    return detector.preprocess(ops.resize(images, (height, width), resize_method="BILINEAR"))
