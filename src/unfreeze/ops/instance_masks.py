"""Masks of boxes, cropped from a map of the whole image; with DensePose also parts and surface coordinates.

Source: object_detection/meta_architectures/center_net_meta_arch.py (convert_strided_predictions_to_instance_masks).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from unfreeze.ops.crops import Pair, crop_and_resize
from unfreeze.ops.sizes import image_size


class Surfaces(NamedTuple):
    """The predictions of DensePose for P parts: `part_heatmap` [N, H, W, P], `coordinates` [N, H, W, 2 * P] (v, u)."""

    part_heatmap: tf.Tensor
    coordinates: tf.Tensor


def boxes_in_map(boxes: tf.Tensor, feature_map: tf.Tensor, stride: int, true_shapes: tf.Tensor) -> tf.Tensor:
    """`[N, D, 4] -> [N, D, 4]`: from boxes relative to the true image to boxes relative to the padded image."""
    padded = tf.cast(tf.stack(image_size(feature_map)) * stride, tf.float32)
    fraction = tf.cast(true_shapes[:, :2], tf.float32) / padded
    return boxes * tf.tile(fraction, [1, 2])[:, tf.newaxis]


def instance_masks(
    masks: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor, mask_size: Pair, score_threshold: float
) -> tf.Tensor:
    """`[N, H, W, C], [N, D, 4], [N, D] int32 -> [N, D, *mask_size]`: 1 where the class reaches the threshold."""
    height, width = image_size(masks)
    num_classes, num_boxes = masks.shape[3], tf.shape(boxes)[1]
    by_class = tf.reshape(tf.transpose(masks, [0, 3, 1, 2]), [-1, height, width, 1])
    which = tf.range(tf.shape(masks)[0])[:, tf.newaxis] * num_classes + classes
    crops = crop_and_resize(by_class, tf.reshape(boxes, [-1, 4]), tf.reshape(which, [-1]), mask_size)
    binary = tf.cast(crops >= np.float32(score_threshold), tf.float32)
    return tf.reshape(binary, [-1, num_boxes, *mask_size])


def surface_coordinates(
    masks: tf.Tensor, surfaces: Surfaces, boxes: tf.Tensor, of_class: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`[N, D, h, w], _, [N, D, 4], [N, D] bool -> [N, D, h, w], [N, D, h, w, 2]`.

    Where a mask of that class is 1, it becomes the number of the most likely part, from 1, and the coordinates (v, u)
    are those of that part; elsewhere they are 0. Boxes are processed one by one, since the maps of all parts of all
    boxes would take gigabytes.
    """
    num_parts = surfaces.part_heatmap.shape[3]
    shape = tf.shape(masks)
    mask_size: Pair = (masks.shape[2], masks.shape[3])
    maps = tf.concat([surfaces.part_heatmap, surfaces.coordinates], axis=3)

    def surface_of_box(elements: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        box, image = elements
        crop = crop_and_resize(maps, box[tf.newaxis], image[tf.newaxis], mask_size)[0]
        part = tf.argmax(crop[..., :num_parts], axis=-1, output_type=tf.int32)
        coordinates = tf.reshape(crop[..., num_parts:], [*mask_size, num_parts, 2])
        return tf.cast(part + 1, tf.float32), tf.gather(coordinates, part, batch_dims=2)

    images = tf.repeat(tf.range(shape[0]), shape[1])
    signature = (tf.TensorSpec(mask_size), tf.TensorSpec([*mask_size, 2]))
    parts, coordinates = tf.map_fn(
        surface_of_box, (tf.reshape(boxes, [-1, 4]), images), fn_output_signature=signature, parallel_iterations=2
    )
    inside = masks * tf.cast(of_class, tf.float32)[..., tf.newaxis, tf.newaxis]
    numbered = masks - inside + inside * tf.reshape(parts, shape)
    coordinates = tf.reshape(coordinates, [shape[0], shape[1], *mask_size, 2])
    return numbered, coordinates * inside[..., tf.newaxis]
