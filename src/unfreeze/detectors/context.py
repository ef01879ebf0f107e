"""Builds the attention of a Context R-CNN from `context_config`, with the side inputs that it needs.

Source: object_detection/meta_architectures/context_rcnn_meta_arch.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tensorflow as tf

from unfreeze.config import enum_name, messages
from unfreeze.errors import ConfigError
from unfreeze.heads.context_attention import ContextAttention, context_attention, keras_context_attention
from unfreeze.ops.branch import Branch
from unfreeze.ops.crops import Rows

Attend = Callable[[tf.Tensor], tf.Tensor]
INCOMPATIBLE_OPTIONS = ("output_final_box_features", "output_final_box_rpn_features")
# Options of the attention that TensorFlow 2 does not implement, with the only value that they may have there.
FIXED_IN_TF2 = {
    "use_self_attention": False,
    "self_attention_in_sequence": False,
    "use_long_term_attention": True,
    "num_attention_heads": 1,
    "num_attention_layers": 1,
}


@dataclass(frozen=True)
class Attention:
    """Adds to the features of boxes what they attend to: `[R, h, w, C] -> [R, h, w, C]`.

    `crops` is applied to the cropped and pooled features, `features` to those that the second stage computes from them.
    """

    crops: Attend = lambda x: x
    features: Attend = lambda x: x


NO_ATTENTION = Attention()


@dataclass(frozen=True)
class Context:
    """A `context_config`: its options, the position of the attention, and its side inputs."""

    options: ContextAttention
    position: str
    side_inputs: Mapping[str, tf.TensorSpec]
    attend: Callable[..., tf.Tensor]

    def attention(
        self, rows: Rows, num_proposals: tf.Tensor, side_inputs: Mapping[str, tf.Tensor], p: Branch
    ) -> Attention:
        """Returns the attention of these proposals to the side inputs of a request."""

        def attend(features: tf.Tensor) -> tf.Tensor:
            boxes = rows.padded(tf.reduce_mean(features, [1, 2]))
            attended = self.attend(boxes, num_proposals, **side_inputs, p=p, options=self.options)
            return features + rows.of(attended)[:, tf.newaxis, tf.newaxis]

        return Attention(**{self.position: attend}) if self.position else NO_ATTENTION


def build_context(config: messages.FasterRcnn, tf2: bool) -> Context | None:
    """Returns the context of a `FasterRcnn` message, or None without `context_config`. An R-FCN ignores it.

    Raises:
        ConfigError: the Object Detection API fails on the message too.
    """
    if not config.HasField("context_config") or config.second_stage_box_predictor.HasField("rfcn_box_predictor"):
        return None
    context = config.context_config
    if config.number_of_stages == 3:
        raise ConfigError(
            "context_config: number_of_stages is 3, which is not supported here; set it to 2 (the Object Detection API "
            "fails on it too)"
        )
    for field in INCOMPATIBLE_OPTIONS:
        if getattr(config, field):
            raise ConfigError(
                f"context_config: {field} is true, which is not supported here; remove it (the Object Detection API "
                "fails on it too)"
            )
    if not (context.use_self_attention or context.use_long_term_attention):
        raise ConfigError(
            "context_config: use_self_attention and use_long_term_attention are both false; set one to true"
        )
    for field, least in (
        ("context_feature_length", 1),
        ("attention_bottleneck_dimension", 1),
        ("num_attention_heads", 1),
        ("num_attention_layers", 0),
    ):
        if getattr(context, field) < least:
            raise ConfigError(f"context_config: {field} is {getattr(context, field)}; it must be at least {least}")
    for field, only in FIXED_IN_TF2.items() if tf2 else ():
        if getattr(context, field) != only:
            raise ConfigError(
                f"context_config: {field} is {str(getattr(context, field)).lower()}, which is not supported in "
                f"TensorFlow 2; set it to {str(only).lower()} (the Object Detection API rejects it too)"
            )
    names = [field.name for field in context.DESCRIPTOR.fields if field.name in ContextAttention.__dataclass_fields__]

    return Context(
        ContextAttention(**{name: getattr(context, name) for name in names}),
        # ATTENTION_DEFAULT is no position: the Object Detection API then takes the side inputs and ignores them.
        {"POST_RPN": "crops", "POST_BOX_CLASSIFIER": "features"}.get(enum_name(context, "attention_position"), ""),
        {
            "context_features": tf.TensorSpec([None, None, context.context_feature_length], name="context_features"),
            "valid_context_size": tf.TensorSpec([None], tf.int32, name="valid_context_size"),
        },
        keras_context_attention if tf2 else context_attention,
    )
