"""Context R-CNN: `context_config` of a two-stage detector, and the side inputs that it asks for.

Source: object_detection/meta_architectures/context_rcnn_meta_arch.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from unfreeze.errors import ConfigError
from unfreeze.heads.context_attention import ContextAttention, context_attention, keras_context_attention
from unfreeze.ops.branch import Branch
from unfreeze.ops.crops import Rows

Attend = Callable[[tf.Tensor], tf.Tensor]
REFUSED = ("output_final_box_features", "output_final_box_rpn_features")
# What TensorFlow 2 lacks of the attention: each field, and the one value that it takes.
FIXED_IN_TF2 = {
    "use_self_attention": False,
    "self_attention_in_sequence": False,
    "use_long_term_attention": True,
    "num_attention_heads": 1,
    "num_attention_layers": 1,
}


@dataclass(frozen=True)
class Attention:
    """For the boxes of a batch: `[R, h, w, C] -> [R, h, w, C]`, features with what they attend to added.

    `crops` is for those that are cropped and pooled, `features` for those that the second stage made of them.
    """

    crops: Attend = lambda x: x
    features: Attend = lambda x: x


NO_ATTENTION = Attention()


@dataclass(frozen=True)
class Context:
    """A `context_config`: its numbers, where the attention stands, and the inputs that it reads."""

    numbers: ContextAttention
    position: str
    side_inputs: Mapping[str, tf.TensorSpec]
    attend: Callable[..., tf.Tensor]

    def attention(
        self, rows: Rows, num_proposals: tf.Tensor, side_inputs: Mapping[str, tf.Tensor], p: Branch
    ) -> Attention:
        """The attention of these proposals to the side inputs of a request."""

        def attend(features: tf.Tensor) -> tf.Tensor:
            boxes = rows.padded(tf.reduce_mean(features, [1, 2]))
            attended = self.attend(boxes, num_proposals, **side_inputs, p=p, numbers=self.numbers)
            return features + rows.of(attended)[:, tf.newaxis, tf.newaxis]

        return Attention(**{self.position: attend}) if self.position else NO_ATTENTION


def build_context(config: Any, tf2: bool) -> Context | None:
    """The context of a `FasterRcnn` message, if it has one; R-FCN ignores it, as in the original.

    Raises:
        ConfigError: what the original fails on too.
    """
    if not config.HasField("context_config") or config.second_stage_box_predictor.HasField("rfcn_box_predictor"):
        return None
    context = config.context_config
    if config.number_of_stages == 3:
        raise ConfigError("context_config: number_of_stages is 3, on which the original fails; set it to 2")
    for field in REFUSED:
        if getattr(config, field):
            raise ConfigError(f"context_config: {field} is true, on which the original fails; take it out")
    if not (context.use_self_attention or context.use_long_term_attention):
        raise ConfigError("context_config: neither use_self_attention nor use_long_term_attention is true; set one")
    for field, least in (
        ("context_feature_length", 1),
        ("attention_bottleneck_dimension", 1),
        ("num_attention_heads", 1),
        ("num_attention_layers", 0),
    ):
        if getattr(context, field) < least:
            raise ConfigError(f"context_config: {field} is {getattr(context, field)}; it has to be at least {least}")
    for field, only in FIXED_IN_TF2.items() if tf2 else ():
        if getattr(context, field) != only:
            raise ConfigError(
                f"context_config: {field} is {str(getattr(context, field)).lower()}, which the original refuses in "
                f"TensorFlow 2; set it to {str(only).lower()}"
            )
    names = [field.name for field in context.DESCRIPTOR.fields if field.name in ContextAttention.__dataclass_fields__]
    position = context.DESCRIPTOR.fields_by_name["attention_position"].enum_type.values_by_number
    return Context(
        ContextAttention(**{name: getattr(context, name) for name in names}),
        # ATTENTION_DEFAULT is nowhere: the original then takes the side inputs, and reads none of them.
        {"POST_RPN": "crops", "POST_BOX_CLASSIFIER": "features"}.get(position[context.attention_position].name, ""),
        {
            "context_features": tf.TensorSpec([None, None, context.context_feature_length], name="context_features"),
            "valid_context_size": tf.TensorSpec([None], tf.int32, name="valid_context_size"),
        },
        keras_context_attention if tf2 else context_attention,
    )
