"""Feature extractors of SSD in TensorFlow 2: the networks of TensorFlow 1 with the names, depths and quirks of Keras.

Each is a function `(x, p, config) -> feature maps`: [N, H, W, 3] in, L x [N, h, w, C] out; `config` is the
`feature_extractor` message.
Source: object_detection/models/ssd_*_keras_feature_extractor.py and models/keras_models/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tensorflow as tf

from unfreeze.backbones import efficientnet
from unfreeze.backbones import mobilenet_v1 as v1
from unfreeze.backbones import mobilenet_v2 as v2
from unfreeze.backbones import resnet_v1 as resnet
from unfreeze.config import messages
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

# The stages of levels 1 to 5 for EfficientNets of every size; in larger ones they are not the last of their stack.
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


def ssd_mobilenet_v1_keras(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns two stages of MobileNet v1 and smaller maps."""
    stages = _mobilenet_v1(x, p, config)
    base = ("Conv2d_11_pointwise", "Conv2d_13_pointwise")
    return _multi_resolution(stages, p["_feature_map_generator"], config, base)


def ssd_mobilenet_v2_keras(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns two stages of MobileNet v2 and smaller maps."""
    stages = _mobilenet_v2(x, p, config)
    return _multi_resolution(stages, p["feature_map_generator"], config, ("layer_15/expansion_output", "layer_19"))


def ssd_mobilenet_v1_fpn_keras(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns a feature pyramid on MobileNet v1; `use_depthwise` makes the end of the backbone thinner."""
    stages = _mobilenet_v1(x, p, config, thin=config.use_depthwise)
    return _mobilenet_fpn([stages[name] for name in V1_STAGES], p, config)


def ssd_mobilenet_v2_fpn_keras(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """`use_depthwise` does not make the end of the backbone thinner: a quirk of the Object Detection API."""
    stages = _mobilenet_v2(x, p, config)
    return _mobilenet_fpn([stages[name] for name in V2_STAGES], p, config)


def ssd_resnet_v1_fpn_keras(
    x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor, *, architecture: str
) -> list[tf.Tensor]:
    """`architecture` is a key of UNITS. `use_depthwise` and `use_explicit_padding` are ignored, as in the OD API."""
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


def ssd_efficientnet_bifpn_keras(
    x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor, *, size: str
) -> list[tf.Tensor]:
    """Returns the maps of EfficientDet. Overriding hyperparameters changes only the weight decay."""
    for option, default in (("depth_multiplier", 1.0), ("use_explicit_padding", False), ("use_depthwise", False)):
        if getattr(config, option) != default:
            raise ConfigError(
                f"feature_extractor: {option} is {str(getattr(config, option)).lower()}, which is not supported by "
                f"{config.type}; remove it (the Object Detection API rejects it too)"
            )
    check_min_image_dim(x, RESNET_MIN_DIM)
    options = bifpn_options(config, size)
    levels = range(options.min_level, min(options.max_level, 5) + 1)
    stages = efficientnet.efficientnet(
        pad_to_multiple(x, config.pad_to_multiple),
        p["_efficientnet"],
        *efficientnet.SCALES[size],
        last=EFFICIENTNET_STAGES[levels[-1]],
    )
    p[BACKBONE].ignore()  # the whole classifier
    maps = [stages[EFFICIENTNET_STAGES[level]] for level in levels]
    return bifpn_feature_maps(maps, p["_bifpn_stage"], options, keras_style(config.conv_hyperparams))


def bifpn_options(config: messages.SsdFeatureExtractor, size: str) -> BiFpn:
    """Returns the options of the `bifpn` message, with its defaults; without a message those of EfficientDet."""
    options = BIFPNS[size]
    if config.HasField("bifpn"):
        message = config.bifpn
        options = BiFpn(
            message.min_level, message.max_level, message.num_iterations, message.num_filters, message.combine_method
        )
    if not 1 <= options.min_level <= min(options.max_level, 5):
        raise ConfigError(
            f"bifpn: min_level is {options.min_level} and max_level is {options.max_level}; min_level must be 1 to 5 "
            "and at most max_level"
        )
    return replace(options, num_filters=max(options.num_filters, config.min_depth))


def _mobilenet_v1(
    x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor, thin: bool = False
) -> dict[str, tf.Tensor]:
    """Applies `depth_multiplier` twice, since both Keras and the OD API do; to the thinner blocks of `thin` once."""
    check_min_image_dim(x)

    def scaled(filters: int) -> int:
        return int(filters * config.depth_multiplier)

    blocks = tuple(
        (scaled(filters) if (filters, stride) != default else scaled(scaled(filters)), stride)
        for (filters, stride), default in zip(V1_THIN_BLOCKS if thin else v1.BLOCKS, v1.BLOCKS, strict=True)
    )
    return v1.mobilenet_v1(
        pad_to_multiple(x, config.pad_to_multiple),
        p[BACKBONE].renamed(v1.KERAS_NAMES),
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
        stem_filters=scaled(scaled(v1.STEM_FILTERS)),
        blocks=blocks,
        style=_backbone_style(config, v1.STYLE),
    )


def _mobilenet_v2(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> dict[str, tf.Tensor]:
    """Returns the stages of MobileNet v2, whose last layer a `depth_multiplier` above 1 does not widen."""
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


def _backbone_style(config: messages.SsdFeatureExtractor, style: Style) -> Style:
    """Returns the style of a backbone, whose convolutions never have biases, even with overridden hyperparameters."""
    if config.override_base_feature_extractor_hyperparams:
        style = keras_style(config.conv_hyperparams)
    return replace(style, biases=False, biases_before_norm=False)


def _multi_resolution(
    stages: dict[str, tf.Tensor], p: Branch, config: messages.SsdFeatureExtractor, base: tuple[str, ...]
) -> list[tf.Tensor]:
    """Returns two stages of the backbone and four maps that the neck adds; `num_layers` limits their number."""
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


def _mobilenet_fpn(stages: Sequence[tf.Tensor], p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Takes the last stages if max_level is below 5, not those of the levels: a quirk of the Object Detection API."""
    levels = fpn_levels(config)
    count = min(levels.max_level, 5) + 1 - levels.min_level
    return _fpn(stages[len(stages) - count :], p, config, levels, config.use_depthwise, config.use_explicit_padding)


def _fpn(
    stages: Sequence[tf.Tensor],
    p: Branch,
    config: messages.SsdFeatureExtractor,
    levels: Levels,
    use_depthwise: bool = False,
    use_explicit_padding: bool = False,
) -> list[tf.Tensor]:
    """Returns maps of levels `min_level` to `max_level` from stages of a backbone and smaller maps of the last."""
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
