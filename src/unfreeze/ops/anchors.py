"""Anchors: the boxes to which a detector's box codes are relative, in grids over the feature maps.

Every function returns one array for each feature map, in the order (row, column, box at that location): a NumPy array
where the sizes are known, so that it becomes a constant of the graph, else a tensor, computed by the same operations in
the same order. All values are float32 and equal those of the Object Detection API to the last bit.

Source: anchor_generators/*.py, builders/anchor_generator_builder.py, tile_anchors in grid_anchor_generator.py.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from unfreeze.ops.sizes import Length, Size, arithmetic, float32

Boxes: TypeAlias = Any  # [A, 4], a NumPy array or a tensor
Pair: TypeAlias = tuple[float, float]  # (height, width)

ONE = np.float32(1)
HALF = np.float32(0.5)


def ssd_box_specs(
    *,
    num_layers: int,
    min_scale: float,
    max_scale: float,
    scales: Sequence[float],
    aspect_ratios: Sequence[float],
    interpolated_scale_aspect_ratio: float,
    reduce_boxes_in_lowest_layer: bool,
) -> list[list[tuple[float, float]]]:
    """Returns the (scale, aspect ratio) of the boxes of each layer, the finest layer first.

    Without `scales`, they are spaced evenly from `min_scale` to `max_scale`. Each layer has an additional box with a
    scale between its own and that of the next layer, unless `interpolated_scale_aspect_ratio` is 0.
    Source: create_ssd_anchors in multiple_grid_anchor_generator.py.
    """
    if not scales:
        step = max_scale - min_scale
        scales = [min_scale + step * layer / (num_layers - 1) for layer in range(num_layers)]
    box_specs = []
    for scale, next_scale in zip(scales[:num_layers], [*scales[1:], 1.0], strict=False):
        boxes = [(scale, aspect_ratio) for aspect_ratio in aspect_ratios]
        if interpolated_scale_aspect_ratio > 0:
            boxes.append((float(np.sqrt(scale * next_scale)), interpolated_scale_aspect_ratio))
        box_specs.append(boxes)
    if reduce_boxes_in_lowest_layer and box_specs:
        box_specs[0] = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
    return box_specs


def ssd_anchors(
    feature_map_sizes: Sequence[Size],
    image_size: Size,
    *,
    box_specs: Sequence[Sequence[tuple[float, float]]],
    base_anchor_size: Pair,
    anchor_strides: Sequence[Pair] | None = None,
    anchor_offsets: Sequence[Pair] | None = None,
) -> list[Boxes]:
    """Returns [A, 4] for each feature map, normalized.

    Args:
        feature_map_sizes: of each layer.
        image_size: of the preprocessed image; relates strides in pixels and the shapes of boxes to normalized ones.
        box_specs: the result of `ssd_box_specs`.
        base_anchor_size: the size of a box of scale 1, in units of the shorter side of the image.
        anchor_strides: pixels between neighbors in each layer; by default the boxes are spread over the image.
        anchor_offsets: pixels from the corner to the first center; by default half a stride.
    """
    image_height, image_width = (float32(length) for length in image_size)
    shorter = arithmetic(*image_size).minimum(image_height, image_width)
    base_height = shorter / image_height * float32(base_anchor_size[0])
    base_width = shorter / image_width * float32(base_anchor_size[1])
    anchors = []
    for layer, (feature_map_size, boxes) in enumerate(zip(feature_map_sizes, box_specs, strict=True)):
        if anchor_strides:
            stride = _in_image(anchor_strides[layer], image_height, image_width)
        else:
            stride = (ONE / float32(feature_map_size[0]), ONE / float32(feature_map_size[1]))
        if anchor_offsets:
            offset = _in_image(anchor_offsets[layer], image_height, image_width)
        else:
            offset = (HALF * stride[0], HALF * stride[1])
        scales, aspect_ratios = zip(*boxes, strict=True)
        heights, widths = box_sizes(scales, aspect_ratios, (base_height, base_width))
        anchors.append(tile_anchors(feature_map_size, heights, widths, stride, offset))
    return anchors


def multiscale_anchors(
    feature_map_sizes: Sequence[Size],
    image_size: Size,
    *,
    min_level: int,
    anchor_scale: float,
    aspect_ratios: Sequence[float],
    scales_per_octave: int,
    normalize_coordinates: bool,
) -> list[Boxes]:
    """Returns [A, 4] for each level from `min_level` on, normalized or in pixels; the stride of a level is 2**level.

    The first centers are half a stride from the corner, unless the size of the image is known and not a multiple of the
    stride: then they are in the corner. This is a quirk of the Object Detection API, with which detectors were trained:
    the same image has other anchors where its size is known when the graph is built.
    """
    scales = [2 ** (octave / scales_per_octave) for octave in range(scales_per_octave)]
    anchors = []
    for level, feature_map_size in enumerate(feature_map_sizes, start=min_level):
        stride = 2**level
        boxes = grid_anchors(
            feature_map_size,
            scales=scales,
            aspect_ratios=aspect_ratios,
            base_anchor_size=(stride * anchor_scale, stride * anchor_scale),
            anchor_stride=(stride, stride),
            anchor_offset=_multiscale_offset(image_size, stride),
        )
        anchors.append(normalized(boxes, image_size) if normalize_coordinates else boxes)
    return anchors


def flexible_grid_anchors(
    feature_map_sizes: Sequence[Size],
    image_size: Size,
    *,
    base_sizes: Sequence[Sequence[float]],
    aspect_ratios: Sequence[Sequence[float]],
    anchor_strides: Sequence[Pair],
    anchor_offsets: Sequence[Pair],
    normalize_coordinates: bool,
) -> list[Boxes]:
    """Returns [A, 4] for each feature map, normalized or in pixels; each has its own boxes, stride and offset."""
    anchors = []
    for feature_map_size, sizes, ratios, stride, offset in zip(
        feature_map_sizes, base_sizes, aspect_ratios, anchor_strides, anchor_offsets, strict=True
    ):
        heights, widths = box_sizes(sizes, ratios, (1.0, 1.0))
        boxes = tile_anchors(feature_map_size, heights, widths, stride, offset)
        anchors.append(normalized(boxes, image_size) if normalize_coordinates else boxes)
    return anchors


def grid_anchors(
    feature_map_size: Size,
    *,
    scales: Sequence[float],
    aspect_ratios: Sequence[float],
    base_anchor_size: Pair,
    anchor_stride: Pair,
    anchor_offset: Pair,
) -> Boxes:
    """Returns [A, 4] in pixels: at each location all scales of the first aspect ratio, then of the next."""
    scale_of_box = np.tile(scales, len(aspect_ratios))
    aspect_ratio_of_box = np.repeat(aspect_ratios, len(scales))
    heights, widths = box_sizes(scale_of_box, aspect_ratio_of_box, base_anchor_size)
    return tile_anchors(feature_map_size, heights, widths, anchor_stride, anchor_offset)


def box_sizes(scales: Any, aspect_ratios: Any, base_anchor_size: tuple[Any, Any]) -> tuple[Any, Any]:
    """[k], [k] -> heights [k], widths [k]; an aspect ratio is width / height."""
    scales, ratio_roots = np.asarray(scales, np.float32), np.sqrt(np.asarray(aspect_ratios, np.float32))
    base_height, base_width = (float32(length) for length in base_anchor_size)
    return scales / ratio_roots * base_height, scales * ratio_roots * base_width


def tile_anchors(
    feature_map_size: Size, heights: Any, widths: Any, stride: tuple[Any, Any], offset: tuple[Any, Any]
) -> Boxes:
    """[k] heights, [k] widths -> [h * w * k, 4]: boxes around a grid of centers, the first at `offset`."""
    y = (_range(feature_map_size[0]) * float32(stride[0]) + float32(offset[0]))[:, None]
    x = (_range(feature_map_size[1]) * float32(stride[1]) + float32(offset[1]))[:, None]
    columns = [
        (y - HALF * heights)[:, None, :],
        (x - HALF * widths)[None, :, :],
        (y + HALF * heights)[:, None, :],
        (x + HALF * widths)[None, :, :],
    ]
    xp = arithmetic(*columns)
    grid = (*feature_map_size, heights.shape[0])
    return xp.reshape(xp.stack([xp.broadcast_to(column, grid) for column in columns], axis=-1), (-1, 4))


def normalized(boxes: Boxes, image_size: Size) -> Boxes:
    """[A, 4] in pixels -> [A, 4] relative to the image."""
    y, x = (ONE / float32(length) for length in image_size)
    return boxes * arithmetic(y, x).stack([y, x, y, x])


def _in_image(pair: Pair, image_height: Any, image_width: Any) -> tuple[Any, Any]:
    return float32(pair[0]) / image_height, float32(pair[1]) / image_width


def _multiscale_offset(image_size: Size, stride: int) -> Pair:
    is_known = [not tf.is_tensor(length) for length in image_size]
    if all(is_known):
        height, width = (stride / 2 if length % stride == 0 or length == 1 else 0.0 for length in image_size)
        return height, width
    return (0.0, 0.0) if any(is_known) else (stride / 2, stride / 2)


def _range(length: Length) -> Any:
    return tf.cast(tf.range(length), tf.float32) if tf.is_tensor(length) else np.arange(length, dtype=np.float32)
