"""`box_predictor` of SSD as a function of the feature maps. Source: builders/box_predictor_builder.py.

Of TensorFlow 2 are `build_keras` and what it calls there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from unfreeze.config import enum_name
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


def build_box_predictor(config: Any, num_class_slots: int, tf2: bool = False) -> Predictor:
    """A function `(feature maps, p, anchors per location) -> box_encodings, class_predictions_with_background`.

    Raises:
        ConfigError: what the original refuses too.
        UnsupportedError: a predictor that is not for SSD.
    """
    kind = config.WhichOneof("box_predictor_oneof")
    if kind is None:
        raise ConfigError(f"box_predictor: it is empty; it has to hold one of {', '.join(BOX_PREDICTORS)}")
    if kind not in BOX_PREDICTORS:
        raise UnsupportedError(
            f"not supported yet: box_predictor {kind} in an SSD; supported: {', '.join(BOX_PREDICTORS)}"
        )
    return (KERAS_BOX_PREDICTORS if tf2 else BOX_PREDICTORS)[kind](getattr(config, kind), num_class_slots)


def _convolutional(config: Any, num_class_slots: int) -> Predictor:
    style = conv_style(config.conv_hyperparams, "convolutional_box_predictor.conv_hyperparams")
    numbers = _convolutional_numbers(config, num_class_slots, style)
    return lambda maps, p, anchors: convolutional_box_predictor(maps, p, anchors, numbers)


def _keras_convolutional(config: Any, num_class_slots: int) -> Predictor:
    """`apply_sigmoid_to_scores` does nothing, as in the original."""
    numbers = _convolutional_numbers(config, num_class_slots, keras_style(config.conv_hyperparams))
    if numbers.min_depth > numbers.max_depth:
        raise ConfigError(
            f"convolutional_box_predictor: min_depth is {numbers.min_depth} and max_depth {numbers.max_depth}; the "
            "original refuses it too"
        )
    numbers = replace(numbers, apply_sigmoid_to_scores=False)
    names = convolutional.keras_names(config.use_depthwise, config.use_dropout)
    return lambda maps, p, anchors: convolutional_box_predictor(
        maps, p["_box_predictor"].renamed(names), anchors, numbers
    )


def _convolutional_numbers(config: Any, num_class_slots: int, style: Style) -> ConvolutionalBoxPredictor:
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


def _weight_shared_convolutional(config: Any, num_class_slots: int) -> Predictor:
    """Of the hyperparameters only the normalization reaches the layers."""
    where = "weight_shared_convolutional_box_predictor.conv_hyperparams"
    style = Style(batch_norm(config.conv_hyperparams, where), tf.nn.relu6)
    numbers = _weight_shared_numbers(config, num_class_slots, style)
    return lambda maps, p, anchors: weight_shared_convolutional_box_predictor(maps, p, anchors, numbers)


def _keras_weight_shared_convolutional(config: Any, num_class_slots: int) -> Predictor:
    """A `sync_batch_norm` does not reach the layers, nor does a lack of `center` give them biases."""
    hyperparams = config.conv_hyperparams
    style = keras_style(hyperparams)
    normalized = hyperparams.HasField("batch_norm")
    style = replace(style, norm=style.norm if normalized else None, biases_before_norm=hyperparams.force_use_bias)
    numbers = _weight_shared_numbers(config, num_class_slots, style)
    names = weight_shared.keras_names(normalized, config.use_dropout)
    return lambda maps, p, anchors: weight_shared_convolutional_box_predictor(
        maps, p["_box_predictor"].renamed(names), anchors, numbers
    )


def _weight_shared_numbers(config: Any, num_class_slots: int, style: Style) -> WeightSharedConvolutionalBoxPredictor:
    where = "weight_shared_convolutional_box_predictor"
    _check_kernel_size(where, config)
    if config.num_layers_before_predictor > 0 and config.depth < 1:
        raise ConfigError(
            f"{where}: depth is {config.depth}, which {config.num_layers_before_predictor} layers are to have "
            "(num_layers_before_predictor); set it to the checkpoint's"
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
        raise ConfigError(f"{where}: use_depthwise does not go with kernel_size: 1; the original refuses it too")


def clip_range(config: Any) -> tuple[float, float] | None:
    """`box_encodings_clip_range` as (min, max), if the message has it."""
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
