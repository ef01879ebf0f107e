"""Feature extractors of SSD with a pyramid: FPN, pooling pyramids, MnasFPN, SpaghettiNet.

Each is a function `(x, p, config) -> feature maps`: [N, H, W, 3] in, L x [N, h, w, C] out; `config` is the
`feature_extractor` message.
Source: object_detection/models/ssd_{*_fpn,*_ppn,*_mnasfpn,spaghettinet}_feature_extractor.py.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from unfreeze.backbones import mobilenet_v1 as v1
from unfreeze.backbones import mobilenet_v2 as v2
from unfreeze.backbones import resnet_v1 as resnet
from unfreeze.backbones.spaghettinet import ARCHITECTURES, spaghettinet
from unfreeze.config import messages
from unfreeze.detectors.hyperparams import extractor_style
from unfreeze.detectors.input_size_checks import check_known_size, check_min_image_dim
from unfreeze.errors import ConfigError
from unfreeze.necks import mnasfpn
from unfreeze.necks.fpn import coarse_feature_maps, fpn_top_down_feature_maps
from unfreeze.necks.pooling_pyramid import pooling_pyramid_feature_maps
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, pad_to_multiple

# The stages of levels 2 to 5.
V1_STAGES = ("Conv2d_3_pointwise", "Conv2d_5_pointwise", "Conv2d_11_pointwise", "Conv2d_13_pointwise")
V2_STAGES = ("layer_4", "layer_7", "layer_14", "layer_19")
RESNET_STAGES = ("block1", "block2", "block3", "block4")

# With use_depthwise, both MobileNets have thinner last layers. Source: _create_modified_mobilenet_config.
V1_THIN_BLOCKS = (*v1.BLOCKS[:-2], (512, 2), (256, 1))
V2_THIN_TOP_FILTERS = 256

RESNET_MIN_DIM = 129


class Levels(NamedTuple):
    """The options of an `fpn` message, with its defaults."""

    min_level: int = 3
    max_level: int = 7
    additional_layer_depth: int = 256


def ssd_mobilenet_v1_fpn(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns a feature pyramid on MobileNet v1."""
    p = p["MobilenetV1"]
    stages = _mobilenet_v1(x, p, config, V1_THIN_BLOCKS if config.use_depthwise else v1.BLOCKS)
    levels = fpn_levels(config)
    return _fpn(
        [stages[name] for name in V1_STAGES],
        p["fpn"],
        levels,
        [f"bottom_up_Conv2d_{14 + i}" for i in range(levels.max_level - 5)],
        depth=scaled_depth(levels.additional_layer_depth, config),
        use_depthwise=config.use_depthwise,
        use_explicit_padding=config.use_explicit_padding,
        style=extractor_style(config),
    )


def ssd_mobilenet_v2_fpn(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns a feature pyramid on MobileNet v2."""
    p = p["MobilenetV2"]
    override = config.override_base_feature_extractor_hyperparams
    style = v2.overridden(extractor_style(config)) if override else v2.STYLE
    stages = _mobilenet_v2(x, p, config, V2_THIN_TOP_FILTERS if config.use_depthwise else v2.TOP_FILTERS, style)
    levels = fpn_levels(config)
    return _fpn(
        [stages[name] for name in V2_STAGES],
        p["fpn"],
        levels,
        [f"bottom_up_Conv2d_{20 + i}" for i in range(levels.max_level - 5)],
        depth=scaled_depth(levels.additional_layer_depth, config),
        use_depthwise=config.use_depthwise,
        use_explicit_padding=config.use_explicit_padding,
        style=extractor_style(config),
    )


def ssd_resnet_v1_fpn(
    x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor, *, architecture: str
) -> list[tf.Tensor]:
    """`architecture` is a key of UNITS. `use_depthwise` is ignored, as in the Object Detection API."""
    if config.use_explicit_padding:
        raise ConfigError(
            f"feature_extractor: use_explicit_padding is not supported by {config.type}; remove it (the Object "
            "Detection API rejects it too)"
        )
    p = p[architecture]
    override = config.override_base_feature_extractor_hyperparams
    stages = _resnet_v1(
        x,
        p,
        config,
        architecture,
        depth_multiplier=config.depth_multiplier,
        min_base_depth=config.min_depth,
        style=resnet.overridden(extractor_style(config)) if override else resnet.STYLE,
    )
    levels = fpn_levels(config)
    return _fpn(
        [stages[name] for name in RESNET_STAGES],
        p["fpn"],
        levels,
        [f"bottom_up_block{i}" for i in range(5, levels.max_level)],
        depth=scaled_depth(levels.additional_layer_depth, config),
        style=extractor_style(config),
    )


def ssd_mobilenet_v1_ppn(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Always returns six maps; `num_layers` is ignored, as in the Object Detection API."""
    stages = _mobilenet_v1(x, p["MobilenetV1"], config, v1.BLOCKS)
    return pooling_pyramid_feature_maps(
        stages["Conv2d_11_pointwise"], p, base_feature_map_depth=0, num_layers=6, style=extractor_style(config)
    )


def ssd_resnet_v1_ppn(
    x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor, *, architecture: str
) -> list[tf.Tensor]:
    """`architecture` is a key of UNITS. It always has its own hyperparameters.

    The Object Detection API passes override_base_feature_extractor_hyperparams as num_layers by mistake, so it never
    overrides them; min_depth, use_depthwise and use_explicit_padding have no effect either.
    """
    if config.depth_multiplier != 1.0:
        raise ConfigError(
            f"feature_extractor: depth_multiplier is {config.depth_multiplier:g}, which is not supported by "
            f"{config.type}; remove it (the Object Detection API rejects it too)"
        )
    p = p[architecture]
    stages = _resnet_v1(x, p, config, architecture, style=resnet.STYLE)
    return pooling_pyramid_feature_maps(
        stages["block3"], p, base_feature_map_depth=1024, num_layers=6, style=extractor_style(config)
    )


def ssd_mobilenet_v2_mnasfpn(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Has its own hyperparameters, also for the backbone; those of the config are ignored."""
    check_known_size(x, config.type)
    check_min_image_dim(x)
    levels = _levels(config, Levels(3, 6, 48))
    if (levels.min_level, levels.max_level) != (3, 6):
        raise ConfigError(
            f"fpn: min_level is {levels.min_level} and max_level is {levels.max_level}; {config.type} needs 3 and 6"
        )
    stages = _mobilenet_v2(x, p["MobilenetV2"], config, None, v2.overridden(mnasfpn.STYLE))

    def scaled(filters: int) -> int:
        return v2.divisible(filters * config.depth_multiplier, 8, config.min_depth)

    return mnasfpn.mnasfpn(
        [stages[name] for name in ("layer_7", "layer_14", "layer_18")],
        p["MnasFPN"],
        depth=levels.additional_layer_depth,
        use_explicit_padding=config.use_explicit_padding,
        scaled=scaled,
    )


def ssd_spaghettinet(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Has its own hyperparameters; reads only `spaghettinet_arch_name` and `use_explicit_padding`."""
    check_min_image_dim(x)
    name = config.spaghettinet_arch_name if config.HasField("spaghettinet_arch_name") else "spaghettinet_edgetpu_m"
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"feature_extractor: unknown spaghettinet_arch_name {name!r}; choose one of {', '.join(ARCHITECTURES)}"
        )
    return spaghettinet(x, p[name], ARCHITECTURES[name], use_explicit_padding=config.use_explicit_padding)


def _fpn(
    stages: list[tf.Tensor],
    p: Branch,
    levels: Levels,
    coarse: list[str],
    *,
    depth: int,
    use_depthwise: bool = False,
    use_explicit_padding: bool = False,
    style: Style,
) -> list[tf.Tensor]:
    """Returns maps of `min_level` to `max_level` from levels 2 to 5 of a backbone.

    Levels above 5 are convolutions with the names in `coarse`.
    """
    feature_maps = fpn_top_down_feature_maps(
        stages[levels.min_level - 2 : levels.max_level - 1],
        p,
        depth=depth,
        use_depthwise=use_depthwise,
        use_explicit_padding=use_explicit_padding,
        style=style,
    )
    return feature_maps + coarse_feature_maps(
        feature_maps[-1],
        p,
        coarse,
        depth=depth,
        use_depthwise=use_depthwise,
        use_explicit_padding=use_explicit_padding,
        style=style,
    )


def fpn_levels(config: messages.SsdFeatureExtractor) -> Levels:
    """Returns the levels of the `fpn` message, or the defaults.

    Raises:
        ConfigError: the backbone has no such levels.
    """
    levels = _levels(config, Levels())
    if not 2 <= levels.min_level <= min(levels.max_level, 5):
        raise ConfigError(
            f"fpn: min_level is {levels.min_level} and max_level is {levels.max_level}; min_level must be 2 to 5 and "
            "at most max_level"
        )
    return levels


def _levels(config: messages.SsdFeatureExtractor, default: Levels) -> Levels:
    """Returns the options of the `fpn` message, with its defaults; `default` without a message."""
    if not config.HasField("fpn"):
        return default
    return Levels(config.fpn.min_level, config.fpn.max_level, config.fpn.additional_layer_depth)


def _mobilenet_v1(
    x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor, blocks: tuple[tuple[int, int], ...]
) -> dict[str, tf.Tensor]:
    check_min_image_dim(x)
    return v1.mobilenet_v1(
        pad_to_multiple(x, config.pad_to_multiple),
        p.scoped("", operations="MobilenetV1"),
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
        blocks=blocks,
        style=extractor_style(config) if config.override_base_feature_extractor_hyperparams else v1.STYLE,
    )


def _mobilenet_v2(
    x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor, top_filters: int | None, style: Style
) -> dict[str, tf.Tensor]:
    check_min_image_dim(x)
    return v2.mobilenet_v2(
        pad_to_multiple(x, config.pad_to_multiple),
        p,
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
        top_filters=top_filters,
        style=style,
    )


def _resnet_v1(
    x: tf.Tensor,
    p: Branch,
    config: messages.SsdFeatureExtractor,
    architecture: str,
    *,
    depth_multiplier: float = 1.0,
    min_base_depth: int = 8,
    style: Style,
) -> dict[str, tf.Tensor]:
    check_min_image_dim(x, RESNET_MIN_DIM)
    return resnet.resnet_v1(
        pad_to_multiple(x, config.pad_to_multiple),
        p.scoped("", operations=architecture),
        resnet.UNITS[architecture],
        store_non_strided_activations=True,
        depth_multiplier=depth_multiplier,
        min_base_depth=min_base_depth,
        style=style,
    )


def scaled_depth(filters: int, config: messages.SsdFeatureExtractor) -> int:
    """Returns `filters` times the config's `depth_multiplier`, at least `min_depth`."""
    return max(int(filters * config.depth_multiplier), int(config.min_depth))
