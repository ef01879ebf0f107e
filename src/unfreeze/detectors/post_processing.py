"""`model.*.post_processing` as numbers and functions: from raw class predictions and boxes to detections.

Source: object_detection/builders/post_processing_builder.py, calibration_builder.py, and the checks at the head of
core/post_processing.py's functions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.config import enum_name
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
    """`score_converter`: class predictions `[N, A, C]`, background too, -> scores. `options`: the numbers of `nms`."""

    score_converter: ScoreConverter
    options: NmsOptions

    @property
    def keeps_fields(self) -> bool:
        """Whether detections have more than boxes, scores and classes; with `use_combined_nms` they do not."""
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

        `change_coordinate_frame` overrules the config's, as the second stage of Faster R-CNN does.
        """
        options = self.options
        if change_coordinate_frame is not None:
            options = replace(options, change_coordinate_frame=change_coordinate_frame)
        _check_combined(options)
        if options.use_combined_nms and num_valid_boxes is not None:
            raise ConfigError("use_combined_nms is true in a second stage, whose proposals are padded; take it out")
        return multiclass_nms(boxes, scores, clip_window, options, num_valid_boxes)


def build_post_processing(
    config: Any, tf2: bool = False, suppression: Suppression = Suppression.KERNEL
) -> PostProcessing:
    """The post-processing of a `PostProcessing` message, as TensorFlow 1.15 ran it, or as `tf2` does.

    Raises:
        ConfigError: what the original refuses too.
        UnsupportedError: use_partitioned_nms where it would change anything.
    """
    return PostProcessing(
        build_score_converter(config), nms_options(config.batch_non_max_suppression, tf2, suppression)
    )


def build_first_stage_nms(
    config: Any, tf2: bool = False, suppression: Suppression = Suppression.KERNEL
) -> PostProcessing:
    """The suppression of proposals that the `first_stage_*` fields of a `FasterRcnn` message ask for."""
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
    _check(options, config.use_partitioned_nms_in_first_stage, "first_stage_nms_")
    return PostProcessing(tf.nn.softmax, options)


def nms_options(config: Any, tf2: bool = False, suppression: Suppression = Suppression.KERNEL) -> NmsOptions:
    """The numbers of a `BatchNonMaxSuppression` message; `use_cpu_nms` and `use_hard_nms` change no result."""
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
            f"soft_nms_sigma is {options.soft_nms_sigma:g} while use_hard_nms is true; take one of them out"
        )
    _check(options, config.use_partitioned_nms)
    return options


def _check(options: NmsOptions, use_partitioned_nms: bool, prefix: str = "") -> None:
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
        raise ConfigError("use_combined_nms and use_class_agnostic_nms are both true; take one of them out")
    if options.use_combined_nms and options.soft_nms_sigma > 0:
        raise ConfigError(f"soft_nms_sigma is {options.soft_nms_sigma:g}; with use_combined_nms it must be 0")
    _check_combined(options)
    if use_partitioned_nms and options.use_static_shapes and not options.use_combined_nms:
        raise UnsupportedError("not supported yet: use_partitioned_nms together with use_static_shapes")


def _check_combined(options: NmsOptions) -> None:
    if options.use_combined_nms and options.change_coordinate_frame:
        raise ConfigError("use_combined_nms cannot change_coordinate_frame; set change_coordinate_frame to false")


def build_score_converter(config: Any) -> ScoreConverter:
    """What makes scores of class predictions `[N, A, C]`: the converter of a `PostProcessing` message, calibrated.

    Raises:
        ConfigError: what the original refuses too.
    """
    converter = SCORE_CONVERTERS[enum_name(config, "score_converter")]
    if config.logit_scale == 0:
        raise ConfigError("post_processing: logit_scale is 0; predictions are divided by it")
    scale = np.float32(1.0 / config.logit_scale)
    scaled = converter if scale == 1 else lambda logits: converter(logits * scale)
    if not config.HasField("calibration_config"):
        return scaled
    kind = config.calibration_config.WhichOneof("calibrator")
    if kind in OLD_CALIBRATIONS:
        raise UnsupportedError(f"not supported yet: calibration_config: {kind}, which the original dropped in 2019")
    if kind not in CALIBRATIONS:
        raise ConfigError(
            f"calibration_config: {kind or 'nothing'} is set, which the original cannot apply; set one of "
            f"{', '.join(CALIBRATIONS)}, or take it out"
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
            f"not supported yet: calibration_config: {where} whose x_y_pair do not come with x rising"
        )
    return points
