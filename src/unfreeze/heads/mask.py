"""The masks of the third stage of Mask R-CNN, from the features of each detection.

Source: object_detection/predictors/heads/mask_head.py (MaskRCNNMaskHead).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import tensorflow as tf

from unfreeze.errors import ConfigError
from unfreeze.ops.branch import Branch
from unfreeze.ops.images import resize
from unfreeze.ops.layers import PLAIN, Style, conv, resized_conv


@dataclass(frozen=True)
class MaskPredictor:
    """The options of a `mask_rcnn_box_predictor` for its masks, under the config's names."""

    num_classes: int
    style: Style
    mask_height: int = 15
    mask_width: int = 15
    mask_prediction_conv_depth: int = 256
    mask_prediction_num_conv_layers: int = 2
    masks_are_class_agnostic: bool = False
    convolve_then_upsample_masks: bool = False


def mask_predictor(x: tf.Tensor, classes: tf.Tensor, p: Branch, options: MaskPredictor) -> tf.Tensor:
    """`[R, h, w, C], [R] -> [R, mask_height, mask_width]`: the logits of the mask of each row's class (from 0)."""
    x, last = _features(x, p, options)
    if options.masks_are_class_agnostic:
        return conv(x, last, 1, 3, style=PLAIN)[..., 0]
    return _mask_of_class(x, classes, last, options.num_classes)


def all_masks(x: tf.Tensor, p: Branch, options: MaskPredictor) -> tf.Tensor:
    """`[R, h, w, C] -> [R, k, mask_height, mask_width]`: logits for every class, or one mask for all classes."""
    x, last = _features(x, p, options)
    masks = conv(x, last, 1 if options.masks_are_class_agnostic else options.num_classes, 3, style=PLAIN)
    return tf.transpose(masks, [0, 3, 1, 2])


def _features(x: tf.Tensor, p: Branch, options: MaskPredictor) -> tuple[tf.Tensor, Branch]:
    """`[R, h, w, C] -> [R, H, W, c]`, and the weights of the last layer, which predicts masks from them."""
    depth = options.mask_prediction_conv_depth or conv_depth(x.shape[3], options.num_classes)
    layers = options.mask_prediction_num_conv_layers - 1
    # slim numbers convolutions without a scope.
    scopes = (p["Conv" if i == 0 else f"Conv_{i}"] for i in itertools.count())
    if not options.convolve_then_upsample_masks:
        size = (options.mask_height, options.mask_width)
        if layers < 1:
            x = resize(x, size, resize_method="BILINEAR", align_corners=True)
        else:
            x = resized_conv(x, next(scopes), depth, size, style=options.style)
            layers -= 1
    for _ in range(layers):
        x = conv(x, next(scopes), depth, 3, style=options.style)
    if options.convolve_then_upsample_masks:
        x = conv(_upsampled(x, options), next(scopes), depth, 3, style=options.style)
    return x, next(scopes)


def _mask_of_class(x: tf.Tensor, classes: tf.Tensor, p: Branch, num_classes: int) -> tf.Tensor:
    """`[R, H, W, C], [R] -> [R, H, W]`: a 3 x 3 convolution with only the filter of each row's class.

    (The Object Detection API computes the masks of all classes, and then selects one.)
    """
    height, width, channels = x.shape[1:]
    kernels = tf.transpose(p.weight("weights", [3, 3, channels, num_classes]), [3, 2, 0, 1])
    kernels = tf.gather(tf.reshape(kernels, [num_classes, channels, 9]), classes)
    taps = tf.reshape(tf.matmul(tf.reshape(x, [-1, height * width, channels]), kernels), [-1, height, width, 3, 3])
    taps = tf.pad(taps, [[0, 0], [1, 1], [1, 1], [0, 0], [0, 0]])
    masks = tf.add_n([taps[:, i : i + height, j : j + width, i, j] for i in range(3) for j in range(3)])
    return masks + tf.gather(p.weight("biases", [num_classes]), classes)[:, tf.newaxis, tf.newaxis]


def _upsampled(x: tf.Tensor, options: MaskPredictor) -> tf.Tensor:
    """`[R, h, w, C] -> [R, H, W, C]`: upsampled by whole factors; the result may be smaller than the mask size."""
    times = options.mask_height // x.shape[1], options.mask_width // x.shape[2]
    if min(times) < 1:
        raise ConfigError(
            f"mask_rcnn_box_predictor: masks of {options.mask_height} x {options.mask_width} are smaller than the "
            f"features ({x.shape[1]} x {x.shape[2]}), which convolve_then_upsample_masks does not support; increase "
            "mask_height and mask_width"
        )
    return tf.repeat(tf.repeat(x, times[0], axis=1), times[1], axis=2)


def conv_depth(channels: int, num_classes: int) -> int:
    """Returns the depth for `mask_prediction_conv_depth: 0`: a power of two between features and classes."""
    return int(2 ** round((2.0 * math.log(channels, 2.0) + 3.0 * math.log(num_classes, 2.0)) / 5.0))
