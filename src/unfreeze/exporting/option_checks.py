"""Checks of options that need the config and no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unfreeze.config import PipelineConfig
from unfreeze.errors import ConfigError, UnsupportedError

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


def require_max_detections(config: PipelineConfig, max_detections: int | None) -> None:
    """Raises ConfigError if the config allows fewer detections: rows are only removed, never added."""
    if max_detections is None:
        return
    kind = config.model.WhichOneof("model")
    model = getattr(config.model, kind)
    if kind == "center_net":
        path, limit, override = "object_center_params", "max_box_predictions", f"max_box_predictions: {max_detections}"
        allowed = model.object_center_params.max_box_predictions
    else:
        part = "post_processing" if kind == "ssd" else "second_stage_post_processing"
        path, limit = f"{part} batch_non_max_suppression", "max_total_detections"
        nms = getattr(model, part).batch_non_max_suppression
        allowed = nms.max_total_detections
        per_class = (
            "" if nms.max_detections_per_class >= max_detections else f"max_detections_per_class: {max_detections} "
        )
        override = f"{per_class}max_total_detections: {max_detections}"
    if max_detections > allowed:
        nested = (
            f"model {{ {kind} {{ {' { '.join(path.split())} {{ {override} {'} ' * (len(path.split()) + 2)}".rstrip()
        )
        raise ConfigError(
            f"--max-detections {max_detections}: the config allows {allowed} ({limit}); pass fewer, or raise the limit "
            f"with --config-override '{nested}'"
        )
