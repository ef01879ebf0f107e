"""The convolutional box predictor, with separate layers for each feature map.

Source: object_detection/predictors/convolutional_box_predictor.py (ConvolutionalBoxPredictor),
predictors/heads/{box_head,class_head}.py; for TensorFlow 2 predictors/convolutional_keras_box_predictor.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from unfreeze.ops.branch import Branch, Renames
from unfreeze.ops.layers import PLAIN, Style, conv, depthwise_conv


@dataclass(frozen=True)
class ConvolutionalBoxPredictor:
    """The options of a `convolutional_box_predictor`, under the config's names."""

    num_class_slots: int
    style: Style
    min_depth: int = 0
    max_depth: int = 0
    num_layers_before_predictor: int = 0
    kernel_size: int = 1
    box_code_size: int = 4
    apply_sigmoid_to_scores: bool = False
    use_depthwise: bool = False
    box_encodings_clip_range: tuple[float, float] | None = None


def convolutional_box_predictor(
    feature_maps: Sequence[tf.Tensor],
    p: Branch,
    anchors_per_location: Sequence[int],
    options: ConvolutionalBoxPredictor,
) -> dict[str, tf.Tensor]:
    """`L x [N, h, w, C] -> box_encodings [N, A, code], class_predictions_with_background [N, A, K]`."""
    encodings, classes = [], []
    for i, (feature_map, anchors) in enumerate(zip(feature_maps, anchors_per_location, strict=True)):
        # With one feature map, the Object Detection API opens no scope for it.
        scope = p[f"BoxPredictor_{i}"] if len(feature_maps) > 1 else p
        x = _layers_before_predictor(feature_map, scope, options)
        code = _predict(x, scope, "BoxEncodingPredictor", anchors, options.box_code_size, options)
        if options.box_encodings_clip_range is not None:
            code = tf.clip_by_value(code, *options.box_encodings_clip_range)
        encodings.append(code)
        logits = _predict(x, scope, "ClassPredictor", anchors, options.num_class_slots, options)
        classes.append(tf.sigmoid(logits) if options.apply_sigmoid_to_scores else logits)
    return {
        "box_encodings": tf.concat(encodings, axis=1),
        "class_predictions_with_background": tf.concat(classes, axis=1),
    }


def _layers_before_predictor(x: tf.Tensor, p: Branch, options: ConvolutionalBoxPredictor) -> tf.Tensor:
    depth = max(min(x.shape[3], options.max_depth), options.min_depth)
    if depth > 0:
        for i in range(options.num_layers_before_predictor):
            x = conv(x, p[f"Conv2d_{i}_1x1_{depth}"], depth, 1, style=options.style)
    return x


def _predict(
    x: tf.Tensor, p: Branch, name: str, anchors: int, slots: int, options: ConvolutionalBoxPredictor
) -> tf.Tensor:
    """`[N, h, w, C] -> [N, h * w * anchors, slots]`."""
    if options.use_depthwise:
        x = depthwise_conv(x, p[name + "_depthwise"], options.kernel_size, style=options.style)
        y = conv(x, p[name], anchors * slots, 1, style=PLAIN)
    else:
        y = conv(x, p[name], anchors * slots, options.kernel_size, style=PLAIN)
    return tf.reshape(y, [tf.shape(x)[0], -1, slots])


def keras_names(use_depthwise: bool, use_dropout: bool) -> Renames:
    """Returns the names of these layers in the Keras model: in lists of layers that include layers without weights."""

    def before_predictor(part: int) -> Callable[[re.Match[str]], str]:
        return lambda match: f"_shared_nets/{match[1]}/{3 * int(match[2]) + part}"

    def head(name: str, layers: str, first: int) -> Renames:
        """Returns the names of depthwise convolution, normalization and pointwise convolution, or of one layer."""
        last = first + 3 if use_depthwise else first
        return (
            (rf"^BoxPredictor_(\d+)/{name}_depthwise/BatchNorm(?=/)", rf"{layers}/{first + 1}"),
            (rf"^BoxPredictor_(\d+)/{name}_depthwise(?=/)", rf"{layers}/{first}"),
            (rf"^BoxPredictor_(\d+)/{name}(?=/)", rf"{layers}/{last}"),
        )

    return (
        (r"^(?!BoxPredictor_\d)", "BoxPredictor_0/"),  # the predictor of a model with one feature map
        (r"^BoxPredictor_(\d+)/Conv2d_(\d+)_1x1_\d+/BatchNorm(?=/)", before_predictor(1)),
        (r"^BoxPredictor_(\d+)/Conv2d_(\d+)_1x1_\d+(?=/)", before_predictor(0)),
        *head("BoxEncodingPredictor", r"_prediction_heads/box_encodings/\1/_box_encoder_layers", 0),
        *head(
            "ClassPredictor",
            r"_prediction_heads/class_predictions_with_background/\1/_class_predictor_layers",
            int(use_dropout),
        ),
    )
