"""Two-stage detectors (Faster R-CNN, Mask R-CNN, R-FCN, Context R-CNN): proposals, then boxes, classes and masks.

Source: object_detection/meta_architectures/{faster_rcnn,rfcn,context_rcnn}_meta_arch.py.
"""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf

from unfreeze.config import messages
from unfreeze.detectors.context import NO_ATTENTION, build_context
from unfreeze.detectors.detector import Detector, Forms, Tensors
from unfreeze.detectors.faster_rcnn_extractors import FASTER_RCNN_EXTRACTORS, FasterRcnnExtractor
from unfreeze.detectors.faster_rcnn_keras_extractors import KERAS_EXTRACTORS
from unfreeze.detectors.faster_rcnn_keras_names import keras_names
from unfreeze.detectors.first_stage import BOX_SCALES, EXTRACTOR_SCOPE, build_first_stage
from unfreeze.detectors.post_processing import build_post_processing
from unfreeze.detectors.resizers import build_resizer
from unfreeze.detectors.second_stage import build_second_stage
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.ops.boxes import clipped
from unfreeze.ops.branch import Branch
from unfreeze.ops.coders import center_size_boxes
from unfreeze.ops.crops import distinct_rows
from unfreeze.ops.nms import Selection, gathered
from unfreeze.ops.sizes import image_size

EXTRACTORS = FASTER_RCNN_EXTRACTORS | KERAS_EXTRACTORS
MIN_IMAGE_SIDE = 33
# Fields of `feature_extractor` that only some Keras extractors support.
KERAS_OPTIONS = ("conv_hyperparams", "fpn")
# Stages that are outputs of a TensorFlow 2 detector with masks.
THREE_STAGE_OUTPUTS = (
    "rpn_box_encodings",
    "rpn_objectness_predictions_with_background",
    "num_proposals",
    "proposal_boxes",
    "proposal_boxes_normalized",
    "box_classifier_features",
    "refined_box_encodings",
    "class_predictions_with_background",
)


def build_faster_rcnn(config: messages.FasterRcnn, p: Branch, forms: Forms) -> Detector:
    """Returns the detector of a `FasterRcnn` message on the weights `p`.

    Raises:
        ConfigError: the Object Detection API rejects the message too, when it builds or exports the model.
        UnsupportedError: a feature extractor or an option is not supported.
    """
    _check(config)
    tf2 = config.feature_extractor.type in KERAS_EXTRACTORS
    extractor = _extractor(config.feature_extractor)
    resizer = build_resizer(config.image_resizer, portable=forms.portable)
    if not tf2:
        _check_size(resizer.shape[:2])
    first_stage = build_first_stage(config, tf2, forms.suppression)
    second_stage = build_second_stage(config, extractor, tf2, forms)
    context = build_context(config, tf2)
    post_processing = build_post_processing(config.second_stage_post_processing, tf2, forms.suppression)
    if tf2:
        p = p.renamed(keras_names(config, first_stage.num_maps))

    def preprocess(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        resized, true_shapes = resizer.resize(images)
        return extractor.normalize(resizer.finish(resized)), true_shapes

    def predict(preprocessed: tf.Tensor, true_shapes: tf.Tensor, **side_inputs: tf.Tensor) -> Tensors:
        size = image_size(preprocessed)
        maps = extractor.first_stage(preprocessed, p[EXTRACTOR_SCOPE], config.feature_extractor)
        stages, proposals = first_stage.propose(maps, _windows_px(true_shapes), size, p)
        attention = context and context.attention(proposals, stages["num_proposals"], side_inputs, p)
        # With a context, the Object Detection API does not choose a level for each box but crops from the finest map.
        cropped = maps[:1] if context else maps
        predicted = second_stage.predict(cropped, proposals, size, p, attention or NO_ATTENTION)
        stages |= {name: proposals.padded(values) for name, values in predicted.items()}
        size_px = tf.cast(tf.stack([*size, *size]), tf.float32)
        stages["proposal_boxes"] = size_px * stages["proposal_boxes_normalized"]
        stages |= {f"rpn_features_to_crop_{level}": feature_map for level, feature_map in enumerate(maps)}
        return stages | {"image_shape": tf.stack([1, *size, preprocessed.shape[3]])}

    def postprocess(stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
        windows_px, logits = _windows_px(true_shapes), stages["class_predictions_with_background"]
        anchors = stages["proposal_boxes"][:, :, tf.newaxis]
        boxes_px = center_size_boxes(stages["refined_box_encodings"], anchors, BOX_SCALES)
        scores = post_processing.score_converter(logits)
        kept = post_processing.nms(
            boxes_px, scores[:, :, 1:], windows_px, stages["num_proposals"], change_coordinate_frame=True
        )
        outputs = {
            "detection_boxes": kept.boxes,
            "detection_scores": kept.scores,
            "detection_multiclass_scores": gathered(scores, kept),
            "detection_classes": kept.classes + 1.0,  # label maps count from 1; in padding rows the class is 1 too
            "num_detections": tf.cast(kept.num_detections, tf.float32),
            "raw_detection_boxes": _normalized(_boxes_of_best_class(boxes_px, logits), windows_px),
            "raw_detection_scores": scores,
        }
        if tf2:
            outputs["detection_anchor_indices"] = tf.cast(kept.indices, tf.float32)
        if tf2 and config.number_of_stages == 3:
            outputs |= _three_stage_outputs(stages, config.return_raw_detections_during_predict)
        return outputs | detection_features(kept, stages)

    def detection_features(kept: Selection, stages: Tensors) -> Tensors:
        """Returns the features or masks of the detections, from crops of their own.

        They are cropped as if no image were padded: the boxes are relative to the true image, the maps to the padded
        one. The Object Detection API does the same.
        """
        if second_stage.of_detections is None:
            return {}
        maps = [stages[f"rpn_features_to_crop_{level}"] for level in range(first_stage.num_maps)]
        size = (stages["image_shape"][1], stages["image_shape"][2])
        detections = distinct_rows(kept.boxes, kept.empty)
        classes = tf.cast(detections.of(kept.classes), tf.int32)
        features = second_stage.of_detections(maps, detections, classes, size, p)
        return {name: detections.padded(values) for name, values in features.items()}

    input_name = "input_tensor" if tf2 else "inputs"
    side_inputs = context.side_inputs if context else {}
    return Detector(preprocess, predict, postprocess, resizer.shape, input_name, side_inputs=side_inputs)


def _check(config: messages.FasterRcnn) -> None:
    if config.number_of_stages == 1:
        raise ConfigError(
            "faster_rcnn: number_of_stages is 1 (proposals without classes), which cannot be exported; set it to 2 or "
            "3 (the exporter of the Object Detection API fails on it too)"
        )
    if config.number_of_stages not in (2, 3):
        raise ConfigError(f"faster_rcnn: number_of_stages is {config.number_of_stages}; it must be 2 or 3")
    if config.num_classes < 1:
        raise ConfigError(f"faster_rcnn: num_classes is {config.num_classes}; it must be at least 1")
    if config.inplace_batchnorm_update:
        raise ConfigError(
            "faster_rcnn: inplace_batchnorm_update is true, which is not supported here; remove it (the Object "
            "Detection API rejects it too)"
        )


def _extractor(config: messages.FasterRcnnFeatureExtractor) -> FasterRcnnExtractor:
    """Returns the row of FASTER_RCNN_EXTRACTORS or KERAS_EXTRACTORS for a `feature_extractor` message.

    Options for Keras extractors are ignored by slim's extractors and rejected by Keras extractors that do not support
    them, as in the Object Detection API.
    """
    extractor = EXTRACTORS.get(config.type)
    if extractor is None:
        raise UnsupportedError(
            f"not supported yet: faster_rcnn feature_extractor {config.type!r}; supported: {', '.join(EXTRACTORS)}"
        )
    if config.first_stage_features_stride not in extractor.strides:
        raise ConfigError(
            f"feature_extractor: first_stage_features_stride is {config.first_stage_features_stride}; "
            f"for {config.type} it must be {' or '.join(map(str, extractor.strides))}"
        )
    for option in KERAS_OPTIONS if config.type in KERAS_EXTRACTORS else ():
        if option not in extractor.options and config.HasField(option):
            raise ConfigError(
                f"feature_extractor: {option} is not supported by {config.type}; remove it (the Object Detection API "
                "rejects it too)"
            )
    return extractor if config.batch_norm_trainable else _with_frozen_statistics(extractor)


def _with_frozen_statistics(extractor: FasterRcnnExtractor) -> FasterRcnnExtractor:
    """Returns the extractor with batch normalization that keeps its moving statistics during training."""
    first, second = extractor.first_stage, extractor.second_stage
    return replace(
        extractor,
        first_stage=lambda x, p, config: first(x, p.with_frozen_statistics(), config),
        second_stage=lambda x, p, config: second(x, p.with_frozen_statistics(), config),
    )


def _check_size(size: tuple[int | None, ...]) -> None:
    if any(side is not None and side < MIN_IMAGE_SIDE for side in size):
        raise ConfigError(
            f"image_resizer: images of {size[0]} x {size[1]} are too small for a faster_rcnn; each side must be at "
            f"least {MIN_IMAGE_SIDE}"
        )


def _windows_px(true_shapes: tf.Tensor) -> tf.Tensor:
    """`[N, 3] -> [N, 4]`: the window of each padded image that is not padding."""
    sides = tf.cast(true_shapes[:, :2], tf.float32)
    return tf.concat([tf.zeros_like(sides), sides], axis=1)


def _three_stage_outputs(stages: Tensors, return_raw_detections_during_predict: bool) -> Tensors:
    """Returns the further outputs that TensorFlow 2 exports of the Object Detection API have for detectors with masks.

    Here the first dimension of each is the image: outputs that the Object Detection API has once for the whole batch
    are repeated, and those that it has for the proposals of all images in one list are split. `image_shape` is that of
    a batch of one.
    """
    num_images = tf.shape(stages["proposal_boxes"])[0]
    shared = {name: tf.repeat(stages[name][tf.newaxis], num_images, axis=0) for name in ("anchors", "image_shape")}
    outputs = {name: stages[name] for name in THREE_STAGE_OUTPUTS} | shared
    outputs["final_anchors"] = stages["proposal_boxes_normalized"]
    if return_raw_detections_during_predict:
        outputs["raw_detection_feature_map_indices"] = tf.zeros_like(stages["refined_box_encodings"][..., 0])
    return {name: tf.cast(values, tf.float32) for name, values in outputs.items()}


def _boxes_of_best_class(boxes: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """`[N, P, q, 4], [N, P, K + 1] -> [N, P, 4]`: the box of the most likely class other than the background."""
    if boxes.shape[2] == 1:
        return boxes[:, :, 0]
    best = tf.argmax(logits[:, :, 1:], axis=2, output_type=tf.int32)
    return tf.gather(boxes, best, batch_dims=2)


def _normalized(boxes_px: tf.Tensor, windows_px: tf.Tensor) -> tf.Tensor:
    """`[N, P, 4], [N, 4] -> [N, P, 4]`: boxes relative to the true image, clipped to it."""
    scale = 1.0 / tf.concat([windows_px[:, 2:], windows_px[:, 2:]], axis=1)
    return clipped(scale[:, tf.newaxis] * boxes_px, tf.constant([[0.0, 0.0, 1.0, 1.0]]))
