"""Builds the heads of a CenterNet from its messages.

Source: object_detection/builders/model_builder.py, meta_architectures/center_net_meta_arch.py
(_construct_prediction_heads).
"""

from __future__ import annotations

from typing import Any

from unfreeze.config import messages
from unfreeze.errors import ConfigError
from unfreeze.heads.center import Head


def head(channels: int, config: Any, params: str, where: str, *, at_peaks: bool = False) -> Head:
    """Returns the head that the field `params` of a message describes; with one convolution if it is not set.

    Raises:
        ConfigError: num_filters and kernel_sizes have different lengths.
    """
    if not config.HasField(params):
        return Head(channels, at_peaks=at_peaks)
    message = getattr(config, params)
    if len(message.num_filters) != len(message.kernel_sizes):
        raise ConfigError(
            f"{where}: {params} has {len(message.num_filters)} num_filters and {len(message.kernel_sizes)} "
            "kernel_sizes; set one of each for every convolution"
        )
    return Head(channels, tuple(message.num_filters), tuple(message.kernel_sizes), at_peaks=at_peaks)


def heads_of(config: messages.CenterNet) -> dict[str, Head]:
    """Returns the heads of a `CenterNet` message by the names of their predictions, except those for keypoints."""
    heads = {"object_center": head(config.num_classes, config.object_center_params, "center_head_params", "center_net")}
    if config.HasField("object_detection_task"):
        task = config.object_detection_task
        heads["box/scale"] = head(2, task, "scale_head_params", "object_detection_task", at_peaks=True)
        heads["box/offset"] = head(2, task, "offset_head_params", "object_detection_task", at_peaks=True)
    if config.HasField("deepmac_mask_estimation"):
        masks = config.deepmac_mask_estimation
        heads["INSTANCE_EMBEDDING"] = Head(masks.dim, unit_height=True)
        heads["PIXEL_EMBEDDING"] = Head(masks.pixel_embedding_dim, unit_height=True)
        return heads
    if config.HasField("mask_estimation_task"):
        heads["segmentation/heatmap"] = head(
            config.num_classes, config.mask_estimation_task, "mask_head_params", "mask_estimation_task"
        )
    if config.HasField("densepose_estimation_task"):
        num_parts = config.densepose_estimation_task.num_parts
        heads |= {"densepose/heatmap": Head(num_parts), "densepose/regression": Head(2 * num_parts)}
    if config.HasField("track_estimation_task"):
        heads["track/reid"] = Head(config.track_estimation_task.reid_embed_size, at_peaks=True)
    if config.HasField("temporal_offset_task"):
        heads["track/offset"] = Head(2, at_peaks=True)
    return heads
