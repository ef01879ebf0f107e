"""Builds the box predictor of an SSD from its `box_predictor` message.

Source: builders/box_predictor_builder.py; for TensorFlow 2 `build_keras` there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from unfreeze.config import enum_name, messages
from unfreeze.detectors.hyperparams import batch_norm, conv_style, keras_style
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.heads import convolutional, weight_shared
from unfreeze.heads.convolutional import ConvolutionalBoxPredictor, convolutional_box_predictor
from unfreeze.heads.weight_shared import (
    WeightSharedConvolutionalBoxPredictor,
    weight_shared_convolutional_box_predictor,
)
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style

Predictor = Callable[[Sequence[tf.Tensor], Branch, Sequence[int]], dict[str, tf.Tensor]]


def build_box_predictor(config: messages.BoxPredictor, num_class_slots: int, tf2: bool = False) -> Predictor:
    """Returns a function `(feature maps, p, anchors per location) -> box_encodings, class_predictions_with_background`.

    Raises:
        ConfigError: the Object Detection API rejects the message too.
        UnsupportedError: the predictor is not one for SSD.
    """
    kind = config.WhichOneof("box_predictor_oneof")
    if kind is None:
        raise ConfigError(f"box_predictor: it is empty; set one of {', '.join(BOX_PREDICTORS)}")
    if kind not in BOX_PREDICTORS:
        raise UnsupportedError(
            f"not supported yet: box_predictor {kind} in an SSD; supported: {', '.join(BOX_PREDICTORS)}"
        )
    return (KERAS_BOX_PREDICTORS if tf2 else BOX_PREDICTORS)[kind](getattr(config, kind), num_class_slots)


def _convolutional(config: messages.ConvolutionalBoxPredictor, num_class_slots: int) -> Predictor:
    style = conv_style(config.conv_hyperparams, "convolutional_box_predictor.conv_hyperparams")
    options = _convolutional_options(config, num_class_slots, style)
    return lambda maps, p, anchors: convolutional_box_predictor(maps, p, anchors, options)


def _keras_convolutional(config: messages.ConvolutionalBoxPredictor, num_class_slots: int) -> Predictor:
    """Ignores `apply_sigmoid_to_scores`, as the Object Detection API does in TensorFlow 2."""
    options = _convolutional_options(config, num_class_slots, keras_style(config.conv_hyperparams))
    if options.min_depth > options.max_depth:
        raise ConfigError(
            f"convolutional_box_predictor: min_depth is {options.min_depth}, more than max_depth "
            f"({options.max_depth}); lower it (the Object Detection API rejects it too)"
        )
    options = replace(options, apply_sigmoid_to_scores=False)
    names = convolutional.keras_names(config.use_depthwise, config.use_dropout)
    return lambda maps, p, anchors: convolutional_box_predictor(
        maps, p["_box_predictor"].renamed(names), anchors, options
    )


def _convolutional_options(
    config: messages.ConvolutionalBoxPredictor, num_class_slots: int, style: Style
) -> ConvolutionalBoxPredictor:
    _check_kernel_size("convolutional_box_predictor", config)
    return ConvolutionalBoxPredictor(
        num_class_slots=num_class_slots,
        style=style,
        min_depth=config.min_depth,
        max_depth=config.max_depth,
        num_layers_before_predictor=config.num_layers_before_predictor,
        kernel_size=config.kernel_size,
        box_code_size=config.box_code_size,
        apply_sigmoid_to_scores=config.apply_sigmoid_to_scores,
        use_depthwise=config.use_depthwise,
        box_encodings_clip_range=clip_range(config),
    )


def _weight_shared_convolutional(
    config: messages.WeightSharedConvolutionalBoxPredictor, num_class_slots: int
) -> Predictor:
    """Takes only the normalization from the hyperparameters; the rest never reaches the layers."""
    where = "weight_shared_convolutional_box_predictor.conv_hyperparams"
    style = Style(batch_norm(config.conv_hyperparams, where), tf.nn.relu6)
    options = _weight_shared_options(config, num_class_slots, style)
    return lambda maps, p, anchors: weight_shared_convolutional_box_predictor(maps, p, anchors, options)


def _keras_weight_shared_convolutional(
    config: messages.WeightSharedConvolutionalBoxPredictor, num_class_slots: int
) -> Predictor:
    """Ignores `sync_batch_norm`, and adds no biases where the normalization has no `center`."""
    hyperparams = config.conv_hyperparams
    style = keras_style(hyperparams)
    normalized = hyperparams.HasField("batch_norm")
    style = replace(style, norm=style.norm if normalized else None, biases_before_norm=hyperparams.force_use_bias)
    options = _weight_shared_options(config, num_class_slots, style)
    names = weight_shared.keras_names(normalized, config.use_dropout)
    return lambda maps, p, anchors: weight_shared_convolutional_box_predictor(
        maps, p["_box_predictor"].renamed(names), anchors, options
    )


def _weight_shared_options(
    config: messages.WeightSharedConvolutionalBoxPredictor, num_class_slots: int, style: Style
) -> WeightSharedConvolutionalBoxPredictor:
    where = "weight_shared_convolutional_box_predictor"
    _check_kernel_size(where, config)
    if config.num_layers_before_predictor > 0 and config.depth < 1:
        raise ConfigError(
            f"{where}: depth is {config.depth}, but num_layers_before_predictor is "
            f"{config.num_layers_before_predictor}; set depth to the depth of these layers in the checkpoint"
        )
    return WeightSharedConvolutionalBoxPredictor(
        num_class_slots=num_class_slots,
        style=style,
        depth=config.depth,
        num_layers_before_predictor=config.num_layers_before_predictor,
        kernel_size=config.kernel_size,
        box_code_size=config.box_code_size,
        share_prediction_tower=config.share_prediction_tower,
        use_depthwise=config.use_depthwise,
        sigmoid_scores=enum_name(config, "score_converter") == "SIGMOID",
        box_encodings_clip_range=clip_range(config),
    )


def _check_kernel_size(where: str, config: Any) -> None:
    if config.use_depthwise and config.kernel_size == 1:
        raise ConfigError(
            f"{where}: use_depthwise cannot be combined with kernel_size: 1; change one of them (the Object Detection "
            "API rejects it too)"
        )


def clip_range(config: Any) -> tuple[float, float] | None:
    """Returns `box_encodings_clip_range` as (min, max), or None if the message does not have it."""
    if not config.HasField("box_encodings_clip_range"):
        return None
    return config.box_encodings_clip_range.min, config.box_encodings_clip_range.max


BOX_PREDICTORS: dict[str, Callable[[Any, int], Predictor]] = {
    "convolutional_box_predictor": _convolutional,
    "weight_shared_convolutional_box_predictor": _weight_shared_convolutional,
}
KERAS_BOX_PREDICTORS: dict[str, Callable[[Any, int], Predictor]] = {
    "convolutional_box_predictor": _keras_convolutional,
    "weight_shared_convolutional_box_predictor": _keras_weight_shared_convolutional,
}
