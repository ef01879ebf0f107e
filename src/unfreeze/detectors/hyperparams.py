"""Builds a `Style`, the operations after a convolution, from `conv_hyperparams` and `fc_hyperparams`.

Source: object_detection/builders/hyperparams_builder.py.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from unfreeze.config import enum_name, messages
from unfreeze.errors import ConfigError
from unfreeze.ops.layers import SWISH, GroupNorm, Style
from unfreeze.ops.normalization import BatchNorm

ACTIVATIONS = {"NONE": None, "RELU": tf.nn.relu, "RELU_6": tf.nn.relu6, "SWISH": SWISH}

# The style of a slim layer that no hyperparameters reach.
SLIM_STYLE = Style(norm=None, activation=tf.nn.relu)


def conv_style(hyperparams: messages.Hyperparams, where: str) -> Style:
    """Returns the style of the slim convolutions of a Hyperparams message; `where` names it in errors."""
    style = _style(hyperparams, where)
    # The Object Detection API applies hyperparameters with `op: FC` only to fully connected layers.
    return SLIM_STYLE if hyperparams.HasField("op") and enum_name(hyperparams, "op") == "FC" else style


def extractor_style(feature_extractor: Any) -> Style:
    """Returns the style of the `conv_hyperparams` of a `feature_extractor` message."""
    return conv_style(feature_extractor.conv_hyperparams, "feature_extractor.conv_hyperparams")


def fc_style(hyperparams: messages.Hyperparams, where: str) -> Style:
    """Returns the style of the slim fully connected layers of a Hyperparams message; it applies only with `op: FC`."""
    style = _style(hyperparams, where)
    return style if hyperparams.HasField("op") and enum_name(hyperparams, "op") == "FC" else SLIM_STYLE


def keras_style(hyperparams: messages.Hyperparams) -> Style:
    """Returns the style of the Keras layers of a Hyperparams message with any `op`; they have no group_norm."""
    activation = ACTIVATIONS[enum_name(hyperparams, "activation")]
    kind = hyperparams.WhichOneof("normalizer_oneof")
    if kind not in ("batch_norm", "sync_batch_norm"):
        return Style(None, activation)
    norm = getattr(hyperparams, kind)
    biases = hyperparams.force_use_bias or not norm.center
    return Style(_batch_norm(norm), activation, biases_before_norm=biases)


def batch_norm(hyperparams: messages.Hyperparams, where: str) -> BatchNorm | None:
    """Returns the batch normalization of a Hyperparams message with any `op`, for layers that use only that."""
    norm = _style(hyperparams, where).norm
    return norm if isinstance(norm, BatchNorm) else None


def _style(hyperparams: messages.Hyperparams, where: str) -> Style:
    for field in ("force_use_bias", "sync_batch_norm"):
        if hyperparams.HasField(field) and getattr(hyperparams, field):
            raise ConfigError(
                f"{where}: {field} is for Keras models of TensorFlow 2; remove it (the Object Detection API rejects it "
                "too)"
            )
    activation = ACTIVATIONS[enum_name(hyperparams, "activation")]
    if hyperparams.HasField("group_norm"):
        return Style(GroupNorm(), activation)
    if hyperparams.HasField("batch_norm"):
        return Style(_batch_norm(hyperparams.batch_norm), activation)
    return Style(None, activation)


def _batch_norm(norm: messages.BatchNorm) -> BatchNorm:
    return BatchNorm(norm.center, norm.scale, norm.epsilon, norm.decay, norm.train)
