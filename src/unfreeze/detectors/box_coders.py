"""Builds the box decoder of a `box_coder` message. Source: object_detection/builders/box_coder_builder.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from unfreeze.config import messages
from unfreeze.errors import ConfigError
from unfreeze.ops import coders as ops


class Decoded(NamedTuple):
    """`boxes` `[..., 4]`, and `keypoints` `[..., P, 2]` (y, x) if the coder has keypoints."""

    boxes: tf.Tensor
    keypoints: tf.Tensor | None = None


# Codes `[..., code_size]` and anchors `[..., 4]`, which broadcast -> boxes and keypoints.
BoxDecoder = Callable[[tf.Tensor, tf.Tensor], Decoded]


def build_box_decoder(config: messages.BoxCoder) -> BoxDecoder:
    """Returns the decoder of a `BoxCoder` message.

    Raises:
        ConfigError: the message is empty, or a scale is not positive.
    """
    kind = config.WhichOneof("box_coder_oneof")
    if kind is None:
        raise ConfigError("box_coder is empty; set one, such as box_coder { faster_rcnn_box_coder {} }")
    return BOX_DECODERS[kind](getattr(config, kind))


def _faster_rcnn(config: messages.FasterRcnnBoxCoder) -> BoxDecoder:
    scales = _scales(config, "y_scale", "x_scale", "height_scale", "width_scale")
    return lambda codes, anchors: Decoded(ops.center_size_boxes(codes, anchors, scales))


def _keypoint(config: messages.KeypointBoxCoder) -> BoxDecoder:
    scales = _scales(config, "y_scale", "x_scale", "height_scale", "width_scale")

    def decode(codes: tf.Tensor, anchors: tf.Tensor) -> Decoded:
        boxes = ops.center_size_boxes(codes, anchors, scales)
        return Decoded(boxes, ops.keypoints(codes[..., 4:], anchors, scales[:2]))

    return decode


def _mean_stddev(config: messages.MeanStddevBoxCoder) -> BoxDecoder:
    stddev = config.stddev
    return lambda codes, anchors: Decoded(ops.mean_stddev_boxes(codes, anchors, stddev))


def _square(config: messages.SquareBoxCoder) -> BoxDecoder:
    scales = _scales(config, "y_scale", "x_scale", "length_scale")
    return lambda codes, anchors: Decoded(ops.square_boxes(codes, anchors, scales))


BOX_DECODERS: dict[str, Callable[[Any], BoxDecoder]] = {
    "faster_rcnn_box_coder": _faster_rcnn,
    "keypoint_box_coder": _keypoint,
    "mean_stddev_box_coder": _mean_stddev,
    "square_box_coder": _square,
}


def _scales(config: Any, *fields: str) -> tuple[float, ...]:
    for field in fields:
        if getattr(config, field) <= 0:
            raise ConfigError(f"box_coder: {field} is {getattr(config, field)}; it must be greater than 0")
    return tuple(getattr(config, field) for field in fields)
