"""Peaks of heatmaps, and what other maps hold at them.

Source: object_detection/meta_architectures/center_net_meta_arch.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from unfreeze.ops.sizes import Length, Size, image_size

PEAK_EPSILON = np.float32(1e-6)  # a value that is less below the highest around it is a peak, too


@dataclass(frozen=True)
class SparseMap:
    """A map `[N, *size, channels]` that is computed only where somebody asks for it.

    `at`: places `[N, ..., 2]` int32, (y, x) within the map, to `[N, ..., channels]`.
    """

    size: Size
    channels: int
    at: Callable[[tf.Tensor], tf.Tensor]


FeatureMap: TypeAlias = tf.Tensor | SparseMap


def values_at(feature_map: FeatureMap, places: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C], [N, ..., 2] -> [N, ..., C]`: what the map holds at places (y, x)."""
    if isinstance(feature_map, SparseMap):
        return feature_map.at(places)
    return tf.gather_nd(feature_map, places, batch_dims=1)


def map_size(feature_map: FeatureMap) -> Size:
    """Height and width."""
    return feature_map.size if isinstance(feature_map, SparseMap) else image_size(feature_map)


def num_channels(feature_map: FeatureMap) -> int:
    """C of `[N, H, W, C]`."""
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
        """`[N, H, W, C] -> [N, D, C]`: what a map of the same size holds at the peaks."""
        return values_at(feature_map, self.locations)


def without_padding(heatmap: tf.Tensor, true_shapes: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C], [N, 3] -> [N, H, W, C]`: 0 where the row or column is not less than the picture's pixels.

    The original compares rows of the map with a height in pixels, as if they were of one scale: so most of the padding
    stays, and detections in it do, too.
    """
    height, width = image_size(heatmap)
    rows = tf.range(height) < true_shapes[:, 0, tf.newaxis]
    columns = tf.range(width) < true_shapes[:, 1, tf.newaxis]
    return heatmap * tf.cast(rows[:, :, tf.newaxis] & columns[:, tf.newaxis], tf.float32)[..., tf.newaxis]


def peaks_only(heatmap: tf.Tensor, peak_max_pool_kernel_size: int) -> tf.Tensor:
    """`[N, H, W, C] -> [N, H, W, C]`: 0 where the channel has a higher value around, in a square of that size."""
    if peak_max_pool_kernel_size <= 1:
        return heatmap
    highest = tf.nn.max_pool2d(heatmap, peak_max_pool_kernel_size, 1, "SAME")
    return heatmap * tf.cast(tf.abs(heatmap - highest) < PEAK_EPSILON, tf.float32)


def top_peaks(heatmap: tf.Tensor, k: int, peak_max_pool_kernel_size: int) -> Peaks:
    """`[N, H, W, C] ->` the k highest peaks of all channels together, fewer if the map has fewer values."""
    height, width = image_size(heatmap)
    channels = heatmap.shape[3]
    values = tf.reshape(peaks_only(heatmap, peak_max_pool_kernel_size), [-1, height * width * channels])
    scores, places = tf.nn.top_k(values, _least(k, height * width * channels))
    rows, columns = _rows_columns(places // channels, width)
    return Peaks(scores, rows, columns, places % channels)


def top_peaks_by_channel(heatmap: tf.Tensor, k: int, peak_max_pool_kernel_size: int) -> Peaks:
    """`[N, H, W, C] ->` the k highest peaks of each channel, `[N, C, k]`; those missing have score 0 at (0, 0)."""
    height, width = image_size(heatmap)
    channels = heatmap.shape[3]
    by_channel = tf.transpose(peaks_only(heatmap, peak_max_pool_kernel_size), [0, 3, 1, 2])
    found = _least(k, height * width)
    scores, places = tf.nn.top_k(tf.reshape(by_channel, [-1, channels, height * width]), found)
    missing = [[0, 0], [0, 0], [0, k - found]]
    scores, places = (tf.ensure_shape(tf.pad(each, missing), [None, channels, k]) for each in (scores, places))
    rows, columns = _rows_columns(places, width)
    return Peaks(scores, rows, columns, tf.zeros_like(places) + tf.range(channels)[:, tf.newaxis])


def _rows_columns(places: tf.Tensor, width: Length) -> tuple[tf.Tensor, tf.Tensor]:
    rows = places // width
    return rows, places - rows * width


def _least(k: int, available: Length) -> Length:
    return tf.minimum(k, available) if tf.is_tensor(available) else min(k, available)
