"""KERAS_EXTRACTORS: a row for each `feature_extractor.type` of Faster R-CNN in TensorFlow 2, the config's word first.

Source: object_detection/models/faster_rcnn_*_keras_feature_extractor.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import tensorflow as tf

from unfreeze.backbones import inception_resnet_v2
from unfreeze.backbones.resnet_v1 import KERAS_STYLE, UNITS, keras_resnet_v1, keras_resnet_v1_block
from unfreeze.config import messages
from unfreeze.detectors.faster_rcnn_extractors import FasterRcnnExtractor
from unfreeze.detectors.hyperparams import keras_style
from unfreeze.detectors.normalizations import mean_subtracted, unit_range
from unfreeze.errors import ConfigError
from unfreeze.necks import fpn
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import PLAIN, fully_connected, pad_to_multiple
from unfreeze.ops.normalization import BatchNorm, batch_norm

FPN_LEVELS = (2, 6)  # (min_level, max_level) without an `fpn` message
FPN_DEPTH = 256
COARSEST_BLOCK = 5  # the level of block4
CONV5_DEPTHS = (512, 2048)
CLASSIFIER_UNITS = 1024
DENSE = replace(PLAIN, activation=tf.nn.relu)


def faster_rcnn_resnet_v1_keras(architecture: str) -> FasterRcnnExtractor:
    """Returns the extractor with blocks 1 to 3 in the first stage and block 4 in the second."""

    def first_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> list[tf.Tensor]:
        return [keras_resnet_v1(x, p, UNITS[architecture][:3])["block3"]]

    def second_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> tf.Tensor:
        style = replace(KERAS_STYLE, winograd=True)
        return keras_resnet_v1_block(x, p, "conv5", CONV5_DEPTHS, 3, stride=2, style=style)

    return FasterRcnnExtractor(first_stage, second_stage, mean_subtracted, strides=(16,))


def faster_rcnn_resnet_v1_fpn_keras(architecture: str) -> FasterRcnnExtractor:
    """Returns the extractor with a pyramid in the first stage and two dense layers for each crop in the second.

    `first_stage_features_stride` has no effect.
    """

    def first_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> list[tf.Tensor]:
        style, (min_level, max_level) = keras_style(config.conv_hyperparams), _fpn_levels(config)
        depth = config.fpn.additional_layer_depth if config.HasField("fpn") else FPN_DEPTH
        base = style if config.override_base_feature_extractor_hyperparams else KERAS_STYLE
        stages = keras_resnet_v1(pad_to_multiple(x, 32), p["classification_backbone"], UNITS[architecture], style=base)
        levels = range(min_level, min(max_level, COARSEST_BLOCK) + 1)
        maps = fpn.fpn_top_down_feature_maps(
            [stages[f"block{level - 1}"] for level in levels],
            p["fpn_features_generator"].renamed(fpn.keras_names(len(levels))),
            depth=depth,
            upsamples_smoothed=True,
            style=style,
        )
        coarser = [str(i) for i in range(max_level - COARSEST_BLOCK)]
        layers = p["coarse_feature_layers"].renamed(fpn.keras_coarse_names())
        return maps + fpn.coarse_feature_maps(maps[-1], layers, coarser, depth=depth, style=style)

    def second_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> tf.Tensor:
        norm = keras_style(config.conv_hyperparams).norm
        x = tf.reshape(x, [-1, math.prod(x.shape[1:])])
        x = fully_connected(x, p["layer_with_weights-0"], CLASSIFIER_UNITS, style=DENSE)
        if isinstance(norm, BatchNorm):  # after the activation, so it cannot be folded into the layer before
            x = batch_norm(x, p["layer_with_weights-1"], norm)
        x = fully_connected(x, p[f"layer_with_weights-{2 if norm else 1}"], CLASSIFIER_UNITS, style=DENSE)
        return x[:, tf.newaxis, tf.newaxis]

    return FasterRcnnExtractor(first_stage, second_stage, mean_subtracted, options=("conv_hyperparams", "fpn"))


def _fpn_levels(config: messages.FasterRcnnFeatureExtractor) -> tuple[int, int]:
    """Returns `fpn` as (min_level, max_level); level 2 is the finest."""
    if not config.HasField("conv_hyperparams"):
        raise ConfigError(
            f"feature_extractor: {config.type} has no conv_hyperparams; add them (the Object Detection API needs them "
            "too)"
        )
    min_level, max_level = (config.fpn.min_level, config.fpn.max_level) if config.HasField("fpn") else FPN_LEVELS
    if not 2 <= min_level <= min(max_level, COARSEST_BLOCK):
        raise ConfigError(
            f"feature_extractor.fpn: min_level is {min_level} and max_level is {max_level}; min_level must be 2 to 5 "
            "and at most max_level"
        )
    return min_level, max_level


def faster_rcnn_inception_resnet_v2_keras() -> FasterRcnnExtractor:
    """Returns the extractor with the layers to block17_20 in the first stage and the rest in the second, both padded.

    A stride of 8 is not supported: the Object Detection API then removes the stride of only one branch of mixed_7a and
    of its pool, and fails to concatenate them with the other branches.
    """

    def first_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> list[tf.Tensor]:
        p = inception_resnet_v2.keras_first_stage(p)
        return [inception_resnet_v2.inception_resnet_v2_first_stage(x, p)["PreAuxLogits"]]

    def second_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> tf.Tensor:
        p = inception_resnet_v2.keras_second_stage(p)
        return inception_resnet_v2.inception_resnet_v2_second_stage(x, p, padding="SAME")["Conv2d_7b_1x1"]

    return FasterRcnnExtractor(first_stage, second_stage, unit_range, strides=(16,))


KERAS_EXTRACTORS: dict[str, FasterRcnnExtractor] = {
    "faster_rcnn_resnet50_keras": faster_rcnn_resnet_v1_keras("resnet_v1_50"),
    "faster_rcnn_resnet101_keras": faster_rcnn_resnet_v1_keras("resnet_v1_101"),
    "faster_rcnn_resnet152_keras": faster_rcnn_resnet_v1_keras("resnet_v1_152"),
    "faster_rcnn_inception_resnet_v2_keras": faster_rcnn_inception_resnet_v2_keras(),
    "faster_rcnn_resnet50_fpn_keras": faster_rcnn_resnet_v1_fpn_keras("resnet_v1_50"),
    "faster_rcnn_resnet101_fpn_keras": faster_rcnn_resnet_v1_fpn_keras("resnet_v1_101"),
    "faster_rcnn_resnet152_fpn_keras": faster_rcnn_resnet_v1_fpn_keras("resnet_v1_152"),
}
