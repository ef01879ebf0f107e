"""Builds the masks of a CenterNet: `mask_estimation_task`, `densepose_estimation_task`, `deepmac_mask_estimation`.

Source: object_detection/builders/model_builder.py, meta_architectures/{center_net,deepmac}_meta_arch.py.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from unfreeze.backbones.hourglass import Hourglass, hourglass, hourglass_of
from unfreeze.backbones.keras_resnet import basic_stack
from unfreeze.config import messages
from unfreeze.detectors.detector import Tensors
from unfreeze.errors import ConfigError
from unfreeze.heads.deep_mask import DeepMask
from unfreeze.ops.branch import Branch
from unfreeze.ops.instance_masks import Surfaces, boxes_in_map, instance_masks, surface_coordinates
from unfreeze.ops.keras_layers import conv

MaskNetwork = Callable[[tf.Tensor, Branch], tf.Tensor]

# network_type: the row of STAGES in backbones/hourglass.py, and the options that differ.
HOURGLASSES: dict[str, tuple[str, dict[str, bool]]] = {
    "hourglass10": ("hourglass_10", {}),
    "hourglass20": ("hourglass_20", {}),
    "hourglass32": ("hourglass_32", {}),
    "hourglass52": ("hourglass_52", {}),
    "hourglass100": ("hourglass_100", {}),
    "hourglass20_uniform_size": ("hourglass_20", {"stagewise_downsample": False}),
    "hourglass20_no_shortcut": ("hourglass_20", {"encoder_decoder_shortcut": False}),
}
# network_type: the stacks of a ResNet, as (blocks, channels in multiples of num_init_channels).
RESNETS: dict[str, tuple[tuple[int, int], ...]] = {
    "resnet4": ((2, 2),),
    "resnet8": ((4, 2),),
    "resnet12": ((6, 2),),
    "resnet16": ((8, 2),),
    "resnet20": ((8, 2), (2, 3)),
}
PROJECTION = "embedding_projection"
CONDITIONAL = "cond_inst"


def mask_outputs(
    config: messages.CenterNet,
    stages: Tensors,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    stride: int,
    true_shapes: tf.Tensor,
) -> Tensors:
    """Returns `detection_masks` [N, D, h, w], and with DensePose `detection_surface_coords` [N, D, h, w, 2].

    With DensePose the masks contain part numbers. `boxes` `[N, D, 4]` are relative to the true image, `classes`
    `[N, D]` int32 count from 0.
    """
    task = config.mask_estimation_task
    heatmap = tf.sigmoid(stages["segmentation/heatmap"])
    boxes = boxes_in_map(boxes, heatmap, stride, true_shapes)
    masks = instance_masks(heatmap, boxes, classes, (task.mask_height, task.mask_width), task.score_threshold)
    if not config.HasField("densepose_estimation_task"):
        return {"detection_masks": masks}
    surfaces = Surfaces(stages["densepose/heatmap"], stages["densepose/regression"])
    of_class = classes == config.densepose_estimation_task.class_id
    masks, coordinates = surface_coordinates(masks, surfaces, boxes, of_class)
    return {"detection_masks": masks, "detection_surface_coords": coordinates}


def build_deep_mask(config: messages.CenterNet.DeepMACMaskEstimation) -> DeepMask:
    """Returns the mask head of a `DeepMACMaskEstimation` message.

    Raises:
        ConfigError: the Object Detection API rejects the message too.
    """
    where = "deepmac_mask_estimation"
    name, channels = config.network_type, config.num_init_channels
    depth = _conditional_depth(name)
    has_no_weights = name == PROJECTION or depth > 0
    if has_no_weights and config.use_instance_embedding:
        raise ConfigError(f"{where}: network_type {name} has no weights; set use_instance_embedding: false")
    if name == PROJECTION and config.use_xy:
        raise ConfigError(f"{where}: network_type {name} does not use coordinates; set use_xy: false")
    if name == PROJECTION and config.dim != config.pixel_embedding_dim:
        raise ConfigError(
            f"{where}: dim is {config.dim} and pixel_embedding_dim is {config.pixel_embedding_dim}; with network_type "
            f"{name} they must be equal"
        )
    if depth:
        _check_conditional_dim(where, config, depth)
    if config.predict_full_resolution_masks and config.max_roi_jitter_ratio > 0:
        raise ConfigError(
            f"{where}: predict_full_resolution_masks cannot be combined with max_roi_jitter_ratio; remove one of them"
        )
    if config.mask_num_subsamples > 0:
        raise ConfigError(
            f"{where}: mask_num_subsamples is {config.mask_num_subsamples}, which is not supported here; remove it "
            "(the Object Detection API does not implement it)"
        )
    return DeepMask(
        network=None if has_no_weights else _network(where, name, channels),
        conditional_depth=depth,
        mask_size=config.mask_size,
        use_xy=config.use_xy,
        use_instance_embedding=config.use_instance_embedding,
        num_init_channels=channels,
        predict_full_resolution_masks=config.predict_full_resolution_masks,
        postprocess_crop_size=config.postprocess_crop_size,
    )


def _network(where: str, name: str, channels: int) -> MaskNetwork:
    if name in HOURGLASSES:
        row, options = HOURGLASSES[name]
        return _hourglass_network(hourglass_of(row, channels, **options))
    if name in RESNETS:
        return _resnet_network(name, channels)
    names = ", ".join([*HOURGLASSES, *RESNETS, PROJECTION, f"{CONDITIONAL}N"])
    if name == "fully_connected":
        raise ConfigError(
            f"{where}: network_type 'fully_connected' is not supported (the Object Detection API cannot build it "
            f"either, because it never sets its size); choose one of {names}"
        )
    raise ConfigError(f"{where}: unknown network_type {name!r}; choose one of {names}")


def _hourglass_network(network: Hourglass) -> MaskNetwork:
    return lambda x, p: hourglass(x, p, network, initial_downsample=False)[-1]


def _resnet_network(name: str, channels: int) -> MaskNetwork:
    def network(x: tf.Tensor, p: Branch) -> tf.Tensor:
        x = conv(x, p["input_layer"], channels)
        for i, (blocks, multiple) in enumerate(RESNETS[name]):
            x = basic_stack(x, p["model"], f"resnet_mask_block_{i}", channels * multiple, blocks, stride=1)
        return x

    return network


def _conditional_depth(name: str) -> int:
    """Returns N for the name `cond_instN`, 0 for any other name."""
    depth = name.removeprefix(CONDITIONAL)
    return int(depth) if name.startswith(CONDITIONAL) and depth.isdigit() else 0


def _check_conditional_dim(where: str, config: messages.CenterNet.DeepMACMaskEstimation, depth: int) -> None:
    inputs, channels = config.pixel_embedding_dim + (2 if config.use_xy else 0), config.num_init_channels
    if depth == 1 and inputs != channels:
        raise ConfigError(
            f"{where}: num_init_channels is {channels}; with network_type {config.network_type} it must be {inputs}"
        )
    filters = [channels] * (depth - 1) + [1]
    needed = sum(before * own + own for before, own in zip([inputs, *filters], filters, strict=False))
    if config.dim != needed:
        raise ConfigError(f"{where}: dim is {config.dim}; with network_type {config.network_type} it must be {needed}")
