"""Peaks of heatmaps, and values of other maps at these peaks.

Source: object_detection/meta_architectures/center_net_meta_arch.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from unfreeze.ops.sizes import Length, Size, image_size, smaller

PEAK_EPSILON = np.float32(1e-6)  # a value that is this close to the highest value around it is a peak, too


@dataclass(frozen=True)
class SparseMap:
    """A map `[N, *size, channels]` that is computed only at the locations that are used.

    `at`: locations `[N, ..., 2]` int32, (y, x) within the map -> values `[N, ..., channels]`.
    """

    size: Size
    channels: int
    at: Callable[[tf.Tensor], tf.Tensor]


FeatureMap: TypeAlias = tf.Tensor | SparseMap


def values_at(feature_map: FeatureMap, locations: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C], [N, ..., 2] -> [N, ..., C]`: the values of the map at locations (y, x)."""
    if isinstance(feature_map, SparseMap):
        return feature_map.at(locations)
    return tf.gather_nd(feature_map, locations, batch_dims=1)


def map_size(feature_map: FeatureMap) -> Size:
    """Returns the height and width of a map."""
    return feature_map.size if isinstance(feature_map, SparseMap) else image_size(feature_map)


def num_channels(feature_map: FeatureMap) -> int:
    """Returns the number of channels of a map."""
    return feature_map.channels if isinstance(feature_map, SparseMap) else feature_map.shape[3]


class Peaks(NamedTuple):
    """The D highest peaks of each image, best first: `scores` [N, D] float32; `y`, `x`, `channels` [N, D] int32."""

    scores: tf.Tensor
    y: tf.Tensor
    x: tf.Tensor
    channels: tf.Tensor

    @property
    def locations(self) -> tf.Tensor:
        """`[N, D, 2]` int32: (y, x)."""
        return tf.stack([self.y, self.x], axis=-1)

    @property
    def centers(self) -> tf.Tensor:
        """`[N, D, 2]` float32: (y, x)."""
        return tf.cast(self.locations, tf.float32)

    def of(self, feature_map: FeatureMap) -> tf.Tensor:
        """`[N, H, W, C] -> [N, D, C]`: the values of a map of the same size at the peaks."""
        return values_at(feature_map, self.locations)


def without_padding(heatmap: tf.Tensor, true_shapes: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C], [N, 3] -> [N, H, W, C]`: 0 where the row or column is not below the true height or width.

    The Object Detection API compares rows of the map with a height in image pixels, although their scales differ. So
    most of the padding remains, with detections in it.
    """
    height, width = image_size(heatmap)
    rows = tf.range(height) < true_shapes[:, 0, tf.newaxis]
    columns = tf.range(width) < true_shapes[:, 1, tf.newaxis]
    return heatmap * tf.cast(rows[:, :, tf.newaxis] & columns[:, tf.newaxis], tf.float32)[..., tf.newaxis]


def peaks_only(heatmap: tf.Tensor, peak_max_pool_kernel_size: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: 0 where the channel has a higher value in a square of that size around."""
    if peak_max_pool_kernel_size <= 1:
        return heatmap
    highest = tf.nn.max_pool2d(heatmap, peak_max_pool_kernel_size, 1, "SAME")
    return heatmap * tf.cast(tf.abs(heatmap - highest) < PEAK_EPSILON, tf.float32)


def top_peaks(heatmap: tf.Tensor, k: int, peak_max_pool_kernel_size: int) -> Peaks:
    """`[N, H, W, C] ->` the k highest peaks of all channels together, fewer if the map has fewer values."""
    height, width = image_size(heatmap)
    channels = heatmap.shape[3]
    values = tf.reshape(peaks_only(heatmap, peak_max_pool_kernel_size), [-1, height * width * channels])
    scores, places = tf.nn.top_k(values, smaller(k, height * width * channels))
    rows, columns = _rows_columns(places // channels, width)
    return Peaks(scores, rows, columns, places % channels)


def top_peaks_by_channel(heatmap: tf.Tensor, k: int, peak_max_pool_kernel_size: int) -> Peaks:
    """`[N, H, W, C] ->` the k highest peaks of each channel, `[N, C, k]`; those missing have score 0 at (0, 0)."""
    height, width = image_size(heatmap)
    channels = heatmap.shape[3]
    by_channel = tf.transpose(peaks_only(heatmap, peak_max_pool_kernel_size), [0, 3, 1, 2])
    available = smaller(k, height * width)
    scores, places = tf.nn.top_k(tf.reshape(by_channel, [-1, channels, height * width]), available)
    missing = [[0, 0], [0, 0], [0, k - available]]
    scores, places = (tf.ensure_shape(tf.pad(values, missing), [None, channels, k]) for values in (scores, places))
    rows, columns = _rows_columns(places, width)
    return Peaks(scores, rows, columns, tf.zeros_like(places) + tf.range(channels)[:, tf.newaxis])


def _rows_columns(places: tf.Tensor, width: Length) -> tuple[tf.Tensor, tf.Tensor]:
    rows = places // width
    return rows, places - rows * width
