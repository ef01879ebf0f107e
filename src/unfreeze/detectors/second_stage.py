"""Builds the second stage of a two-stage detector: from proposals to boxes, classes and masks.

Source: object_detection/builders/{box_predictor,model}_builder.py, meta_architectures/{faster_rcnn,rfcn}_meta_arch.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from unfreeze.config import messages
from unfreeze.detectors.context import NO_ATTENTION, Attention
from unfreeze.detectors.detector import Forms, Tensors
from unfreeze.detectors.faster_rcnn_extractors import FasterRcnnExtractor
from unfreeze.detectors.hyperparams import conv_style, fc_style, keras_style
from unfreeze.errors import ConfigError
from unfreeze.heads.box_classifier import BoxClassifier, box_classifier
from unfreeze.heads.mask import MaskPredictor, all_masks, mask_predictor
from unfreeze.heads.position_sensitive import PositionSensitive, position_sensitive
from unfreeze.ops.branch import Branch
from unfreeze.ops.crops import (
    Rows,
    crop_and_resize,
    in_parts,
    matmul_crop_and_resize,
    multilevel_crops,
    rows_at_once,
)
from unfreeze.ops.layers import GroupNorm, Style
from unfreeze.ops.sizes import Size

EXTRACTOR_SCOPE = "SecondStageFeatureExtractor"
PREDICTOR_SCOPE = "SecondStageBoxPredictor"

# Crops are pooled by two, and their features have twice the channels: twice as many rows need as much memory.
ROWS_PER_CROP = 2

Maps = Sequence[tf.Tensor]


@dataclass(frozen=True)
class SecondStage:
    """Predictions for R boxes on feature maps `L x [N, h, w, C]`; `size` is that of the padded images.

    `predict`: maps, rows, size, weights, attention -> `refined_box_encodings` [R, q, 4],
    `class_predictions_with_background` [R, K + 1], and for a TensorFlow 2 detector with masks
    `box_classifier_features` [R, h, w, c].
    `of_detections`: maps, rows, their classes [R] (from 0), size, weights -> those that the config selects:
    `detection_features` [R, h, w, c], `cropped_rpn_box_features` [R, H, W, C], `detection_masks`
    [R, mask height, mask width] and `mask_predictions` [R, k, mask height, mask width]: logits for each class, or for
    all classes at once if k is 1.
    """

    predict: Callable[[Maps, Rows, Size, Branch, Attention], Tensors]
    of_detections: Callable[[Maps, Rows, tf.Tensor, Size, Branch], Tensors] | None = None


def build_second_stage(
    config: messages.FasterRcnn, extractor: FasterRcnnExtractor, tf2: bool, forms: Forms
) -> SecondStage:
    """Returns the second stage of a `FasterRcnn` message.

    Raises:
        ConfigError: the Object Detection API rejects the message too.
    """
    kind = config.second_stage_box_predictor.WhichOneof("box_predictor_oneof")
    if kind not in SECOND_STAGES:
        raise ConfigError(
            f"second_stage_box_predictor: {f'{kind} is not supported here' if kind else 'it is empty'}; "
            f"set one of {', '.join(SECOND_STAGES)}"
        )
    predictor = getattr(config.second_stage_box_predictor, kind)
    if predictor.box_code_size != 4:
        raise ConfigError(f"{kind}: box_code_size is {predictor.box_code_size}; in a two-stage detector it must be 4")
    return SECOND_STAGES[kind](config, predictor, extractor, tf2, forms)


def _mask_rcnn(
    config: messages.FasterRcnn,
    predictor: messages.MaskRCNNBoxPredictor,
    extractor: FasterRcnnExtractor,
    tf2: bool,
    forms: Forms,
) -> SecondStage:
    for field in ("initial_crop_size", "maxpool_kernel_size", "maxpool_stride"):
        if getattr(config, field) < 1:
            raise ConfigError(f"faster_rcnn: {field} is {getattr(config, field)}; it must be at least 1")
    crop_size = (config.initial_crop_size, config.initial_crop_size)
    crop = matmul_crop_and_resize if config.use_matmul_crop_and_resize else crop_and_resize
    classifier = _box_classifier(config, predictor, tf2)
    masks = _masks(config, predictor, tf2)
    outputs_features = tf2 and config.number_of_stages == 3
    pooled_side = (config.initial_crop_size - config.maxpool_kernel_size) // config.maxpool_stride + 1

    def crops(maps: Maps, rows: Rows, size: Size) -> tf.Tensor:
        def pooled_crops(boxes: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
            cropped = multilevel_crops(maps, boxes, images, crop_size, size, crop)
            return tf.nn.max_pool2d(cropped, config.maxpool_kernel_size, config.maxpool_stride, "VALID")

        if forms.portable:
            return pooled_crops(rows.boxes, rows.images)
        channels = maps[0].shape[3]
        pooled = tf.TensorSpec([None, pooled_side, pooled_side, channels])
        return in_parts(pooled_crops, (rows.boxes, rows.images), rows_at_once(*crop_size, channels), pooled)

    def crop_features(cropped: tf.Tensor, p: Branch) -> tf.Tensor:
        return extractor.second_stage(cropped, p[EXTRACTOR_SCOPE], config.feature_extractor)

    def predict(maps: Maps, rows: Rows, size: Size, p: Branch, attention: Attention) -> Tensors:
        def predict_part(boxes: tf.Tensor, sources: tf.Tensor) -> tuple[Tensors, tf.Tensor]:
            cropped = attention.crops(crops(maps, rows._replace(boxes=boxes, sources=sources), size))
            features = attention.features(crop_features(cropped, p))
            return box_classifier(features, p[PREDICTOR_SCOPE], classifier), features

        # Attention looks at all rows at once, and the size of the features is not known before they are computed.
        if attention is not NO_ATTENTION or outputs_features:
            predicted, features = predict_part(rows.boxes, rows.sources)
            return predicted | {"box_classifier_features": features}
        if forms.portable:
            return predict_part(rows.boxes, rows.sources)[0]
        most = ROWS_PER_CROP * rows_at_once(*crop_size, maps[0].shape[3])
        outputs: Tensors = in_parts(
            lambda *part: predict_part(*part)[0], (rows.boxes, rows.sources), most, classifier.outputs
        )
        return outputs

    def features_of_detections(maps: Maps, rows: Rows, classes: tf.Tensor, size: Size, p: Branch) -> Tensors:
        cropped, outputs = crops(maps, rows, size), {}
        if tf2 and config.output_final_box_rpn_features:
            outputs["cropped_rpn_box_features"] = cropped
        if config.output_final_box_features:
            outputs["detection_features"] = crop_features(cropped, p)
        return outputs

    def masks_of_detections(maps: Maps, rows: Rows, classes: tf.Tensor, size: Size, p: Branch) -> Tensors:
        return masks(crop_features(crops(maps, rows, size), p), classes, p[PREDICTOR_SCOPE])

    if config.number_of_stages == 3:
        return SecondStage(predict, masks_of_detections)
    if config.output_final_box_features or (tf2 and config.output_final_box_rpn_features):
        return SecondStage(predict, features_of_detections)
    return SecondStage(predict)


def _box_classifier(config: messages.FasterRcnn, predictor: messages.MaskRCNNBoxPredictor, tf2: bool) -> BoxClassifier:
    # predict_keypoints is ignored: the Object Detection API has a keypoint head, but never builds it.
    return BoxClassifier(
        num_classes=config.num_classes,
        style=_keras_fc_style(predictor.fc_hyperparams) if tf2 else _slim_fc_style(predictor.fc_hyperparams),
        box_code_size=predictor.box_code_size,
        share_box_across_classes=predictor.share_box_across_classes,
    )


def _keras_fc_style(hyperparams: messages.Hyperparams) -> Style:
    """Returns the style of the dense layers of Keras heads, which always have biases."""
    return replace(keras_style(hyperparams), biases_before_norm=True)


def _slim_fc_style(hyperparams: messages.Hyperparams) -> Style:
    style = fc_style(hyperparams, "mask_rcnn_box_predictor.fc_hyperparams")
    if isinstance(style.norm, GroupNorm):
        raise ConfigError(
            "mask_rcnn_box_predictor: group_norm is not supported in fc_hyperparams (it needs feature maps); remove it"
        )
    return style


def _masks(
    config: messages.FasterRcnn, predictor: messages.MaskRCNNBoxPredictor, tf2: bool
) -> Callable[[tf.Tensor, tf.Tensor, Branch], Tensors]:
    """Returns a function `features [R, h, w, c], classes [R], p -> detection_masks`; of TF2 also `mask_predictions`."""
    options = _mask_predictor(config, predictor, tf2)

    def masks(features: tf.Tensor, classes: tf.Tensor, p: Branch) -> Tensors:
        if not tf2:
            return {"detection_masks": tf.sigmoid(mask_predictor(features, classes, p, options))}
        logits = all_masks(features, p, options)
        own = logits[:, 0] if logits.shape[1] == 1 else tf.gather(logits, classes, batch_dims=1)
        return {"mask_predictions": logits, "detection_masks": tf.sigmoid(own)}

    return masks


def _mask_predictor(config: messages.FasterRcnn, predictor: messages.MaskRCNNBoxPredictor, tf2: bool) -> MaskPredictor:
    where = "mask_rcnn_box_predictor"
    if predictor.predict_instance_masks and not predictor.HasField("conv_hyperparams"):
        raise ConfigError(f"{where}: predict_instance_masks is true, but conv_hyperparams is missing; add it")
    if predictor.predict_instance_masks and min(predictor.mask_height, predictor.mask_width) < 1:
        raise ConfigError(
            f"{where}: mask_height is {predictor.mask_height} and mask_width is {predictor.mask_width}; both must be "
            "at least 1"
        )
    if config.number_of_stages == 3 and not predictor.predict_instance_masks:
        raise ConfigError(
            f"{where}: number_of_stages is 3, but predict_instance_masks is false; set number_of_stages to 2 or "
            "predict_instance_masks to true"
        )
    return MaskPredictor(
        num_classes=config.num_classes,
        style=_conv_style(predictor.conv_hyperparams, f"{where}.conv_hyperparams", tf2),
        mask_height=predictor.mask_height,
        mask_width=predictor.mask_width,
        mask_prediction_conv_depth=predictor.mask_prediction_conv_depth,
        mask_prediction_num_conv_layers=predictor.mask_prediction_num_conv_layers,
        masks_are_class_agnostic=predictor.masks_are_class_agnostic,
        convolve_then_upsample_masks=predictor.convolve_then_upsample_masks,
    )


def _rfcn(
    config: messages.FasterRcnn,
    predictor: messages.RfcnBoxPredictor,
    extractor: FasterRcnnExtractor,
    tf2: bool,
    forms: Forms,
) -> SecondStage:
    if config.number_of_stages == 3:
        raise ConfigError("rfcn_box_predictor: number_of_stages is 3, but R-FCN has no third stage; set it to 2")
    for field in ("output_final_box_features", "output_final_box_rpn_features", "return_raw_detections_during_predict"):
        if getattr(config, field):
            raise ConfigError(
                f"rfcn_box_predictor: {field} is true, which is not supported here; remove it (the Object Detection "
                "API fails on it too)"
            )
    options = PositionSensitive(
        num_classes=config.num_classes,
        style=_conv_style(predictor.conv_hyperparams, "rfcn_box_predictor.conv_hyperparams", tf2),
        num_spatial_bins=(predictor.num_spatial_bins_height, predictor.num_spatial_bins_width),
        depth=predictor.depth,
        box_code_size=predictor.box_code_size,
        crop_size=(predictor.crop_height, predictor.crop_width),
    )
    for side, bins, crop in zip(("height", "width"), options.num_spatial_bins, options.crop_size, strict=True):
        if bins < 1 or crop < bins or crop % bins:
            raise ConfigError(
                f"rfcn_box_predictor: crop_{side} is {crop}, which is not a positive multiple of "
                f"num_spatial_bins_{side} ({bins}); change one of them"
            )

    def predict(maps: Maps, rows: Rows, size: Size, p: Branch, attention: Attention) -> Tensors:
        features = extractor.second_stage(maps[0], p[EXTRACTOR_SCOPE], config.feature_extractor)
        return position_sensitive(features, rows.boxes, rows.images, p[PREDICTOR_SCOPE], options)

    return SecondStage(predict)


def _conv_style(hyperparams: messages.Hyperparams, where: str, tf2: bool) -> Style:
    return keras_style(hyperparams) if tf2 else conv_style(hyperparams, where)


SECOND_STAGES: dict[str, Callable[[messages.FasterRcnn, Any, FasterRcnnExtractor, bool, Forms], SecondStage]] = {
    "mask_rcnn_box_predictor": _mask_rcnn,
    "rfcn_box_predictor": _rfcn,
}
