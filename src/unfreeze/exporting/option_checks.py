"""Checks of options that need the config and no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unfreeze.config import PipelineConfig
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.tensorrt.efficient_nms import CANDIDATES, PLUGIN

CHANNELS = 3
MOST_VALUES = 1 << 29  # of a batch of images: 0.5 GiB of uint8, and 2 GiB once it is float32


def require_input_shape(shape: Sequence[int | None] | None) -> None:
    """Raises UnsupportedError unless the shape is (images, height, width, channels) of images that can be run."""
    if shape is None:
        return
    shown = ",".join("-1" if length is None else str(length) for length in shape)
    if len(shape) != 4 or any(length is not None and length < 1 for length in shape):
        raise UnsupportedError(
            f"--input-shape {shown}: must be four sizes (images, height, width, channels), each above 0 or -1"
        )
    if shape[3] not in (None, CHANNELS):
        raise UnsupportedError(
            f"--input-shape {shown}: images of {shape[3]} channels are not supported; the fourth size must be 3 (RGB)"
        )
    if math.prod(length or 1 for length in shape) > MOST_VALUES:
        raise UnsupportedError(
            f"--input-shape {shown}: a batch of this shape has {math.prod(length or 1 for length in shape):,} values, "
            f"and at most {MOST_VALUES:,} are supported; choose smaller sizes"
        )


def allowed_detections(config: PipelineConfig) -> int:
    """Returns how many detections of an image a config allows."""
    model = getattr(config.model, config.model.WhichOneof("model"))
    if config.model.HasField("center_net"):
        allowed: int = model.object_center_params.max_box_predictions
        return allowed
    return int(getattr(model, _post_processing(config)).batch_non_max_suppression.max_total_detections)


def require_max_detections(config: PipelineConfig, max_detections: int | None) -> None:
    """Raises ConfigError if the config allows fewer detections: rows are only removed, never added."""
    allowed = allowed_detections(config)
    if max_detections is None or max_detections <= allowed:
        return
    kind = config.model.WhichOneof("model")
    if kind == "center_net":
        limit, path = "max_box_predictions", [kind, "object_center_params"]
        fields = f"{limit}: {max_detections}"
    else:
        limit, path = "max_total_detections", [kind, _post_processing(config), "batch_non_max_suppression"]
        fields = f"max_detections_per_class: {max_detections} {limit}: {max_detections}"
    override = f"{' { '.join(['model', *path])} {{ {fields}{' }' * (len(path) + 1)}"
    raise ConfigError(
        f"--max-detections {max_detections}: the config allows {allowed} ({limit}); pass fewer, or raise the limit "
        f"with --config-override '{override}'"
    )


def _post_processing(config: PipelineConfig) -> str:
    return "post_processing" if config.model.HasField("ssd") else "second_stage_post_processing"


def require_efficient_nms(config: PipelineConfig, max_detections: int | None) -> None:
    """Raises UnsupportedError if TensorRT's plugin EfficientNMS_TRT has no attribute for something in the config."""
    kind = config.model.WhichOneof("model")
    if kind != "ssd":
        raise UnsupportedError(
            f"model {kind!r} is not supported with --postprocessing tensorrt: {PLUGIN} ends a detector of one "
            "stage (ssd, EfficientDet too). Use --format onnx without it"
        )
    suppression = config.model.ssd.post_processing.batch_non_max_suppression
    wanted = min(suppression.max_total_detections, max_detections or suppression.max_total_detections)
    is_by_class = not suppression.use_class_agnostic_nms and config.model.ssd.num_classes > 1
    problems = {
        f"soft_nms_sigma is {suppression.soft_nms_sigma:g}: it only drops boxes": suppression.soft_nms_sigma > 0,
        f"max_detections_per_class is {suppression.max_detections_per_class}, fewer than the {wanted} detections of an "
        f"image: it has no limit for a class (--max-detections {suppression.max_detections_per_class} lowers theirs)": (
            is_by_class and suppression.max_detections_per_class < wanted
        ),
        f"the {wanted} detections of an image are too many: it looks at {CANDIDATES} boxes at most (pass "
        "--max-detections)": wanted > CANDIDATES,
        "box_coder is keypoint_box_coder: it returns no keypoints": config.model.ssd.box_coder.HasField(
            "keypoint_box_coder"
        ),
        f"use_class_agnostic_nms with iou_threshold {suppression.iou_threshold:g}: it would return a box once for each "
        "class": suppression.use_class_agnostic_nms and suppression.iou_threshold >= 1,
    }
    found = [problem for problem, is_found in problems.items() if is_found]
    if found:
        raise UnsupportedError(f"--postprocessing tensorrt: {PLUGIN} has no attribute for this. {found[0]}")
