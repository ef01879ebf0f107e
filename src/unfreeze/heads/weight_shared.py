"""The weight-shared box predictor: the same layers for all feature maps, but separate batch normalizations.

Source: object_detection/predictors/convolutional_box_predictor.py (WeightSharedConvolutionalBoxPredictor),
predictors/heads/{box_head,class_head}.py; for TensorFlow 2 predictors/convolutional_keras_box_predictor.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.ops.branch import Branch, Renames
from unfreeze.ops.layers import PLAIN, Style, conv, separable_conv

CLASSES = "class_predictions_with_background"
SCOPE = "WeightSharedConvolutionalBoxPredictor"


@dataclass(frozen=True)
class WeightSharedConvolutionalBoxPredictor:
    """The options of a `weight_shared_convolutional_box_predictor`, under the config's names."""

    num_class_slots: int
    style: Style  # the style of the towers' layers
    depth: int = 0
    num_layers_before_predictor: int = 0
    kernel_size: int = 3
    box_code_size: int = 4
    share_prediction_tower: bool = False
    use_depthwise: bool = False
    sigmoid_scores: bool = False  # score_converter
    box_encodings_clip_range: tuple[float, float] | None = None


def weight_shared_convolutional_box_predictor(
    feature_maps: Sequence[tf.Tensor],
    p: Branch,
    anchors_per_location: Sequence[int],
    options: WeightSharedConvolutionalBoxPredictor,
) -> dict[str, tf.Tensor]:
    """`L x [N, h, w, C] -> box_encodings [N, A, code], class_predictions_with_background [N, A, K]`.

    Raises:
        ConfigError: the feature maps have different numbers of anchors per location.
    """
    if len(set(anchors_per_location)) > 1:
        raise ConfigError(
            "weight_shared_convolutional_box_predictor: the feature maps have different numbers of anchors per "
            f"location ({list(anchors_per_location)}); change the anchor_generator so that they are equal"
        )
    maps = _of_one_depth(feature_maps, p[SCOPE], options)
    encodings, classes = [], []
    for i, (x, anchors) in enumerate(zip(maps, anchors_per_location, strict=True)):
        level = p.scoped(SCOPE, operations=f"{SCOPE}_{i}" if i else SCOPE)
        if options.share_prediction_tower:
            box_tower = class_tower = _tower(x, level["PredictionTower"], i, options)
        else:
            box_tower = _tower(x, level["BoxPredictionTower"], i, options)
            class_tower = _tower(x, level["ClassPredictionTower"], i, options)
        code = _predict(box_tower, level["BoxPredictor"], anchors, options.box_code_size, options)
        if options.box_encodings_clip_range is not None:
            code = tf.clip_by_value(code, *options.box_encodings_clip_range)
        encodings.append(code)
        scores = _predict(class_tower, level["ClassPredictor"], anchors, options.num_class_slots, options)
        classes.append(tf.sigmoid(scores) if options.sigmoid_scores else scores)
    return {
        "box_encodings": tf.concat(encodings, axis=1),
        "class_predictions_with_background": tf.concat(classes, axis=1),
    }


def _of_one_depth(
    feature_maps: Sequence[tf.Tensor], p: Branch, options: WeightSharedConvolutionalBoxPredictor
) -> Sequence[tf.Tensor]:
    """Returns the feature maps, projected to the most common depth if their depths differ."""
    depths = [x.shape[3] for x in feature_maps]
    if len(set(depths)) == 1:
        return feature_maps
    if p.quantized:
        raise UnsupportedError(
            "not supported yet: graph_rewriter (a quantization-aware graph) with feature maps of different depths "
            f"before a weight_shared_convolutional_box_predictor ({depths})"
        )
    # Among equally common depths, the first in a Python set, as in the Object Detection API.
    depth = max(set(depths), key=depths.count)
    style = replace(options.style, activation=None)
    return [conv(x, p[f"ProjectionLayer/conv2d_{i}"], depth, 1, style=style) for i, x in enumerate(feature_maps)]


def _tower(x: tf.Tensor, p: Branch, level: int, options: WeightSharedConvolutionalBoxPredictor) -> tf.Tensor:
    """`[N, h, w, C] -> [N, h, w, depth]`: shared kernels, with the normalization of this level."""
    layer = separable_conv if options.use_depthwise else conv
    for i in range(options.num_layers_before_predictor):
        scope = p[f"conv2d_{i}"]
        x = layer(
            x,
            scope,
            options.depth,
            options.kernel_size,
            style=options.style,
            statistics=scope[f"BatchNorm/feature_{level}"],
        )
    return x


def _predict(
    x: tf.Tensor, p: Branch, anchors: int, slots: int, options: WeightSharedConvolutionalBoxPredictor
) -> tf.Tensor:
    """`[N, h, w, C] -> [N, h * w * anchors, slots]`."""
    layer = separable_conv if options.use_depthwise else conv
    y = layer(x, p, anchors * slots, options.kernel_size, style=PLAIN)
    return tf.reshape(y, [tf.shape(x)[0], -1, slots])


def keras_names(normalized: bool, use_dropout: bool) -> Renames:
    """Returns the names of these layers in the Keras model: in lists of layers that include layers without weights.

    Args:
        normalized: whether each convolution of a tower is followed by a batch normalization.
    """
    step = 3 if normalized else 2  # convolution, normalization, activation

    def statistics(match: re.Match[str]) -> str:
        tower, layer, level = match.groups()
        head = CLASSES if tower == "Class" else "box_encodings"
        return f"_base_tower_layers_for_heads/{head}/{level}/{step * int(layer) + 1}"

    return (
        (rf"^{SCOPE}/ProjectionLayer/conv2d_(\d+)/BatchNorm(?=/)", r"_additional_projection_layers/\1/1"),
        (rf"^{SCOPE}/ProjectionLayer/conv2d_(\d+)(?=/)", r"_additional_projection_layers/\1/0"),
        (rf"^{SCOPE}/(\w*)PredictionTower/conv2d_(\d+)/BatchNorm/feature_(\d+)(?=/)", statistics),
        (rf"^{SCOPE}/(\w*PredictionTower)/conv2d_(\d+)(?=/)", r"_head_scope_conv_layers/\1/\2"),
        (rf"^{SCOPE}/BoxPredictor(?=/)", "_box_prediction_head/_box_encoder_layers/0"),
        (rf"^{SCOPE}/ClassPredictor(?=/)", f"_prediction_heads/{CLASSES}/_class_predictor_layers/{int(use_dropout)}"),
    )
