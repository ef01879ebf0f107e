"""Feature extractors of SSD in TensorFlow 2: the networks of TensorFlow 1 with the names, depths and quirks of Keras.

One function for each, `(x, p, config) -> feature maps`: [N, H, W, 3] in, L x [N, h, w, C] out; `config` is the
`feature_extractor` message.
Source: object_detection/models/ssd_*_keras_feature_extractor.py and models/keras_models/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from unfreeze.backbones import efficientnet
from unfreeze.backbones import mobilenet_v1 as v1
from unfreeze.backbones import mobilenet_v2 as v2
from unfreeze.backbones import resnet_v1 as resnet
from unfreeze.detectors.hyperparams import keras_style
from unfreeze.detectors.input_size_checks import check_min_image_dim
from unfreeze.detectors.ssd_pyramids import (
    RESNET_MIN_DIM,
    RESNET_STAGES,
    V1_STAGES,
    V1_THIN_BLOCKS,
    V2_STAGES,
    Levels,
    fpn_levels,
    scaled_depth,
)
from unfreeze.errors import ConfigError
from unfreeze.necks import fpn, multi_resolution
from unfreeze.necks.bifpn import BiFpn, bifpn_feature_maps
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, pad_to_multiple

BACKBONE = "classification_backbone"

# The stages of levels 1 to 5, of EfficientNets of every size; of the larger ones they lie within a stack.
EFFICIENTNET_STAGES = {
    1: "stack_0/block_0",
    2: "stack_1/block_1",
    3: "stack_2/block_1",
    4: "stack_4/block_2",
    5: "stack_6/block_0",
}
# EfficientDet's pyramids.
BIFPNS = {
    "b0": BiFpn(num_iterations=3, num_filters=64),
    "b1": BiFpn(num_iterations=4, num_filters=88),
    "b2": BiFpn(num_iterations=5, num_filters=112),
    "b3": BiFpn(num_iterations=6, num_filters=160),
    "b4": BiFpn(num_iterations=7, num_filters=224),
    "b5": BiFpn(num_iterations=7, num_filters=288),
    "b6": BiFpn(num_iterations=8, num_filters=384, combine_method="sum"),
    "b7": BiFpn(num_iterations=8, num_filters=384, combine_method="sum"),
}


def ssd_mobilenet_v1_keras(x: tf.Tensor, p: Branch, config: Any) -> list[tf.Tensor]:
    stages = _mobilenet_v1(x, p, config)
    base = ("Conv2d_11_pointwise", "Conv2d_13_pointwise")
    return _multi_resolution(stages, p["_feature_map_generator"], config, base)


def ssd_mobilenet_v2_keras(x: tf.Tensor, p: Branch, config: Any) -> list[tf.Tensor]:
    stages = _mobilenet_v2(x, p, config)
    return _multi_resolution(stages, p["feature_map_generator"], config, ("layer_15/expansion_output", "layer_19"))


def ssd_mobilenet_v1_fpn_keras(x: tf.Tensor, p: Branch, config: Any) -> list[tf.Tensor]:
    stages = _mobilenet_v1(x, p, config, thin=config.use_depthwise)
    return _mobilenet_fpn([stages[name] for name in V1_STAGES], p, config)


def ssd_mobilenet_v2_fpn_keras(x: tf.Tensor, p: Branch, config: Any) -> list[tf.Tensor]:
    """The thinner end that use_depthwise is to give the backbone never reaches it in the original."""
    stages = _mobilenet_v2(x, p, config)
    return _mobilenet_fpn([stages[name] for name in V2_STAGES], p, config)


def ssd_resnet_v1_fpn_keras(x: tf.Tensor, p: Branch, config: Any, *, architecture: str) -> list[tf.Tensor]:
    """Of a ResNet of UNITS; `use_depthwise` and `use_explicit_padding` change nothing, as in the original."""
    check_min_image_dim(x, RESNET_MIN_DIM)
    stages = resnet.keras_resnet_v1(
        pad_to_multiple(x, config.pad_to_multiple),
        p[BACKBONE],
        resnet.UNITS[architecture],
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        style=_backbone_style(config, resnet.STYLE),
    )
    levels = fpn_levels(config)
    used = RESNET_STAGES[levels.min_level - 2 : levels.max_level - 1]
    return _fpn([stages[name] for name in used], p, config, levels)


def ssd_efficientnet_bifpn_keras(x: tf.Tensor, p: Branch, config: Any, *, size: str) -> list[tf.Tensor]:
    """EfficientDet; of overriding hyperparameters only the weight decay gets through, which is of the training."""
    for option, usual in (("depth_multiplier", 1.0), ("use_explicit_padding", False), ("use_depthwise", False)):
        if getattr(config, option) != usual:
            raise ConfigError(
                f"feature_extractor: {config.type} does not take {option}: {getattr(config, option)}; take it out, as "
                "the original refuses it too"
            )
    check_min_image_dim(x, RESNET_MIN_DIM)
    numbers = _bifpn(config, size)
    levels = range(numbers.min_level, min(numbers.max_level, 5) + 1)
    stages = efficientnet.efficientnet(
        pad_to_multiple(x, config.pad_to_multiple),
        p["_efficientnet"],
        *efficientnet.SCALES[size],
        last=EFFICIENTNET_STAGES[levels[-1]],
    )
    p[BACKBONE].ignore()  # the whole classifier
    maps = [stages[EFFICIENTNET_STAGES[level]] for level in levels]
    return bifpn_feature_maps(maps, p["_bifpn_stage"], numbers, keras_style(config.conv_hyperparams))


def _bifpn(config: Any, size: str) -> BiFpn:
    """The numbers of the `bifpn` message, its own defaults included; those of EfficientDet where there is none."""
    numbers = BIFPNS[size]
    if config.HasField("bifpn"):
        message = config.bifpn
        numbers = BiFpn(
            message.min_level, message.max_level, message.num_iterations, message.num_filters, message.combine_method
        )
    if not 1 <= numbers.min_level <= min(numbers.max_level, 5):
        raise ConfigError(
            f"bifpn: min_level is {numbers.min_level} and max_level {numbers.max_level}; min_level has to be 1 to 5, "
            "and max_level at least that"
        )
    return replace(numbers, num_filters=max(numbers.num_filters, config.min_depth))


def _mobilenet_v1(x: tf.Tensor, p: Branch, config: Any, thin: bool = False) -> dict[str, tf.Tensor]:
    """Both Keras and the original scale the depths, so `depth_multiplier` counts twice, but once where `thin` says."""
    check_min_image_dim(x)

    def once(filters: int) -> int:
        return int(filters * config.depth_multiplier)

    blocks = tuple(
        (once(filters) if (filters, stride) != usual else once(once(filters)), stride)
        for (filters, stride), usual in zip(V1_THIN_BLOCKS if thin else v1.BLOCKS, v1.BLOCKS, strict=True)
    )
    return v1.mobilenet_v1(
        pad_to_multiple(x, config.pad_to_multiple),
        p[BACKBONE].renamed(v1.KERAS_NAMES),
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
        stem_filters=once(once(v1.STEM_FILTERS)),
        blocks=blocks,
        style=_backbone_style(config, v1.STYLE),
    )


def _mobilenet_v2(x: tf.Tensor, p: Branch, config: Any) -> dict[str, tf.Tensor]:
    """`depth_multiplier` makes the last layer thinner, but not thicker."""
    check_min_image_dim(x)
    alpha = config.depth_multiplier
    blocks = tuple((expansion, v2.divisible(int(filters * alpha)), stride) for expansion, filters, stride in v2.BLOCKS)
    return v2.mobilenet_v2(
        pad_to_multiple(x, config.pad_to_multiple),
        p[BACKBONE].renamed(v2.KERAS_NAMES),
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
        stem_filters=v2.divisible(v2.STEM_FILTERS * alpha),
        blocks=blocks,
        top_filters=v2.divisible(v2.TOP_FILTERS * alpha) if alpha < 1 else v2.TOP_FILTERS,
        widths=v2.KERAS_WIDTHS,
        style=_backbone_style(config, v2.STYLE),
    )


def _backbone_style(config: Any, style: Style) -> Style:
    """Convolutions of a backbone never have biases, whatever overrides its hyperparameters."""
    if config.override_base_feature_extractor_hyperparams:
        style = keras_style(config.conv_hyperparams)
    return replace(style, biases=False, biases_before_norm=False)


def _multi_resolution(stages: dict[str, tf.Tensor], p: Branch, config: Any, base: tuple[str, ...]) -> list[tf.Tensor]:
    """Two stages from the backbone, the other of six made by the neck; `num_layers` cuts the list."""
    layers = config.num_layers
    return multi_resolution.multi_resolution_feature_maps(
        stages,
        p.renamed(multi_resolution.keras_names(config.use_depthwise, config.use_explicit_padding)),
        from_layer=(*base, "", "", "", "")[:layers],
        layer_depth=(-1, -1, 512, 256, 256, 128)[:layers],
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_depthwise=config.use_depthwise,
        use_explicit_padding=config.use_explicit_padding,
        style=keras_style(config.conv_hyperparams),
    )


def _mobilenet_fpn(stages: Sequence[tf.Tensor], p: Branch, config: Any) -> list[tf.Tensor]:
    """With a max_level below 5 the last stages are taken, not those of the levels: so the original does it."""
    levels = fpn_levels(config)
    count = min(levels.max_level, 5) + 1 - levels.min_level
    return _fpn(stages[len(stages) - count :], p, config, levels, config.use_depthwise, config.use_explicit_padding)


def _fpn(
    stages: Sequence[tf.Tensor],
    p: Branch,
    config: Any,
    levels: Levels,
    use_depthwise: bool = False,
    use_explicit_padding: bool = False,
) -> list[tf.Tensor]:
    """Stages of a backbone to `min_level` to `max_level`; those beyond 5 are made of the last."""
    depth = scaled_depth(levels.additional_layer_depth, config)
    style = keras_style(config.conv_hyperparams)
    feature_maps = fpn.fpn_top_down_feature_maps(
        stages,
        p["_fpn_features_generator"].renamed(fpn.keras_names(len(stages), use_explicit_padding)),
        depth=depth,
        use_depthwise=use_depthwise,
        use_explicit_padding=use_explicit_padding,
        upsamples_smoothed=True,
        style=style,
    )
    return feature_maps + fpn.coarse_feature_maps(
        feature_maps[-1],
        p["_coarse_feature_layers"].renamed(fpn.keras_coarse_names(use_explicit_padding)),
        [str(i) for i in range(levels.max_level - 5)],
        depth=depth,
        use_depthwise=use_depthwise,
        use_explicit_padding=use_explicit_padding,
        style=style,
    )
