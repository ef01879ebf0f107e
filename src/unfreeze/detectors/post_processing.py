"""Builds the post-processing of a `post_processing` message: from class predictions and boxes to detections.

Source: object_detection/builders/post_processing_builder.py, calibration_builder.py, and the argument checks of
core/post_processing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.config import enum_name, messages
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.ops.calibration import Points, calibrated, calibrated_by_class
from unfreeze.ops.nms import NmsOptions, Selection, Suppression, multiclass_nms

ScoreConverter = Callable[[tf.Tensor], tf.Tensor]

SCORE_CONVERTERS: dict[str, ScoreConverter] = {
    "IDENTITY": tf.identity,
    "SIGMOID": tf.sigmoid,
    "SOFTMAX": tf.nn.softmax,
}


@dataclass(frozen=True)
class PostProcessing:
    """The conversion of scores, and non-maximum suppression.

    `score_converter`: class predictions `[N, A, C]`, including the background -> scores. `options`: those of `nms`.
    """

    score_converter: ScoreConverter
    options: NmsOptions

    @property
    def keeps_fields(self) -> bool:
        """Returns whether detections keep fields besides boxes, scores and classes; not with `use_combined_nms`."""
        return not self.options.use_combined_nms

    def nms(
        self,
        boxes: tf.Tensor,
        scores: tf.Tensor,
        clip_window: tf.Tensor,
        num_valid_boxes: tf.Tensor | None = None,
        change_coordinate_frame: bool | None = None,
    ) -> Selection:
        """Boxes `[N, A, q, 4]`, scores `[N, A, C]` without background, windows `[N, 4]` -> detections.

        `change_coordinate_frame` overrides the config's; the second stage of Faster R-CNN sets it.
        """
        options = self.options
        if change_coordinate_frame is not None:
            options = replace(options, change_coordinate_frame=change_coordinate_frame)
        _check_combined(options)
        if options.use_combined_nms and num_valid_boxes is not None:
            raise ConfigError(
                "use_combined_nms is true in a second stage, where it is not supported (its proposals are padded); "
                "remove it"
            )
        return multiclass_nms(boxes, scores, clip_window, options, num_valid_boxes)


def build_post_processing(
    config: messages.PostProcessing, tf2: bool = False, suppression: Suppression = Suppression.KERNEL
) -> PostProcessing:
    """Returns the post-processing of a `PostProcessing` message as in TensorFlow 1.15, or with `tf2` as in 2.x.

    Raises:
        ConfigError: the Object Detection API rejects the message too.
        UnsupportedError: a calibration is not supported.
    """
    return PostProcessing(
        build_score_converter(config), nms_options(config.batch_non_max_suppression, tf2, suppression)
    )


def build_first_stage_nms(
    config: messages.FasterRcnn, tf2: bool = False, suppression: Suppression = Suppression.KERNEL
) -> PostProcessing:
    """Returns the suppression of proposals of the `first_stage_*` fields of a `FasterRcnn` message."""
    static = config.use_static_shapes and config.use_static_shapes_for_eval
    options = NmsOptions(
        score_threshold=config.first_stage_nms_score_threshold,
        iou_threshold=config.first_stage_nms_iou_threshold,
        max_detections_per_class=config.first_stage_max_proposals,
        max_total_detections=config.first_stage_max_proposals,
        use_static_shapes=static,
        use_combined_nms=config.use_combined_nms_in_first_stage,
        suppress_at_threshold=not tf2,
        suppression=suppression,
    )
    _check(options, "first_stage_nms_")
    return PostProcessing(tf.nn.softmax, options)


def nms_options(
    config: messages.BatchNonMaxSuppression, tf2: bool = False, suppression: Suppression = Suppression.KERNEL
) -> NmsOptions:
    """Returns the options of a `BatchNonMaxSuppression` message.

    `use_cpu_nms` and `use_hard_nms` change no result. `use_partitioned_nms` suppresses in tiles, with the same results
    but for two quirks that are not repeated: boxes without a coordinate above 0 are lost, and
    `detection_multiclass_scores` are those of other boxes, since boxes are sorted and these scores are not.
    """
    options = NmsOptions(
        score_threshold=config.score_threshold,
        iou_threshold=config.iou_threshold,
        max_detections_per_class=config.max_detections_per_class,
        max_total_detections=config.max_total_detections,
        use_static_shapes=config.use_static_shapes,
        use_class_agnostic_nms=config.use_class_agnostic_nms,
        soft_nms_sigma=config.soft_nms_sigma,
        use_combined_nms=config.use_combined_nms,
        change_coordinate_frame=config.change_coordinate_frame,
        suppress_at_threshold=not tf2,
        suppression=suppression,
    )
    if options.use_class_agnostic_nms and config.max_classes_per_detection > 1:
        raise ConfigError(
            f"max_classes_per_detection is {config.max_classes_per_detection}; with use_class_agnostic_nms it must be 1"
        )
    if options.soft_nms_sigma > 0 and config.use_hard_nms and not options.use_class_agnostic_nms:
        raise ConfigError(
            f"soft_nms_sigma is {options.soft_nms_sigma:g} while use_hard_nms is true; remove one of them"
        )
    _check(options)
    return options


def _check(options: NmsOptions, prefix: str = "") -> None:
    if not 0 <= options.iou_threshold <= 1:
        raise ConfigError(f"{prefix}iou_threshold is {options.iou_threshold:g}; it must be between 0 and 1")
    if options.max_detections_per_class > options.max_total_detections:
        raise ConfigError(
            f"max_detections_per_class is {options.max_detections_per_class}, more than max_total_detections "
            f"({options.max_total_detections}); lower it"
        )
    if options.max_detections_per_class < 1:
        field = "first_stage_max_proposals" if prefix else "max_detections_per_class"
        raise ConfigError(f"{field} is {options.max_detections_per_class}; it must be at least 1")
    if options.soft_nms_sigma < 0:
        raise ConfigError(f"soft_nms_sigma is {options.soft_nms_sigma:g}; it must not be negative")
    if options.soft_nms_sigma > 0 and options.use_static_shapes and not options.use_combined_nms:
        raise ConfigError(f"soft_nms_sigma is {options.soft_nms_sigma:g}; with use_static_shapes it must be 0")
    if options.use_combined_nms and options.use_class_agnostic_nms:
        raise ConfigError("use_combined_nms and use_class_agnostic_nms are both true; remove one of them")
    if options.use_combined_nms and options.soft_nms_sigma > 0:
        raise ConfigError(f"soft_nms_sigma is {options.soft_nms_sigma:g}; with use_combined_nms it must be 0")
    _check_combined(options)


def _check_combined(options: NmsOptions) -> None:
    if options.use_combined_nms and options.change_coordinate_frame:
        raise ConfigError("use_combined_nms does not support change_coordinate_frame; set it to false")


def build_score_converter(config: messages.PostProcessing) -> ScoreConverter:
    """Returns the score converter of a `PostProcessing` message, with its calibration: `[N, A, C] -> [N, A, C]`.

    Raises:
        ConfigError: the Object Detection API rejects the message too.
        UnsupportedError: a calibration is not supported.
    """
    converter = SCORE_CONVERTERS[enum_name(config, "score_converter")]
    if config.logit_scale == 0:
        raise ConfigError("post_processing: logit_scale is 0, by which predictions would be divided; set another value")
    scale = np.float32(1.0 / config.logit_scale)
    scaled = converter if scale == 1 else lambda logits: converter(logits * scale)
    if not config.HasField("calibration_config"):
        return scaled
    kind = config.calibration_config.WhichOneof("calibrator")
    if kind in OLD_CALIBRATIONS:
        raise UnsupportedError(
            f"not supported yet: calibration_config: {kind} (the Object Detection API removed it in 2019)"
        )
    if kind is None:
        raise ConfigError(f"calibration_config: it is empty; set one of {', '.join(CALIBRATIONS)}, or remove it")
    if kind not in CALIBRATIONS:
        raise ConfigError(
            f"calibration_config: {kind} is not supported here; use one of {', '.join(CALIBRATIONS)}, or remove it "
            "(the Object Detection API cannot apply it either)"
        )
    return CALIBRATIONS[kind](getattr(config.calibration_config, kind), scaled)


def _function_approximation(config: Any, converter: ScoreConverter) -> ScoreConverter:
    points = _points(config.x_y_pairs, "function_approximation")
    return lambda logits: calibrated(converter(logits), points)


def _class_id_function_approximations(config: Any, converter: ScoreConverter) -> ScoreConverter:
    where = "class_id_function_approximations"
    points = {k: _points(pairs, f"{where}, class {k}") for k, pairs in config.class_id_xy_pairs_map.items()}
    return lambda logits: calibrated_by_class(converter(logits), points)


def _temperature_scaling(config: Any, converter: ScoreConverter) -> ScoreConverter:
    scaler = config.scaler
    if scaler <= 0:
        raise ConfigError(f"temperature_scaling_calibration: scaler is {scaler:g}; it must be greater than 0")
    return lambda logits: converter(logits / np.float32(scaler))


CALIBRATIONS: dict[str, Callable[[Any, ScoreConverter], ScoreConverter]] = {
    "function_approximation": _function_approximation,
    "class_id_function_approximations": _class_id_function_approximations,
    "temperature_scaling_calibration": _temperature_scaling,
}
OLD_CALIBRATIONS = ("label_function_approximations", "label_sigmoid_calibrations")


def _points(config: Any, where: str) -> Points:
    points = [(pair.x, pair.y) for pair in config.x_y_pair]
    if not points:
        raise ConfigError(f"calibration_config: {where} has no x_y_pair; add some")
    if any(x > next_x for (x, _), (next_x, _) in pairwise(points)):
        raise UnsupportedError(
            f"not supported yet: calibration_config: {where} whose x_y_pair are not in ascending order of x; sort them"
        )
    return points
