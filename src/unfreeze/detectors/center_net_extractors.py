"""CENTER_NET_EXTRACTORS: a row for each `feature_extractor.type` of CenterNet, the config's word first.

Source: object_detection/builders/model_builder.py (CENTER_NET_EXTRACTOR_FUNCTION_MAP),
models/center_net_*_feature_extractor.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import tensorflow as tf

from unfreeze.backbones import hourglass as hourglasses
from unfreeze.backbones import keras_resnet as resnets
from unfreeze.backbones import mobilenet_v2 as mobilenet
from unfreeze.config import messages
from unfreeze.detectors.normalizations import CHANNEL_MEANS
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.necks.center import UPSAMPLINGS, deconvolutions, top_down
from unfreeze.ops.branch import Branch

STRIDE = 4  # the stride of the maps of every extractor

# Filters of the maps at strides 32, 16, 8 and 4.
RESNET_TOP_DOWN = (256, 256, 128, 64)
MOBILENET_TOP_DOWN = (64, 64, 32, 24)
MOBILENET_STAGES = ("layer_4", "layer_7", "layer_11", "layer_19")  # at strides 4 to 32

Normalize = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class CenterNetExtractor:
    """A row of CENTER_NET_EXTRACTORS."""

    features: Callable[
        [tf.Tensor, Branch, messages.CenterNetFeatureExtractor], list[tf.Tensor]
    ]  # preprocessed images, weights, message -> maps
    normalize: Normalize = tf.identity  # applied after channel_means and channel_stds


def normalization(config: messages.CenterNetFeatureExtractor, extractor: CenterNetExtractor) -> Normalize:
    """Returns the normalization of pixels 0..255 for a `CenterNetFeatureExtractor` message and its network.

    It is a function `[N, H, W, C] -> [N, H, W, 3]`.

    Raises:
        ConfigError: channel_means or channel_stds have neither one value nor three, or a std is 0.
    """
    means = tuple(config.channel_means) or (0.0, 0.0, 0.0)
    stds = tuple(config.channel_stds) or (1.0, 1.0, 1.0)
    for field, values in (("channel_means", means), ("channel_stds", stds)):
        if len(values) not in (1, 3):
            raise ConfigError(f"feature_extractor: {field} has {len(values)} values; set 3, for red, green and blue")
    if 0 in stds:
        raise ConfigError(
            "feature_extractor: channel_stds contains 0, by which pixels would be divided; set positive values"
        )

    def normalize(images: tf.Tensor) -> tf.Tensor:
        if config.bgr_ordering:
            images = images[..., ::-1]
        return extractor.normalize((images - tf.constant(means)) / tf.constant(stds))

    return normalize


def _hourglass(
    x: tf.Tensor, p: Branch, config: messages.CenterNetFeatureExtractor, *, network: hourglasses.Hourglass
) -> list[tf.Tensor]:
    return hourglasses.hourglass(x, p["_network"], network)


def _resnet_v1_fpn(
    x: tf.Tensor, p: Branch, config: messages.CenterNetFeatureExtractor, *, units: str
) -> list[tf.Tensor]:
    backbone = resnets.basic_resnet if units in ("resnet18", "resnet34") else resnets.resnet_v1_with_biases
    stages = backbone(x, p["_base_model"], resnets.UNITS[units])
    return [top_down(list(stages.values()), p["_feature_extractor_model"], RESNET_TOP_DOWN)]


def _resnet_v2(x: tf.Tensor, p: Branch, config: messages.CenterNetFeatureExtractor, *, units: str) -> list[tf.Tensor]:
    x = resnets.resnet_v2(x, p["_base_model"], resnets.UNITS[units])
    return [deconvolutions(x, p["_feature_extractor_model"], kernel_size=3)]


def _mobilenet_v2(x: tf.Tensor, p: Branch, config: messages.CenterNetFeatureExtractor) -> list[tf.Tensor]:
    p = p["_network"]
    x = _mobilenet_stages(x, p["layer_with_weights-0"], config)["layer_19"]
    return [deconvolutions(x, p, kernel_size=1)]


def _mobilenet_v2_fpn(
    x: tf.Tensor, p: Branch, config: messages.CenterNetFeatureExtractor, *, separable: bool = False
) -> list[tf.Tensor]:
    """`separable` follows from the type; the Object Detection API reads it only if use_separable_conv is set at all."""
    interpolation = config.upsampling_interpolation
    if interpolation not in UPSAMPLINGS:
        raise UnsupportedError(
            f"not supported yet: feature_extractor: upsampling_interpolation {interpolation!r}; supported: "
            f"{', '.join(UPSAMPLINGS)}"
        )
    stages = _mobilenet_stages(x, p["_base_model"], config)
    neck = top_down(
        [stages[name] for name in MOBILENET_STAGES],
        p["_feature_extractor_model"],
        MOBILENET_TOP_DOWN,
        use_separable_conv=config.HasField("use_separable_conv") and (config.use_separable_conv or separable),
        upsampling_interpolation=interpolation,
    )
    return [neck]


def _mobilenet_stages(x: tf.Tensor, p: Branch, config: messages.CenterNetFeatureExtractor) -> dict[str, tf.Tensor]:
    """Returns the stages of MobileNet v2, whose last layer a `depth_multiplier` above 1 does not widen."""
    alpha = config.depth_multiplier
    blocks = [
        (expansion, mobilenet.divisible(int(filters * alpha)), stride)
        for expansion, filters, stride in mobilenet.BLOCKS
    ]
    return mobilenet.mobilenet_v2(
        x,
        p.renamed(mobilenet.KERAS_NAMES),
        stem_filters=mobilenet.divisible(mobilenet.STEM_FILTERS * alpha),
        blocks=tuple(blocks),
        top_filters=mobilenet.divisible(mobilenet.TOP_FILTERS * min(alpha, 1.0)),
        widths=mobilenet.KERAS_WIDTHS,
        style=replace(mobilenet.STYLE, biases=False, biases_before_norm=False),
    )


def _blue_first(x: tf.Tensor) -> tf.Tensor:
    """Returns blue, green, red minus their means: the input of Keras's ResNet v1 (mode "caffe")."""
    return x[..., ::-1] - tf.constant(CHANNEL_MEANS[::-1])


def _unit_range(x: tf.Tensor) -> tf.Tensor:
    """Returns 0..255 as -1..1, in the order of operations of Keras (mode "tf")."""
    return x / 127.5 - 1.0


def _hourglass_extractor(name: str, num_channels: int) -> CenterNetExtractor:
    return CenterNetExtractor(partial(_hourglass, network=hourglasses.hourglass_of(name, num_channels)))


CENTER_NET_EXTRACTORS: dict[str, CenterNetExtractor] = {
    "resnet_v2_50": CenterNetExtractor(partial(_resnet_v2, units="resnet50"), _unit_range),
    "resnet_v2_101": CenterNetExtractor(partial(_resnet_v2, units="resnet101"), _unit_range),
    "resnet_v1_18_fpn": CenterNetExtractor(partial(_resnet_v1_fpn, units="resnet18"), _blue_first),
    "resnet_v1_34_fpn": CenterNetExtractor(partial(_resnet_v1_fpn, units="resnet34"), _blue_first),
    "resnet_v1_50_fpn": CenterNetExtractor(partial(_resnet_v1_fpn, units="resnet50"), _blue_first),
    "resnet_v1_101_fpn": CenterNetExtractor(partial(_resnet_v1_fpn, units="resnet101"), _blue_first),
    "hourglass_10": _hourglass_extractor("hourglass_10", 32),
    "hourglass_20": _hourglass_extractor("hourglass_20", 48),
    "hourglass_32": _hourglass_extractor("hourglass_32", 48),
    "hourglass_52": _hourglass_extractor("hourglass_52", 64),
    "hourglass_104": CenterNetExtractor(partial(_hourglass, network=hourglasses.HOURGLASS_104)),
    "mobilenet_v2": CenterNetExtractor(_mobilenet_v2, _unit_range),
    "mobilenet_v2_fpn": CenterNetExtractor(_mobilenet_v2_fpn, _unit_range),
    "mobilenet_v2_fpn_sep_conv": CenterNetExtractor(partial(_mobilenet_v2_fpn, separable=True), _unit_range),
}
