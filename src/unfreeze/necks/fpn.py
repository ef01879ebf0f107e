"""Feature pyramid network: coarse features are upsampled and added to finer ones; coarser levels follow on top.

Source: object_detection/models/feature_map_generators.py, fpn_top_down_feature_maps and KerasFpnTopDownFeatureMaps, and
the coarse features of models/ssd_{mobilenet_v1,mobilenet_v2,resnet_v1}_fpn{,_keras}_feature_extractor.py; paper
arXiv:1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from unfreeze.errors import ConfigError
from unfreeze.ops.branch import Branch, Renames
from unfreeze.ops.layers import Style, conv, fixed_padding, nearest_neighbor_upsampling, separable_conv


def fpn_top_down_feature_maps(
    image_features: Sequence[tf.Tensor],
    p: Branch,
    *,
    depth: int,
    use_depthwise: bool = False,
    use_explicit_padding: bool = False,
    upsamples_smoothed: bool = False,
    style: Style,
) -> list[tf.Tensor]:
    """`L x [N, h, w, C] -> L x [N, h, w, depth]`, the finest first; each has half the size of the one before it.

    Args:
        upsamples_smoothed: whether the next level gets the features after the 3 x 3 convolution, as in TensorFlow 2,
            or those before it.

    Raises:
        ConfigError: the sizes do not halve exactly, without explicit padding.
    """
    p = p.scoped("", operations="top_down")
    coarsest = len(image_features)
    top_down = conv(image_features[-1], p[f"projection_{coarsest}"], depth, 1)
    feature_maps = [top_down]
    for i, level in enumerate(range(coarsest - 1, 0, -1)):
        residual = conv(image_features[level - 1], p[f"projection_{level}"], depth, 1)
        top_down = nearest_neighbor_upsampling(top_down, 2)
        if use_explicit_padding:
            shape = tf.shape(residual)
            top_down = top_down[:, : shape[1], : shape[2], :]
        else:
            check_sizes(top_down, residual)
        add = p[f"add_{i}" if i else "add"]
        # TensorFlow before 1.15 calls the operation Add instead of AddV2.
        top_down = add.quantizer("activation_AddV2_quant", "activation_Add_quant")(top_down + residual)
        smoothed = _conv3x3(top_down, p[f"smoothing_{level}"], depth, 1, use_depthwise, use_explicit_padding, style)
        feature_maps.append(smoothed)
        top_down = smoothed if upsamples_smoothed else top_down
    return feature_maps[::-1]


def coarse_feature_maps(
    x: tf.Tensor,
    p: Branch,
    scopes: Sequence[str],
    *,
    depth: int,
    use_depthwise: bool = False,
    use_explicit_padding: bool = False,
    style: Style,
) -> list[tf.Tensor]:
    """`[N, H, W, C] -> [N, h, w, depth]` for each scope, each of half the size of the one before."""
    feature_maps = []
    for scope in scopes:
        x = _conv3x3(x, p[scope], depth, 2, use_depthwise, use_explicit_padding, style)
        feature_maps.append(x)
    return feature_maps


def keras_names(levels: int, use_explicit_padding: bool = False) -> Renames:
    """Returns the names in the Keras model of the layers of `fpn_top_down_feature_maps` with so many levels.

    They are in lists of layers that include layers without weights, the coarsest level first.
    """
    conv, norm = (1, 2) if use_explicit_padding else (0, 1)
    names = [(rf"^projection_{levels}(?=/)", "top_layers/0")]
    for i, level in enumerate(range(levels - 1, 0, -1)):
        names += [
            (rf"^projection_{level}(?=/)", f"residual_blocks/{i}/0"),
            (rf"^smoothing_{level}/BatchNorm(?=/)", f"conv_layers/{i}/{norm}"),
            (rf"^smoothing_{level}(?=/)", f"conv_layers/{i}/{conv}"),
        ]
    return names


def keras_coarse_names(use_explicit_padding: bool = False) -> Renames:
    """Returns the names in the Keras model of the layers of `coarse_feature_maps` whose scopes are numbers."""
    conv, norm = (1, 2) if use_explicit_padding else (0, 1)
    return ((r"^(\d+)/BatchNorm(?=/)", rf"\1/{norm}"), (r"^(\d+)/(?!\d+/)", rf"\1/{conv}/"))


def _conv3x3(
    x: tf.Tensor, p: Branch, depth: int, stride: int, use_depthwise: bool, use_explicit_padding: bool, style: Style
) -> tf.Tensor:
    layer = separable_conv if use_depthwise else conv
    x = fixed_padding(x, 3) if use_explicit_padding else x
    return layer(x, p, depth, 3, stride=stride, padding="VALID" if use_explicit_padding else "SAME", style=style)


def check_sizes(top_down: tf.Tensor, residual: tf.Tensor) -> None:
    """Raises ConfigError if the two maps cannot be added: their known sides must be equal, or one of them 1."""
    coarse, fine = tuple(top_down.shape[1:3]), tuple(residual.shape[1:3])
    if any(None not in sides and 1 not in sides and len(set(sides)) > 1 for sides in zip(coarse, fine, strict=True)):
        raise ConfigError(
            f"feature_extractor: the pyramid cannot add {fine[0]} x {fine[1]} features and upsampled {coarse[0]} x "
            f"{coarse[1]} features; use an image_resizer with a height and width that are multiples of 32, or set "
            "pad_to_multiple: 32"
        )
