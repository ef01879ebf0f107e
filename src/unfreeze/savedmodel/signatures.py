"""The ways to hand a picture to a detector, one signature each. Source: object_detection/exporter.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from unfreeze.ops import images as ops

if TYPE_CHECKING:
    from unfreeze.detectors import Detector

Shape = Sequence[int | None]
Detect = Callable[..., dict[str, tf.Tensor]]
ANY_SHAPE = (None, None, None, 3)

# Each input type: dtype, and how a picture comes out of a string (None: it comes as pixels).
INPUT_TYPES: dict[str, tuple[tf.DType, Callable[[tf.Tensor], tf.Tensor] | None]] = {
    "image_tensor": (tf.uint8, None),
    "float_image_tensor": (tf.float32, None),
    "encoded_image_string_tensor": (tf.string, ops.decode_image),
    "tf_example": (tf.string, ops.decode_tf_example),
}


# Pictures with boxes: where a detector has masks for any box, these are the masks of theirs.
IMAGE_AND_BOXES = "image_and_boxes_tensor"
BOXES = tf.TensorSpec([None, None, 4], name="boxes")


def signatures_to_write(asked: Sequence[str], possible: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """Returns the input types that get a signature, that of `serving_default` first.

    If several are asked for, only these; else all that are possible, with the one asked for, or `default`, in front.
    """
    first = asked[:1] or default[:1]
    return tuple(dict.fromkeys([*first, *(asked if len(asked) > 1 else possible)]))


def signature(detector: Detector, detect: Detect, input_type: str, input_shape: Shape | None) -> Any:
    """The traced function of one input type: pixels `[N, H, W, 3]`, or strings `[N]`, to the detector's outputs.

    `input_shape` fixes the pixels' shape; a decoded picture is then resized to its height and width first. What else
    the detector takes, its side inputs, comes behind them; if their N is fixed, so is that of the pictures.
    """
    dtype, decode = INPUT_TYPES[input_type]
    side = list(detector.side_inputs.values())
    num_images = input_shape[0] if input_shape else next((spec.shape[0] for spec in side if spec.shape[0]), None)
    if decode is None:
        spec = tf.TensorSpec([num_images, *(input_shape or ANY_SHAPE)[1:]], dtype, name=detector.input_name)
        return by_name(lambda images, *given: detect(*detector.preprocess(images), *given), [spec, *side])
    preprocess = detector.preprocess if input_shape is None else partial(_resized_first, detector, input_shape[1:3])
    spec = tf.TensorSpec([num_images], dtype, name=detector.input_name)

    def call(strings: tf.Tensor, *given: tf.Tensor) -> dict[str, tf.Tensor]:
        return detect(*ops.decoded_batch(strings, decode, preprocess, detector.preprocessed_shape), *given)

    return by_name(call, [spec, *side])


def with_boxes(detector: Detector) -> Detector:
    """The detector for `IMAGE_AND_BOXES`: boxes [N, B, 4], relative to the picture, are its side input."""
    return replace(detector, side_inputs={"boxes": BOXES})


def named(function: Any, names: Mapping[int, str]) -> Any:
    """The same signature with `detection_class_names` (string `[N, D]`); padding rows and unknown ids have ""."""
    table = ["", *(names.get(number, "") for number in range(1, max(names, default=0) + 1))]

    def call(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = function(*inputs)
        rows = tf.range(tf.shape(outputs["detection_scores"])[1])
        found = rows[tf.newaxis] < tf.cast(outputs["num_detections"], tf.int32)[:, tf.newaxis]
        numbers = tf.cast(outputs["detection_classes"], tf.int32)
        known = tf.where(found & (numbers < len(table)), numbers, 0)
        return outputs | {"detection_class_names": tf.gather(tf.constant(table), known)}

    return traced(call, specs_of(function))


def called(function: Any, arguments: Sequence[str]) -> Any:
    """The same function again, for `__call__` of the loaded model, whose arguments may be given by place."""
    specs = {spec.name: spec for spec in specs_of(function)}
    places = [list(arguments).index(name) for name in specs]
    return traced(lambda *inputs: function(*(inputs[i] for i in places)), [specs[name] for name in arguments])


def by_name(call: Detect, specs: Sequence[tf.TensorSpec]) -> Any:
    """With its arguments in the order of their names: so a loader hands them to a signature."""
    order = sorted(range(len(specs)), key=lambda i: specs[i].name)
    places = [order.index(i) for i in range(len(specs))]
    return traced(lambda *inputs: call(*(inputs[i] for i in places)), [specs[i] for i in order])


def traced(call: Detect, specs: Sequence[tf.TensorSpec]) -> Any:
    return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()


def specs_of(function: Any) -> Sequence[tf.TensorSpec]:
    specs, _ = function.structured_input_signature
    return specs


def _resized_first(detector: Detector, size: Shape, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width = (
        asked if asked is not None else tf.shape(images)[axis] for axis, asked in zip((1, 2), size, strict=True)
    )
    return detector.preprocess(ops.resize(images, (height, width), resize_method="BILINEAR"))
