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
