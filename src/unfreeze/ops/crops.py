"""Crops of feature maps by boxes, for all images of a batch at once.

Source: object_detection/utils/{ops,spatial_transform_ops}.py. The Object Detection API loops over the images of a batch
for position-sensitive crops, and crops once for each of their bins.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from unfreeze.ops.sizes import Size, float32, image_size

Pair: TypeAlias = tuple[int, int]  # height, width
Crop: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, Pair], tf.Tensor]

PRETRAINED_SIDE = np.float32(224)  # side of the images on which backbones are pretrained

# glibc returns larger blocks to the system at once, and then each page costs a page fault again: 1 ms per MB of a
# tensor, more than computing its values. (malloc.c: DEFAULT_MMAP_THRESHOLD_MAX, less the overhead of TensorFlow and
# malloc.)
QUICKLY_ALLOCATED_BYTES = (32 << 20) - (64 << 10)


class Rows(NamedTuple):
    """The boxes of all images in one list of R rows, without repeated padding.

    `boxes` `[R, 4]`. `sources` `[R, 2]`: the image and index of each in the padded `[N, P]`. `places` `[N, P]`: the row
    of each padded box.
    """

    boxes: tf.Tensor
    sources: tf.Tensor
    places: tf.Tensor

    @property
    def images(self) -> tf.Tensor:
        """`[R]`: the image of each row."""
        return self.sources[:, 0]

    def of(self, values: tf.Tensor) -> tf.Tensor:
        """`[N, P, ...] -> [R, ...]`: the values of the rows."""
        return tf.gather_nd(values, self.sources)

    def padded(self, values: tf.Tensor) -> tf.Tensor:
        """`[R, ...] -> [N, P, ...]`: the values of the padded boxes."""
        return tf.gather(values, self.places)


def distinct_rows(boxes: tf.Tensor, empty: tf.Tensor) -> Rows:
    """Boxes `[N, P, 4]` -> `Rows`. The last boxes of an image are `empty` `[N, P]` and equal: they share one row."""
    num_padded = tf.shape(empty)[1]
    kept = tf.minimum(tf.reduce_sum(tf.cast(~empty, tf.int32), axis=1) + 1, num_padded)
    end = tf.cumsum(kept)
    sources = tf.cast(tf.where(tf.range(num_padded) < kept[:, tf.newaxis]), tf.int32)
    places = tf.minimum((end - kept)[:, tf.newaxis] + tf.range(num_padded), end[:, tf.newaxis] - 1)
    return Rows(tf.gather_nd(boxes, sources), sources, places)


def in_parts(call: Callable[..., Any], arguments: tuple[tf.Tensor, ...], most: int, outputs: Any) -> Any:
    """Returns `call(*arguments)`, from `[R, ...]` to `[R, ...]`, computed in parts of about equal size, `most` at most.

    `outputs`: the specs of its results, a `tf.TensorSpec` or a structure of them. Without parts, crops could take
    hundreds of MB; parts stay in the cache and reuse their memory.
    """
    length = tf.shape(arguments[0])[0]
    num_parts = tf.maximum((length + (most - 1)) // most, 1)
    specs = tf.nest.flatten(outputs)
    parts = [tf.TensorArray(spec.dtype, num_parts, element_shape=spec.shape, infer_shape=False) for spec in specs]

    def step(i: tf.Tensor, *parts: tf.TensorArray) -> tuple[Any, ...]:
        rows = slice(i * length // num_parts, (i + 1) * length // num_parts)
        results = tf.nest.flatten(call(*(argument[rows] for argument in arguments)))
        return (i + 1, *(part.write(i, result) for part, result in zip(parts, results, strict=True)))

    _, *parts = tf.while_loop(lambda i, *_: i < num_parts, step, (0, *parts), parallel_iterations=1)
    return tf.nest.pack_sequence_as(outputs, [part.concat() for part in parts])


def rows_at_once(*shape: int) -> int:
    """Returns how many rows of a float32 tensor `[R, *shape]` are allocated quickly."""
    return max(1, QUICKLY_ALLOCATED_BYTES // (4 * math.prod(shape)))


def crop_and_resize(features: tf.Tensor, boxes: tf.Tensor, images: tf.Tensor, crop_size: Pair) -> tf.Tensor:
    """`[N, H, W, C], [R, 4], [R] -> [R, *crop_size, C]`: sampled so that the corners of box and crop coincide.

    A box of (0, 0, 1, 1) extends from the center of the first pixel to that of the last; samples beyond these are 0.
    The last samples of a box that ends at 1 may be rounded to beyond it, as in the Object Detection API.
    """
    return tf.image.crop_and_resize(features, boxes, images, crop_size)


def matmul_crop_and_resize(features: tf.Tensor, boxes: tf.Tensor, images: tf.Tensor, crop_size: Pair) -> tf.Tensor:
    """`[N, H, W, C], [R, 4], [R] -> [R, *crop_size, C]`: the same, but beyond the last centers samples fade to 0.

    That is a crop of the features padded with zeros. (The Object Detection API gathers the four neighbors of each
    sample.)
    """
    frame = tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]])
    height, width = image_size(features)
    last = tf.cast(tf.stack([height - 1, width - 1, height - 1, width - 1]), tf.float32)
    return tf.image.crop_and_resize(frame, (boxes * last + 1.0) / (last + 2.0), images, crop_size)


def multilevel_crops(
    features: Sequence[tf.Tensor], boxes: tf.Tensor, images: tf.Tensor, crop_size: Pair, image: Size, crop: Crop
) -> tf.Tensor:
    """`L x [N, h, w, C], [R, 4], [R] -> [R, *crop_size, C]`: each box from the map of the level for its area.

    `image` is the size of the padded images. (The Object Detection API crops every box from every map, or pads the maps
    to the size of the largest.)
    """
    if len(features) == 1:
        return crop(features[0], boxes, images, crop_size)
    rows = tf.dynamic_partition(tf.range(tf.shape(boxes)[0]), fpn_levels(boxes, len(features), image), len(features))
    crops = [
        crop(feature_map, tf.gather(boxes, of_level), tf.gather(images, of_level), crop_size)
        for feature_map, of_level in zip(features, rows, strict=True)
    ]
    return tf.dynamic_stitch(rows, crops)


def fpn_levels(boxes: tf.Tensor, num_levels: int, image: Size) -> tf.Tensor:
    """`[R, 4] -> [R]`: the level (0 is the finest) for the area of each box; at 224 pixels the last but one.

    Source: object_detection/utils/ops.py, fpn_feature_levels; paper arXiv:1612.03144, 4.2.
    """
    image_ratio = tf.sqrt(float32(image[0] * image[1])) / PRETRAINED_SIDE
    sides = boxes[:, 2:] - boxes[:, :2]
    octaves = tf.math.log(tf.sqrt(sides[:, 0] * sides[:, 1]) * image_ratio) // np.float32(math.log(2.0))
    # The logarithm of an empty box is -inf, so it is cropped from the finest map.
    return tf.cast(tf.clip_by_value(octaves + (num_levels - 2.0), 0.0, num_levels - 1.0), tf.int32)


def position_sensitive_crops(
    features: tf.Tensor, boxes: tf.Tensor, images: tf.Tensor, crop_size: Pair, num_spatial_bins: Pair
) -> tf.Tensor:
    """`[N, H, W, bins * C], [R, 4], [R] -> [R, C]`: the mean of each bin of a box in its own channels, then of bins.

    Bins are ordered row by row, in boxes and in channels: C channels of the first bin, C of the second, and so on.
    `crop_size`, a multiple of `num_spatial_bins`, is that of the whole box; both are (height, width).
    """
    bins = num_spatial_bins[0] * num_spatial_bins[1]
    bin_size = (crop_size[0] // num_spatial_bins[0], crop_size[1] // num_spatial_bins[1])
    channels, size = features.shape[3] // bins, image_size(features)
    by_bin = tf.transpose(tf.reshape(features, [-1, *size, bins, channels]), [0, 3, 1, 2, 4])
    by_bin = tf.reshape(by_bin, [-1, *size, channels])
    # The Object Detection API chooses by whether the size is known when the graph is built, too.
    crop = crop_and_resize if any(map(tf.is_tensor, size)) else matmul_crop_and_resize
    images = tf.reshape(images[:, tf.newaxis] * bins + tf.range(bins), [-1])
    crops = crop(by_bin, tf.reshape(_bin_boxes(boxes, *num_spatial_bins), [-1, 4]), images, bin_size)
    # The means are in the order of the Object Detection API, so that near-ties between classes break alike.
    return tf.reduce_mean(tf.reduce_mean(tf.reshape(crops, [-1, bins, *bin_size, channels]), 1), [1, 2])


def _bin_boxes(boxes: tf.Tensor, bins_y: int, bins_x: int) -> tf.Tensor:
    """`[R, 4] -> [R, bins_y * bins_x, 4]`: the boxes of the bins, row by row."""
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=1)
    step_y, step_x = (ymax - ymin) / bins_y, (xmax - xmin) / bins_x
    corners = [
        tf.stack([ymin + y * step_y, xmin + x * step_x, ymin + (y + 1) * step_y, xmin + (x + 1) * step_x], axis=1)
        for y in range(bins_y)
        for x in range(bins_x)
    ]
    return tf.stack(corners, axis=1)
