"""DeepMAC: predicts a mask for any box from embeddings of each pixel and of the center of the box.

Source: object_detection/meta_architectures/deepmac_meta_arch.py; paper arXiv:2104.00613.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.crops import matmul_crop_and_resize
from unfreeze.ops.keras_layers import conv
from unfreeze.ops.sizes import image_size


@dataclass(frozen=True)
class DeepMask:
    """The options of a `DeepMACMaskEstimation` message, under its names, and the network of its `network_type`.

    `network`: `[R, h, w, C]`, weights -> `[R, h, w, c]`. Without a network, the pixels are multiplied by the instance
    embedding, or pass through `conditional_depth` convolutions of `num_init_channels` whose weights it contains.
    """

    network: Callable[[tf.Tensor, Branch], tf.Tensor] | None
    conditional_depth: int = 0
    mask_size: int = 32
    use_xy: bool = True
    use_instance_embedding: bool = True
    num_init_channels: int = 64
    predict_full_resolution_masks: bool = False
    postprocess_crop_size: int = 256


def deep_masks(
    pixel_embedding: tf.Tensor, instance_embedding: tf.Tensor, boxes: tf.Tensor, p: Branch, head: DeepMask, stride: int
) -> tf.Tensor:
    """`[N, H, W, e], [N, H, W, E], [N, D, 4] -> [N, D, size, size]`: probabilities in boxes relative to the map.

    `size` is `mask_size`, or `postprocess_crop_size` if masks of the whole image are predicted and then cropped.
    """
    num_boxes = tf.shape(boxes)[1]
    rows = tf.reshape(boxes, [-1, 4])
    images = tf.repeat(tf.range(tf.shape(boxes)[0]), num_boxes)
    pixels = _pixels(pixel_embedding, rows, images, head)
    logits = _logits(pixels, _at_centers(instance_embedding, rows, images), p, head)
    if head.predict_full_resolution_masks:
        logits = _cropped(logits, rows, num_boxes, head.postprocess_crop_size, stride)
    return tf.sigmoid(tf.reshape(logits, [-1, num_boxes, *logits.shape[1:]]))


def _pixels(pixel_embedding: tf.Tensor, rows: tf.Tensor, images: tf.Tensor, head: DeepMask) -> tf.Tensor:
    """`[N, H, W, e], [R, 4], [R] -> [R, h, w, e (+ 2)]`: the pixels of each box, with coordinates (y, x) in front."""
    if head.predict_full_resolution_masks:
        pixels = tf.gather(pixel_embedding, images)
        low, size = 0.0, image_size(pixel_embedding)
    else:
        pixels = matmul_crop_and_resize(pixel_embedding, rows, images, (head.mask_size, head.mask_size))
        low, size = -1.0, (head.mask_size, head.mask_size)
    if not head.use_xy:
        return pixels
    grid = tf.meshgrid(*(tf.linspace(low, 1.0, length) for length in size), indexing="ij")
    coordinates = tf.tile(tf.stack(grid, axis=2)[tf.newaxis], [tf.shape(rows)[0], 1, 1, 1])
    if head.predict_full_resolution_masks:
        coordinates -= ((rows[:, :2] + rows[:, 2:]) / 2.0)[:, tf.newaxis, tf.newaxis]
    return tf.concat([coordinates, pixels], axis=3)


def _at_centers(instance_embedding: tf.Tensor, rows: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, E], [R, 4], [R] -> [R, E]`; a center on the lower or right edge belongs to the last pixel."""
    size = tf.stack(image_size(instance_embedding))
    centers = tf.cast((rows[:, :2] + rows[:, 2:]) * tf.cast(size, tf.float32) / 2.0, tf.int32)
    centers = tf.maximum(tf.minimum(centers, size - 1), 0)
    return tf.gather_nd(instance_embedding, tf.concat([images[:, tf.newaxis], centers], axis=1))


def _logits(pixels: tf.Tensor, instances: tf.Tensor, p: Branch, head: DeepMask) -> tf.Tensor:
    """`[R, h, w, C], [R, E] -> [R, h, w]`."""
    if head.network is None:
        if not head.conditional_depth:
            return tf.reduce_sum(pixels * instances[:, tf.newaxis, tf.newaxis], axis=3)
        return _conditional_convs(pixels, instances, head.num_init_channels, head.conditional_depth)
    if head.use_instance_embedding:
        height, width = image_size(pixels)
        everywhere = tf.tile(instances[:, tf.newaxis, tf.newaxis], [1, height, width, 1])
        pixels = tf.concat([pixels, everywhere], axis=3)
    return conv(head.network(pixels, p["_net"]), p["project_out"], 1)[..., 0]


def _conditional_convs(pixels: tf.Tensor, instances: tf.Tensor, channels: int, depth: int) -> tf.Tensor:
    """`[R, h, w, C], [R, E] -> [R, h, w]`: 1 x 1 convolutions whose weights are in the embedding."""
    start = 0
    for i in range(depth):
        filters = 1 if i == depth - 1 else channels
        inputs = pixels.shape[3]
        kernel = tf.reshape(instances[:, start : start + inputs * filters], [-1, 1, inputs, filters])
        start += inputs * filters
        bias = instances[:, start : start + filters]
        start += filters
        pixels = tf.matmul(pixels, kernel) + bias[:, tf.newaxis, tf.newaxis]
        if i < depth - 1:
            pixels = tf.nn.relu(pixels)
    return pixels[..., 0]


def _cropped(logits: tf.Tensor, rows: tf.Tensor, num_boxes: tf.Tensor, crop_size: int, stride: int) -> tf.Tensor:
    """`[R, H, W], [R, 4] -> [R, crop_size, crop_size]`.

    The Object Detection API confuses dimensions: the image that it resizes to first has the number of boxes as its
    height and the height as its width. The crops depend on that.
    """
    resized = tf.image.resize(logits[..., tf.newaxis], [num_boxes * stride, tf.shape(logits)[1] * stride], "bilinear")
    return matmul_crop_and_resize(resized, rows, tf.range(tf.shape(rows)[0]), (crop_size, crop_size))[..., 0]
