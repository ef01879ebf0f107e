"""The feature maps of SSD: some stages of the backbone, then smaller maps computed from the last one.

Source: object_detection/models/feature_map_generators.py, multi_resolution_feature_maps and
KerasMultiResolutionFeatureMaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from unfreeze.ops.branch import Branch, Renames
from unfreeze.ops.layers import Style, conv, depthwise_conv, fixed_padding


def multi_resolution_feature_maps(
    stages: Mapping[str, tf.Tensor],
    p: Branch,
    *,
    from_layer: Sequence[str],
    layer_depth: Sequence[int],
    depth_multiplier: float,
    min_depth: int,
    use_depthwise: bool = False,
    use_explicit_padding: bool = False,
    conv_kernel_size: Sequence[int] | None = None,
    insert_1x1_conv: bool = True,
    pool_residual: bool = False,
    style: Style,
) -> list[tf.Tensor]:
    """`stages -> L x [N, h, w, C]`: each name in `from_layer` is a stage; an empty name halves the map before it."""
    feature_maps: list[tf.Tensor] = []
    base = ""
    padding = "VALID" if use_explicit_padding else "SAME"

    def depth(filters: int) -> int:
        return max(int(filters * depth_multiplier), min_depth)

    for i, (name, filters) in enumerate(zip(from_layer, layer_depth, strict=True)):
        if name:
            base = name
            feature_maps.append(stages[name])
            continue
        before = x = feature_maps[-1]
        size = 3 if conv_kernel_size is None else conv_kernel_size[i]
        if insert_1x1_conv:
            x = conv(x, p[f"{base}_1_Conv2d_{i}_1x1_{depth(filters // 2)}"], depth(filters // 2), 1, style=style)
        scope = f"{base}_2_Conv2d_{i}_{size}x{size}_s2_{depth(filters)}"
        if use_explicit_padding:
            x = fixed_padding(x, size)
        if use_depthwise:
            x = depthwise_conv(x, p[scope + "_depthwise"], size, stride=2, padding=padding, style=style)
            x = conv(x, p[scope], depth(filters), 1, style=style)
            if pool_residual and before.shape[3] == depth(filters):
                # In the Object Detection API only the depthwise form has the residual.
                before = fixed_padding(before, size) if use_explicit_padding else before
                x = x + tf.nn.avg_pool2d(before, size, 2, padding)
        else:
            x = conv(x, p[scope], depth(filters), size, stride=2, padding=padding, style=style)
        feature_maps.append(x)
    return feature_maps


def keras_names(use_depthwise: bool, use_explicit_padding: bool) -> Renames:
    """Returns the names of these layers in the Keras model: in lists of layers that include layers without weights."""
    first = 4 if use_explicit_padding else 3  # after the 1 x 1 convolution, its normalization and activation
    last = first + 3 if use_depthwise else first
    return (
        (r"^.*_1_Conv2d_(\d+)_1x1_\d+/BatchNorm(?=/)", r"convolutions/\1/1"),
        (r"^.*_1_Conv2d_(\d+)_1x1_\d+(?=/)", r"convolutions/\1/0"),
        (r"^.*_2_Conv2d_(\d+)_3x3_s2_\d+_depthwise/BatchNorm(?=/)", rf"convolutions/\1/{first + 1}"),
        (r"^.*_2_Conv2d_(\d+)_3x3_s2_\d+_depthwise(?=/)", rf"convolutions/\1/{first}"),
        (r"^.*_2_Conv2d_(\d+)_3x3_s2_\d+/BatchNorm(?=/)", rf"convolutions/\1/{last + 1}"),
        (r"^.*_2_Conv2d_(\d+)_3x3_s2_\d+(?=/)", rf"convolutions/\1/{last}"),
    )
