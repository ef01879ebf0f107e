"""FASTER_RCNN_EXTRACTORS: a row for each `feature_extractor.type` of Faster R-CNN, the config's word first.

Source: object_detection/models/faster_rcnn_*_feature_extractor.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.backbones.inception_resnet_v2 import inception_resnet_v2_first_stage, inception_resnet_v2_second_stage
from unfreeze.backbones.inception_v2 import STYLE as INCEPTION_STYLE
from unfreeze.backbones.inception_v2 import inception_v2_first_stage, inception_v2_second_stage
from unfreeze.backbones.nasnet import nasnet_large, nasnet_large_rest
from unfreeze.backbones.pnasnet import pnasnet_large, pnasnet_large_rest
from unfreeze.backbones.resnet_v1 import BLOCKS, UNITS, resnet_v1, resnet_v1_block
from unfreeze.backbones.resnet_v1 import STYLE as RESNET_STYLE
from unfreeze.config import messages
from unfreeze.detectors.input_size_checks import check_known_size
from unfreeze.detectors.normalizations import mean_subtracted, unit_range
from unfreeze.ops.branch import Branch


@dataclass(frozen=True)
class FasterRcnnExtractor:
    """A row of FASTER_RCNN_EXTRACTORS.

    `first_stage`: preprocessed images, weights, message -> the maps for proposals and crops, the finest first.
    `second_stage`: crops of these maps (for R-FCN the first map), weights, message -> the input of the box predictor.
    `normalize`: pixels 0..255 -> the input of the network. `strides`: the allowed first_stage_features_stride.
    `options`: fields of the message that this extractor supports, and not every extractor of its generation.
    """

    first_stage: Callable[[tf.Tensor, Branch, messages.FasterRcnnFeatureExtractor], list[tf.Tensor]]
    second_stage: Callable[[tf.Tensor, Branch, messages.FasterRcnnFeatureExtractor], tf.Tensor]
    normalize: Callable[[tf.Tensor], tf.Tensor]
    strides: tuple[int, ...] = (8, 16)
    options: tuple[str, ...] = ()


def faster_rcnn_resnet_v1(architecture: str) -> FasterRcnnExtractor:
    """Returns the extractor with blocks 1 to 3 in the first stage and block 4 in the second.

    The Object Detection API builds block 4 in the first stage too, where nothing uses it.
    """
    units = UNITS[architecture]
    base_depth, _ = BLOCKS[3]

    def first_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> list[tf.Tensor]:
        p[architecture]["block4"].ignore()
        stride = config.first_stage_features_stride
        return [resnet_v1(x, p[architecture], units[:3], output_stride=stride)["block3"]]

    def second_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> tf.Tensor:
        return resnet_v1_block(x, p[architecture]["block4"], base_depth, 3, style=replace(RESNET_STYLE, winograd=True))

    return FasterRcnnExtractor(first_stage, second_stage, mean_subtracted)


def faster_rcnn_inception_v2() -> FasterRcnnExtractor:
    """Returns the extractor with the layers to Mixed_4e in the first stage and Mixed_5 in the second, of stride 16."""

    def first_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> list[tf.Tensor]:
        return [inception_v2_first_stage(x, p["InceptionV2"].scoped("", operations="InceptionV2"))["Mixed_4e"]]

    def second_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> tf.Tensor:
        style = replace(INCEPTION_STYLE, winograd=True)
        return inception_v2_second_stage(x, p["InceptionV2"], style=style)["Mixed_5c"]

    return FasterRcnnExtractor(first_stage, second_stage, unit_range)


def faster_rcnn_inception_resnet_v2() -> FasterRcnnExtractor:
    """Returns the extractor with the layers to PreAuxLogits in the first stage and the rest in the second."""

    def first_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> list[tf.Tensor]:
        stride = config.first_stage_features_stride
        return [inception_resnet_v2_first_stage(x, p["InceptionResnetV2"], output_stride=stride)["PreAuxLogits"]]

    def second_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> tf.Tensor:
        return inception_resnet_v2_second_stage(x, p["InceptionResnetV2"])["Conv2d_7b_1x1"]

    return FasterRcnnExtractor(first_stage, second_stage, unit_range)


def faster_rcnn_nas() -> FasterRcnnExtractor:
    """Returns the extractor with the layers to Cell_11 in the first stage and the rest in the second.

    A cell takes two maps, so the map between the stages is two maps concatenated along the channels.
    """

    def first_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> list[tf.Tensor]:
        check_known_size(x, "faster_rcnn_nas")
        stages = nasnet_large(x, p, last_cell=11)
        return [tf.concat([stages["Cell_10"], stages["Cell_11"]], axis=3)]

    def second_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> tf.Tensor:
        previous, last = tf.split(x, 2, axis=3)
        return nasnet_large_rest(previous, last, p, first_cell=12)

    return FasterRcnnExtractor(first_stage, second_stage, unit_range, strides=(16,))


def faster_rcnn_pnas() -> FasterRcnnExtractor:
    """Returns the extractor with the layers to Cell_7 in the first stage and the rest in the second.

    A cell takes two maps, so the map between the stages is two maps concatenated along the channels.
    """

    def first_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> list[tf.Tensor]:
        check_known_size(x, "faster_rcnn_pnas")
        stages = pnasnet_large(x, p, last_cell=7)
        return [tf.concat([stages["Cell_6"], stages["Cell_7"]], axis=3)]

    def second_stage(x: tf.Tensor, p: Branch, config: messages.FasterRcnnFeatureExtractor) -> tf.Tensor:
        previous, last = tf.split(x, 2, axis=3)
        return pnasnet_large_rest(previous, last, p, first_cell=8)

    return FasterRcnnExtractor(first_stage, second_stage, unit_range, strides=(16,))


FASTER_RCNN_EXTRACTORS: dict[str, FasterRcnnExtractor] = {
    "faster_rcnn_resnet50": faster_rcnn_resnet_v1("resnet_v1_50"),
    "faster_rcnn_resnet101": faster_rcnn_resnet_v1("resnet_v1_101"),
    "faster_rcnn_resnet152": faster_rcnn_resnet_v1("resnet_v1_152"),
    "faster_rcnn_inception_v2": faster_rcnn_inception_v2(),
    "faster_rcnn_inception_resnet_v2": faster_rcnn_inception_resnet_v2(),
    "faster_rcnn_nas": faster_rcnn_nas(),
    "faster_rcnn_pnas": faster_rcnn_pnas(),
}
