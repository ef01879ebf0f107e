"""An SSD up to TensorRT's plugin EfficientNMS_TRT: its attributes from the config, and the tensors that it takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tensorflow as tf

from unfreeze.config import PipelineConfig, enum_name, is_keras_model
from unfreeze.detectors import Detector
from unfreeze.detectors.box_coders import build_box_decoder
from unfreeze.detectors.detector import Tensors
from unfreeze.detectors.post_processing import build_score_converter, nms_options
from unfreeze.ops.boxes import area, clipped, in_frame
from unfreeze.ops.nms import NmsOptions
from unfreeze.tensorrt.efficient_nms import INPUTS, EfficientNms

# Scores of boxes outside of the image, which the Object Detection API drops: below every threshold.
LOWEST_LOGIT, LOWEST_SCORE = np.float32(-100), np.float32(-1)
SMALLEST = float(np.finfo(np.float32).tiny)


def efficient_nms(
    config: PipelineConfig, *, score_threshold: float | None = None, max_detections: int | None = None
) -> EfficientNms:
    """Returns the attributes of the plugin for the config of an SSD that `require_efficient_nms` accepts.

    Args:
        score_threshold, max_detections: further limits, of the export.
    """
    ssd = config.model.ssd
    processing = ssd.post_processing
    options = nms_options(processing.batch_non_max_suppression, is_keras_model(config))
    allowed = options.max_total_detections
    if not options.use_class_agnostic_nms:
        allowed = min(allowed, ssd.num_classes * options.max_detections_per_class)
    return EfficientNms(
        score_threshold=max(_lowest_kept_score(options), score_threshold or 0.0),
        iou_threshold=_lowest_suppressing_overlap(options),
        max_output_boxes=min(allowed, max_detections or allowed),
        score_activation=enum_name(processing, "score_converter") == "SIGMOID"
        and not processing.HasField("calibration_config"),
        class_agnostic=options.use_class_agnostic_nms,
    )


def with_plugin_inputs(detector: Detector, config: PipelineConfig, nms: EfficientNms) -> Detector:
    """Returns the detector with the inputs of the plugin as its only outputs.

    `boxes` [N, A, 4] are decoded, and not clipped. `scores` [N, A, C] are logits with `score_activation`. Column 0 is
    the background; it is added if the model has none, so that classes are the ids of the label map in every model.
    """
    ssd = config.model.ssd
    options = nms_options(ssd.post_processing.batch_non_max_suppression, is_keras_model(config))
    decode_boxes = build_box_decoder(ssd.box_coder)
    convert_scores = build_score_converter(ssd.post_processing)
    logit_scale = np.float32(1.0 / ssd.post_processing.logit_scale)
    has_background = ssd.add_background_class or ssd.explicit_background_class

    def postprocess(stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
        boxes, window = decode_boxes(stages["box_encodings"], stages["anchors"]).boxes, stages["clip_window"]
        logits = stages["class_predictions_with_background"]
        scores = logits * logit_scale if nms.score_activation else convert_scores(logits)
        lowest = LOWEST_LOGIT if nms.score_activation else LOWEST_SCORE
        if not has_background:
            scores = tf.concat([tf.fill(tf.shape(scores[:, :, :1]), lowest), scores], axis=2)
        if not options.use_combined_nms:  # which keeps boxes outside of the image
            is_inside = area(clipped(boxes, window)) > 0
            scores = tf.where(is_inside[..., tf.newaxis], scores, lowest)
        if options.change_coordinate_frame:
            boxes = in_frame(boxes, window)
        return dict(zip(INPUTS, (boxes, scores), strict=True))

    return replace(detector, postprocess=postprocess, masks_of_boxes=None)


def _lowest_kept_score(options: NmsOptions) -> float:
    """Returns the lowest score above the threshold: the plugin keeps scores at its threshold."""
    if options.score_threshold < 0 and not options.use_combined_nms:
        return 0.0
    above = float(np.nextafter(np.float32(options.score_threshold), np.float32(np.inf)))
    return max(above, SMALLEST) if options.score_threshold == 0 else above


def _lowest_suppressing_overlap(options: NmsOptions) -> float:
    """Returns the lowest overlap that suppresses: the plugin suppresses at its threshold."""
    if options.iou_threshold == 0 and options.suppress_at_threshold and not options.use_combined_nms:
        return 0.0  # even boxes without overlap suppress
    return max(float(np.nextafter(options.kept_overlap, np.float32(np.inf))), SMALLEST)
