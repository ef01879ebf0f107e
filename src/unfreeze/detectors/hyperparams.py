"""`conv_hyperparams` and `fc_hyperparams` as a `Style`: what follows a convolution.

Source: object_detection/builders/hyperparams_builder.py.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from unfreeze.config import enum_name
from unfreeze.errors import ConfigError
from unfreeze.ops.layers import SWISH, GroupNorm, Style
from unfreeze.ops.normalization import BatchNorm

ACTIVATIONS = {"NONE": None, "RELU": tf.nn.relu, "RELU_6": tf.nn.relu6, "SWISH": SWISH}

# What a slim layer does when no hyperparameters reach it.
SLIM_STYLE = Style(norm=None, activation=tf.nn.relu)


def conv_style(hyperparams: Any, where: str) -> Style:
    """The style of the slim convolutions below a Hyperparams message; `where` names it in errors."""
    style = _style(hyperparams, where)
    # The original applies hyperparameters of `op: FC` to fully connected layers only.
    return SLIM_STYLE if hyperparams.HasField("op") and enum_name(hyperparams, "op") == "FC" else style


def extractor_style(feature_extractor: Any) -> Style:
    """The style of a `feature_extractor` message's own `conv_hyperparams`."""
    return conv_style(feature_extractor.conv_hyperparams, "feature_extractor.conv_hyperparams")


def fc_style(hyperparams: Any, where: str) -> Style:
    """The style of the slim fully connected layers below a Hyperparams message, which has to say `op: FC`."""
    style = _style(hyperparams, where)
    return style if hyperparams.HasField("op") and enum_name(hyperparams, "op") == "FC" else SLIM_STYLE


def keras_style(hyperparams: Any) -> Style:
    """The style of the Keras layers below a Hyperparams message, whatever its `op`; they know no group_norm."""
    activation = ACTIVATIONS[enum_name(hyperparams, "activation")]
    kind = hyperparams.WhichOneof("normalizer_oneof")
    if kind not in ("batch_norm", "sync_batch_norm"):
        return Style(None, activation)
    norm = getattr(hyperparams, kind)
    biases = hyperparams.force_use_bias or not norm.center
    return Style(_batch_norm(norm), activation, biases_before_norm=biases)


def batch_norm(hyperparams: Any, where: str) -> BatchNorm | None:
    """The batch normalization of a Hyperparams message, for layers that take nothing else of it, whatever its `op`."""
    norm = _style(hyperparams, where).norm
    return norm if isinstance(norm, BatchNorm) else None


def _style(hyperparams: Any, where: str) -> Style:
    for field in ("force_use_bias", "sync_batch_norm"):
        if hyperparams.HasField(field) and getattr(hyperparams, field):
            raise ConfigError(
                f"{where}: {field} is for Keras models of TensorFlow 2; take it out: the original refuses it too"
            )
    activation = ACTIVATIONS[enum_name(hyperparams, "activation")]
    if hyperparams.HasField("group_norm"):
        return Style(GroupNorm(), activation)
    if hyperparams.HasField("batch_norm"):
        return Style(_batch_norm(hyperparams.batch_norm), activation)
    return Style(None, activation)


def _batch_norm(norm: Any) -> BatchNorm:
    return BatchNorm(norm.center, norm.scale, norm.epsilon, norm.decay, norm.train)
