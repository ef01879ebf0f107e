"""The second stage of a two-stage detector: proposals to boxes, classes and masks.

Source: object_detection/builders/{box_predictor,model}_builder.py, meta_architectures/{faster_rcnn,rfcn}_meta_arch.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from unfreeze.detectors.context import NO_ATTENTION, Attention
from unfreeze.detectors.detector import Tensors
from unfreeze.detectors.faster_rcnn_extractors import FasterRcnnExtractor
from unfreeze.detectors.hyperparams import conv_style, fc_style
from unfreeze.errors import ConfigError
from unfreeze.heads.box_classifier import BoxClassifier, box_classifier
from unfreeze.heads.mask import MaskPredictor, mask_predictor
from unfreeze.heads.position_sensitive import PositionSensitive, position_sensitive
from unfreeze.ops.crops import Rows, crop_and_resize, in_parts, matmul_crop_and_resize, rows_at_once
from unfreeze.ops.layers import Branch, GroupNorm

EXTRACTOR_SCOPE = "SecondStageFeatureExtractor"
PREDICTOR_SCOPE = "SecondStageBoxPredictor"

# Crops are pooled by two, and their features have twice the channels: twice as many rows of these are as large.
ROWS_PER_CROP = 2


@dataclass(frozen=True)
class SecondStage:
    """What becomes of R boxes on a feature map `[N, H, W, C]`.

    `predict`: map, rows, weights, attention -> `refined_box_encodings` [R, q, 4],
    `class_predictions_with_background` [R, K + 1].
    `crop_features`: map, rows, weights -> [R, h, w, c], the features of each box; R-FCN has none.
    `masks`: [R, h, w, c], classes [R] (from 0), weights -> [R, mask height, mask width], where there is a third stage.
    """

    predict: Callable[[tf.Tensor, Rows, Branch, Attention], Tensors]
    crop_features: Callable[[tf.Tensor, Rows, Branch], tf.Tensor] | None = None
    masks: Callable[[tf.Tensor, tf.Tensor, Branch], tf.Tensor] | None = None


def build_second_stage(config: Any, extractor: FasterRcnnExtractor) -> SecondStage:
    """The second stage of a `FasterRcnn` message.

    Raises:
        ConfigError: what the original refuses too.
    """
    kind = config.second_stage_box_predictor.WhichOneof("box_predictor_oneof")
    if kind not in SECOND_STAGES:
        raise ConfigError(
            f"second_stage_box_predictor: it holds {kind or 'nothing'}; "
            f"it has to hold one of {', '.join(SECOND_STAGES)}"
        )
    predictor = getattr(config.second_stage_box_predictor, kind)
    if predictor.box_code_size != 4:
        raise ConfigError(f"{kind}: box_code_size is {predictor.box_code_size}; a two-stage detector's has to be 4")
    return SECOND_STAGES[kind](config, predictor, extractor)


def _mask_rcnn(config: Any, predictor: Any, extractor: FasterRcnnExtractor) -> SecondStage:
    for field in ("initial_crop_size", "maxpool_kernel_size", "maxpool_stride"):
        if getattr(config, field) < 1:
            raise ConfigError(f"faster_rcnn: {field} is {getattr(config, field)}; it has to be at least 1")
    crop_size = (config.initial_crop_size, config.initial_crop_size)
    crop = matmul_crop_and_resize if config.use_matmul_crop_and_resize else crop_and_resize
    classifier = _box_classifier(config, predictor)
    mask_numbers = _mask_predictor(config, predictor)

    pooled_side = (config.initial_crop_size - config.maxpool_kernel_size) // config.maxpool_stride + 1

    def pooled_crops(x: tf.Tensor, rows: Rows) -> tf.Tensor:
        def some(boxes: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
            crops = crop(x, boxes, images, crop_size)
            return tf.nn.max_pool2d(crops, config.maxpool_kernel_size, config.maxpool_stride, "VALID")

        pooled = tf.TensorSpec([None, pooled_side, pooled_side, x.shape[3]])
        return in_parts(some, (rows.boxes, rows.images), rows_at_once(*crop_size, x.shape[3]), pooled)

    def crop_features(x: tf.Tensor, rows: Rows, p: Branch, attention: Attention = NO_ATTENTION) -> tf.Tensor:
        pooled = attention.crops(pooled_crops(x, rows))
        return attention.features(extractor.second_stage(pooled, p[EXTRACTOR_SCOPE]))

    def predict(x: tf.Tensor, rows: Rows, p: Branch, attention: Attention) -> Tensors:
        def some(boxes: tf.Tensor, sources: tf.Tensor) -> Tensors:
            features = crop_features(x, rows._replace(boxes=boxes, sources=sources), p, attention)
            return box_classifier(features, p[PREDICTOR_SCOPE], classifier)

        if attention is not NO_ATTENTION:  # it looks at all rows
            return some(rows.boxes, rows.sources)
        most = ROWS_PER_CROP * rows_at_once(*crop_size, x.shape[3])
        return in_parts(some, (rows.boxes, rows.sources), most, classifier.outputs)

    def masks(features: tf.Tensor, classes: tf.Tensor, p: Branch) -> tf.Tensor:
        return mask_predictor(features, classes, p[PREDICTOR_SCOPE], mask_numbers)

    return SecondStage(
        predict=predict, crop_features=crop_features, masks=masks if config.number_of_stages == 3 else None
    )


def _box_classifier(config: Any, predictor: Any) -> BoxClassifier:
    # predict_keypoints is ignored: the original has a head for keypoints, but builds none.
    style = fc_style(predictor.fc_hyperparams, "mask_rcnn_box_predictor.fc_hyperparams")
    if isinstance(style.norm, GroupNorm):
        raise ConfigError("mask_rcnn_box_predictor: fc_hyperparams has group_norm, which needs a picture; take it out")
    return BoxClassifier(
        num_classes=config.num_classes,
        style=style,
        box_code_size=predictor.box_code_size,
        share_box_across_classes=predictor.share_box_across_classes,
    )


def _mask_predictor(config: Any, predictor: Any) -> MaskPredictor:
    where = "mask_rcnn_box_predictor"
    if predictor.predict_instance_masks and not predictor.HasField("conv_hyperparams"):
        raise ConfigError(f"{where}: predict_instance_masks is true, but there are no conv_hyperparams; add them")
    if predictor.predict_instance_masks and min(predictor.mask_height, predictor.mask_width) < 1:
        raise ConfigError(f"{where}: mask_height and mask_width have to be at least 1")
    if config.number_of_stages == 3 and not predictor.predict_instance_masks:
        raise ConfigError(f"{where}: number_of_stages is 3, but predict_instance_masks is false; set one as the other")
    return MaskPredictor(
        num_classes=config.num_classes,
        style=conv_style(predictor.conv_hyperparams, f"{where}.conv_hyperparams"),
        mask_height=predictor.mask_height,
        mask_width=predictor.mask_width,
        mask_prediction_conv_depth=predictor.mask_prediction_conv_depth,
        mask_prediction_num_conv_layers=predictor.mask_prediction_num_conv_layers,
        masks_are_class_agnostic=predictor.masks_are_class_agnostic,
        convolve_then_upsample_masks=predictor.convolve_then_upsample_masks,
    )


def _rfcn(config: Any, predictor: Any, extractor: FasterRcnnExtractor) -> SecondStage:
    if config.number_of_stages == 3:
        raise ConfigError("rfcn_box_predictor: number_of_stages is 3, but R-FCN has no third stage; set it to 2")
    for field in ("output_final_box_features", "output_final_box_rpn_features", "return_raw_detections_during_predict"):
        if getattr(config, field):
            raise ConfigError(f"rfcn_box_predictor: {field} is true, on which the original fails; take it out")
    numbers = PositionSensitive(
        num_classes=config.num_classes,
        style=conv_style(predictor.conv_hyperparams, "rfcn_box_predictor.conv_hyperparams"),
        num_spatial_bins=(predictor.num_spatial_bins_height, predictor.num_spatial_bins_width),
        depth=predictor.depth,
        box_code_size=predictor.box_code_size,
        crop_size=(predictor.crop_height, predictor.crop_width),
    )
    for side, bins, crop in zip(("height", "width"), numbers.num_spatial_bins, numbers.crop_size, strict=True):
        if bins < 1 or crop < bins or crop % bins:
            raise ConfigError(
                f"rfcn_box_predictor: crop_{side} is {crop}, num_spatial_bins_{side} is {bins}; "
                "the first has to be a multiple of the second"
            )

    def predict(feature_map: tf.Tensor, rows: Rows, p: Branch, attention: Attention) -> Tensors:
        features = extractor.second_stage(feature_map, p[EXTRACTOR_SCOPE])
        return position_sensitive(features, rows.boxes, rows.images, p[PREDICTOR_SCOPE], numbers)

    return SecondStage(predict)


SECOND_STAGES: dict[str, Callable[[Any, Any, FasterRcnnExtractor], SecondStage]] = {
    "mask_rcnn_box_predictor": _mask_rcnn,
    "rfcn_box_predictor": _rfcn,
}
