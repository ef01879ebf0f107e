"""Feature extractors of SSD that take stages of a backbone and downsample the last one repeatedly.

Each is a function `(x, p, config) -> feature maps`: [N, H, W, 3] in, L x [N, h, w, C] out; `config` is the
`feature_extractor` message. Source: object_detection/models/ssd_*_feature_extractor.py.
"""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf

from unfreeze.backbones import mobilenet_v1 as v1
from unfreeze.backbones import mobilenet_v2 as v2
from unfreeze.backbones import mobilenet_v3 as v3
from unfreeze.backbones.inception_v2 import inception_v2
from unfreeze.backbones.inception_v3 import inception_v3
from unfreeze.backbones.mobiledet import Architecture as MobileDet
from unfreeze.backbones.mobiledet import mobiledet
from unfreeze.backbones.nasnet import LAYERS, Layers
from unfreeze.backbones.pnasnet import pnasnet_large
from unfreeze.config import messages
from unfreeze.detectors.hyperparams import batch_norm, extractor_style
from unfreeze.detectors.input_size_checks import check_known_size, check_min_image_dim
from unfreeze.errors import ConfigError
from unfreeze.necks.multi_resolution import multi_resolution_feature_maps
from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import pad_to_multiple


def ssd_mobilenet_v1(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns two stages of MobileNet v1 and smaller maps."""
    check_min_image_dim(x)
    p = p["MobilenetV1"]
    stages = v1.mobilenet_v1(
        pad_to_multiple(x, config.pad_to_multiple),
        p.scoped("", operations="MobilenetV1"),
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
        style=extractor_style(config) if config.override_base_feature_extractor_hyperparams else v1.STYLE,
    )
    return _multi_resolution(stages, p, config, ("Conv2d_11_pointwise", "Conv2d_13_pointwise"))


def ssd_mobilenet_v2(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns two stages of MobileNet v2 and smaller maps."""
    check_min_image_dim(x)
    p = p["MobilenetV2"]
    stages = v2.mobilenet_v2(
        pad_to_multiple(x, config.pad_to_multiple),
        p,
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
        style=v2.overridden(extractor_style(config))
        if config.override_base_feature_extractor_hyperparams
        else v2.STYLE,
    )
    return _multi_resolution(stages, p, config, ("layer_15/expansion_output", "layer_19"))


def ssd_inception_v2(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns two stages of Inception v2 and smaller maps."""
    check_min_image_dim(x)
    _require_override(config)
    p = p["InceptionV2"]
    stages = inception_v2(
        pad_to_multiple(x, config.pad_to_multiple),
        p.scoped("", operations="InceptionV2"),
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        style=extractor_style(config),
    )
    return _multi_resolution(stages, p, config, ("Mixed_4c", "Mixed_5c"))


def ssd_inception_v3(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns stages of Inception v3 and smaller maps."""
    check_min_image_dim(x)
    _require_override(config)
    p = p["InceptionV3"]
    stages = inception_v3(
        pad_to_multiple(x, config.pad_to_multiple),
        p.scoped("", operations="InceptionV3"),
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        style=extractor_style(config),
    )
    return _multi_resolution(stages, p, config, ("Mixed_5d", "Mixed_6e", "Mixed_7c"))


def embedded_ssd_mobilenet_v1(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Returns five maps; the kernels of the last ones are no larger than their inputs.

    `override_base_feature_extractor_hyperparams` has no effect: the Object Detection API passes it as another argument
    by mistake.
    """
    _check_embedded(x, config)
    p = p["MobilenetV1"]
    stages = v1.mobilenet_v1(
        x,
        p.scoped("", operations="MobilenetV1"),
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
    )
    return multi_resolution_feature_maps(
        stages,
        p,
        from_layer=("Conv2d_11_pointwise", "Conv2d_13_pointwise", "", "", ""),
        layer_depth=(-1, -1, 512, 256, 256),
        conv_kernel_size=(-1, -1, 3, 3, 2),
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_depthwise=config.use_depthwise,
        use_explicit_padding=config.use_explicit_padding,
        style=extractor_style(config),
    )


def ssd_mobilenet_v3(
    x: tf.Tensor,
    p: Branch,
    config: messages.SsdFeatureExtractor,
    *,
    scope: str,
    architecture: v3.Architecture,
    from_layer: tuple[str, str],
) -> list[tf.Tensor]:
    """`architecture` is one of backbones/mobilenet_v3.py. Overriding hyperparameters changes only epsilon and decay."""
    check_min_image_dim(x)
    if config.use_explicit_padding and any(block.fused for block in architecture.blocks):
        raise ConfigError(
            f"feature_extractor: use_explicit_padding is not supported by {config.type}, whose fused convolutions "
            "would not be padded; remove it (the Object Detection API fails on it too)"
        )
    override = config.override_base_feature_extractor_hyperparams
    norm = batch_norm(config.conv_hyperparams, "feature_extractor.conv_hyperparams") if override else None
    p = p[scope]
    stages = v3.mobilenet_v3(
        pad_to_multiple(x, config.pad_to_multiple),
        p,
        architecture,
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_explicit_padding=config.use_explicit_padding,
        norm=v3.NORM if norm is None else replace(v3.NORM, epsilon=norm.epsilon, decay=norm.decay, trains=norm.trains),
    )
    return _multi_resolution(stages, p, config, from_layer)


def ssd_mobiledet(
    x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor, *, scope: str, architecture: MobileDet
) -> list[tf.Tensor]:
    """`architecture` is one of backbones/mobiledet.py, which ignores hyperparameters and min_depth of the config."""
    check_min_image_dim(x)
    if config.use_explicit_padding:
        raise ConfigError(
            f"feature_extractor: use_explicit_padding is not supported by {config.type}; remove it (the Object "
            "Detection API rejects it too)"
        )
    if architecture.squeeze_excite:
        check_known_size(x, config.type)
    p = p[scope]
    stages = mobiledet(
        pad_to_multiple(x, config.pad_to_multiple), p, architecture, depth_multiplier=config.depth_multiplier
    )
    return _multi_resolution(stages, p, config, ("C4", "C5"))


def ssd_pnasnet(x: tf.Tensor, p: Branch, config: messages.SsdFeatureExtractor) -> list[tf.Tensor]:
    """Ignores `depth_multiplier` and `min_depth`; the scope of the backbone is that of the whole extractor."""
    check_min_image_dim(x)
    check_known_size(x, config.type)
    layers = _pnasnet_layers(config) if config.override_base_feature_extractor_hyperparams else LAYERS
    stages = pnasnet_large(pad_to_multiple(x, config.pad_to_multiple), p, last_cell=11, layers=layers)
    return _multi_resolution(stages, p["SSD_feature_maps"], config, ("Cell_7", "Cell_11"))


def _pnasnet_layers(config: messages.SsdFeatureExtractor) -> Layers:
    """Returns layers with the config's hyperparameters, where convolution and normalization stay separate layers."""
    norm = batch_norm(config.conv_hyperparams, "feature_extractor.conv_hyperparams")
    return Layers(replace(extractor_style(config), biases=False), LAYERS.norm if norm is None else norm)


def _multi_resolution(
    stages: dict[str, tf.Tensor], p: Branch, config: messages.SsdFeatureExtractor, base: tuple[str, ...]
) -> list[tf.Tensor]:
    """Returns stages of the backbone and the maps that the neck adds, six in all; `num_layers` limits their number."""
    layers = config.num_layers
    return multi_resolution_feature_maps(
        stages,
        p,
        from_layer=(*base, "", "", "", "")[: min(layers, 6)],
        layer_depth=(-1, -1, -1 if len(base) == 3 else 512, 512 if len(base) == 3 else 256, 256, 128)[:layers],
        depth_multiplier=config.depth_multiplier,
        min_depth=config.min_depth,
        use_depthwise=config.use_depthwise,
        use_explicit_padding=config.use_explicit_padding,
        style=extractor_style(config),
    )


def _check_embedded(x: tf.Tensor, config: messages.SsdFeatureExtractor) -> None:
    if config.pad_to_multiple != 1:
        raise ConfigError(
            f"feature_extractor: pad_to_multiple is {config.pad_to_multiple}, which is not supported by {config.type}; "
            "remove it (the Object Detection API rejects it too)"
        )
    check_known_size(x, config.type)
    height, width = x.shape[1:3]
    if (height, width) != (256, 256):
        raise ConfigError(
            f"image_resizer: {config.type} needs images of 256 x 256 (it gets {height} x {width}); change the size "
            "(the Object Detection API rejects it too)"
        )


def _require_override(config: messages.SsdFeatureExtractor) -> None:
    """Raises ConfigError if the field is false. Configs from before it existed lack it, and meant true."""
    override = "override_base_feature_extractor_hyperparams"
    if config.HasField(override) and not config.override_base_feature_extractor_hyperparams:
        raise ConfigError(
            f"feature_extractor: {config.type} needs override_base_feature_extractor_hyperparams: true, since it has "
            "no hyperparameters of its own; set it (the Object Detection API requires it too)"
        )
