"""Keypoints of the objects at the peaks of a heatmap: regressed from the centers, then snapped to candidates.

Candidates are the peaks of a heatmap for each keypoint.
Source: object_detection/meta_architectures/center_net_meta_arch.py (refine_keypoints and the functions around it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from unfreeze.ops.center_boxes import overlap_radius, scaled_boxes
from unfreeze.ops.heatmaps import FeatureMap, Peaks, num_channels, top_peaks_by_channel, values_at
from unfreeze.ops.sizes import image_size

FAR = np.float32(1e5)  # the distance of a candidate below its threshold
STD_DEV_MIN_IOU = 0.7


@dataclass(frozen=True)
class KeypointOptions:
    """The options of a `KeypointEstimation` message, under its names; `keypoint_std_dev` includes its multiplier."""

    keypoint_candidate_score_threshold: float = 0.1
    num_candidates_per_keypoint: int = 100
    peak_max_pool_kernel_size: int = 3
    unmatched_keypoint_score: float = 0.1
    box_scale: float = 1.2
    candidate_search_scale: float = 0.3
    candidate_ranking_mode: str = "min_distance"
    score_distance_offset: float = 1.0
    score_distance_multiplier: float = 0.1
    keypoint_std_dev: tuple[float, ...] = ()
    gaussian_denom_ratio: float = 0.1


class KeypointMaps(NamedTuple):
    """The predictions for P keypoints, `[N, H, W, ...]`.

    `heatmap` [P]: scores; `offset` [2] or [2 * P]; `regression` [2 * P]: from the center of an object; `depth` [1] or
    [P].
    """

    heatmap: tf.Tensor
    offset: FeatureMap
    regression: FeatureMap
    depth: FeatureMap | None = None


class Candidates(NamedTuple):
    """The M candidates for each of P keypoints.

    `points` [N, M, P, 2] (y, x) in pixels of the map, `scores` [N, M, P], `valid` [N, M, P], `depths` [N, M, P].
    """

    points: tf.Tensor
    scores: tf.Tensor
    valid: tf.Tensor
    depths: tf.Tensor | None


class Keypoints(NamedTuple):
    """The keypoints of D objects: `points` [N, D, P, 2] (y, x), `scores` [N, D, P], `depths` [N, D, P]."""

    points: tf.Tensor
    scores: tf.Tensor
    depths: tf.Tensor | None = None


def keypoints_of_peaks(
    maps: KeypointMaps, peaks: Peaks, boxes: tf.Tensor | None, options: KeypointOptions
) -> Keypoints:
    """Returns the keypoints of D objects in pixels of the map; `boxes` `[N, D, 4]` are their strided boxes, if any."""
    regressed = regressed_keypoints(maps.regression, peaks)
    return refined(regressed, keypoint_candidates(maps, options), boxes, options)


def regressed_keypoints(regression: FeatureMap, peaks: Peaks) -> tf.Tensor:
    """`[N, H, W, 2 * P], peaks of D -> [N, D, P, 2]`: centers plus regressed distances."""
    num_keypoints = num_channels(regression) // 2
    relative = peaks.of(regression)
    relative = tf.reshape(relative, [-1, tf.shape(relative)[1], num_keypoints, 2])
    return peaks.centers[:, :, tf.newaxis] + relative


def keypoint_candidates(maps: KeypointMaps, options: KeypointOptions) -> Candidates:
    """Returns the peaks of the heatmap of each keypoint, moved by the offsets there."""
    peaks = top_peaks_by_channel(maps.heatmap, options.num_candidates_per_keypoint, options.peak_max_pool_kernel_size)
    points = peaks.centers + _of_own_keypoint(maps.offset, peaks, 2)
    depths = None if maps.depth is None else _candidates_first(_of_own_keypoint(maps.depth, peaks, 1)[..., 0])
    return Candidates(
        points=_candidates_first(points),
        scores=_candidates_first(peaks.scores),
        valid=_candidates_first(peaks.scores >= np.float32(options.keypoint_candidate_score_threshold)),
        depths=depths,
    )


def refined(
    regressed: tf.Tensor, candidates: Candidates, boxes: tf.Tensor | None, options: KeypointOptions
) -> Keypoints:
    """Moves each regressed keypoint `[N, D, P, 2]` to its best candidate, if that is good and near enough.

    Without `boxes` `[N, D, 4]` the distance does not matter.
    """
    difference = regressed[:, :, tf.newaxis] - candidates.points[:, tf.newaxis]
    distances = tf.sqrt(tf.reduce_sum(difference * difference, axis=-1))
    distances = tf.where(candidates.valid[:, tf.newaxis], distances, FAR)
    ranking = RANKINGS[options.candidate_ranking_mode](candidates.scores[:, tf.newaxis], distances, boxes, options)
    best = tf.argmax(ranking, axis=2, output_type=tf.int32)
    points, scores = _chosen(candidates.points, best), _chosen(candidates.scores, best)
    if options.candidate_ranking_mode == "gaussian_weighted":
        scores = tf.reduce_max(ranking, axis=2)
    unmatched = scores < np.float32(options.keypoint_candidate_score_threshold)
    if boxes is not None:
        unmatched |= _out_of_reach(points, tf.reduce_min(distances, axis=2), boxes, options)
    return Keypoints(
        points=tf.where(unmatched[..., tf.newaxis], regressed, points),
        scores=tf.where(unmatched, np.float32(options.unmatched_keypoint_score), scores),
        depths=None if candidates.depths is None else tf.where(unmatched, 0.0, _chosen(candidates.depths, best)),
    )


def normalized_keypoints(
    keypoints: Keypoints, stride: int, true_shapes: tf.Tensor, *, clip_out_of_frame_keypoints: bool
) -> Keypoints:
    """Returns keypoints relative to the true image; with clipping, those outside are moved to its edge with score 0."""
    scale = float(stride) / tf.cast(true_shapes[:, :2], tf.float32)
    points = keypoints.points * scale[:, tf.newaxis, tf.newaxis]
    if not clip_out_of_frame_keypoints:
        return keypoints._replace(points=points)
    inside = tf.reduce_all((points >= 0.0) & (points <= 1.0), axis=-1)
    clipped_points = tf.maximum(tf.minimum(points, 1.0), 0.0)
    return keypoints._replace(points=clipped_points, scores=tf.where(inside, keypoints.scores, 0.0))


def argmax_keypoints(maps: KeypointMaps, peaks: Peaks, boxes: tf.Tensor, options: KeypointOptions) -> Keypoints:
    """Returns the keypoints of `argmax_postprocessing`.

    Each is at the maximum of its heatmap within the box of the object, weighted by the distance to the regressed
    keypoint. Images are processed one by one to save memory, as in the Object Detection API.
    """

    def keypoints_of_image(elements: tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return _argmax_of_image(*elements, options.gaussian_denom_ratio)

    regressed = regressed_keypoints(maps.regression, peaks)
    num_keypoints = maps.heatmap.shape[3]
    signature = (tf.TensorSpec([None, num_keypoints, 2]), tf.TensorSpec([None, num_keypoints]))
    points, scores = tf.map_fn(
        keypoints_of_image,
        (maps.heatmap, maps.offset, regressed, boxes),
        fn_output_signature=signature,
        parallel_iterations=1,
    )
    return Keypoints(points, scores)


def rescored(
    scores: tf.Tensor,
    classes: tf.Tensor,
    keypoint_scores: tf.Tensor,
    *,
    class_id: int,
    keypoint_indices: tuple[int, ...],
    rescoring_threshold: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`[N, D], [N, D], [N, D, P] -> [N, D], [N, D, P]`: new scores of one class, and keypoint scores, 0 if low.

    The new score of an object is the mean, over its keypoints above the threshold, of its score times theirs.
    """
    own = np.array([keypoint_indices.count(i) == 1 for i in range(keypoint_scores.shape[2])], np.float32)
    visible = keypoint_scores > np.float32(rescoring_threshold)
    keypoint_scores = tf.where(visible, keypoint_scores, 0.0)
    of_class = classes == class_id
    mask = tf.cast(of_class, tf.float32)[..., tf.newaxis] * own
    num_visible = tf.maximum(tf.reduce_sum(mask * tf.cast(visible, tf.float32), axis=-1), 1.0)
    of_keypoints = tf.reduce_sum(mask * scores[..., tf.newaxis] * keypoint_scores, axis=-1)
    return tf.where(of_class, (1.0 / num_visible) * of_keypoints, scores), keypoint_scores


# How good candidates are: scores [N, 1, M, P], distances [N, D, M, P], boxes [N, D, 4], options -> [N, D, M, P].
Ranking = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, KeypointOptions], tf.Tensor]


def _nearest(scores: tf.Tensor, distances: tf.Tensor, boxes: tf.Tensor, options: KeypointOptions) -> tf.Tensor:
    return -distances


def _score_distance_ratio(
    scores: tf.Tensor, distances: tf.Tensor, boxes: tf.Tensor, options: KeypointOptions
) -> tf.Tensor:
    return scores / (distances + np.float32(options.score_distance_offset))


def _score_scaled_distance_ratio(
    scores: tf.Tensor, distances: tf.Tensor, boxes: tf.Tensor, options: KeypointOptions
) -> tf.Tensor:
    offsets = _longest_side(boxes) * np.float32(options.score_distance_multiplier)
    return scores / (distances + offsets[:, :, tf.newaxis, tf.newaxis])


def _gaussian_weighted(
    scores: tf.Tensor, distances: tf.Tensor, boxes: tf.Tensor, options: KeypointOptions
) -> tf.Tensor:
    radius = overlap_radius(boxes[..., 2:] - boxes[..., :2], STD_DEV_MIN_IOU)
    of_box = (2 * tf.maximum(tf.floor(radius), 0.0) + 1) / 6.0
    sigma = np.array(options.keypoint_std_dev, np.float32) * of_box[..., tf.newaxis]
    sigma = sigma[:, :, tf.newaxis]
    return scores * tf.exp((-1 * distances * distances) / (2 * sigma * sigma))


RANKINGS: dict[str, Ranking] = {
    "min_distance": _nearest,
    "score_distance_ratio": _score_distance_ratio,
    "score_scaled_distance_ratio": _score_scaled_distance_ratio,
    "gaussian_weighted": _gaussian_weighted,
}
RANKINGS_BY_BOXES = ("score_scaled_distance_ratio", "gaussian_weighted")
ARGMAX_RANKING = "gaussian_weighted_const"


def _out_of_reach(points: tf.Tensor, min_distances: tf.Tensor, boxes: tf.Tensor, options: KeypointOptions) -> tf.Tensor:
    """`[N, D, P, 2], [N, D, P], [N, D, 4] -> [N, D, P]`: whether a point is outside the scaled box or too far away."""
    boxes = scaled_boxes(boxes, options.box_scale)
    low, high = boxes[:, :, tf.newaxis, :2], boxes[:, :, tf.newaxis, 2:]
    outside = tf.reduce_any((points < low) | (points > high), axis=-1)
    radius = _longest_side(boxes) * np.float32(options.candidate_search_scale)
    return outside | (min_distances > radius[..., tf.newaxis])


def _argmax_of_image(
    heatmap: tf.Tensor, offset: tf.Tensor, regressed: tf.Tensor, boxes: tf.Tensor, gaussian_denom_ratio: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """`[H, W, P], [H, W, 2 * P], [D, P, 2], [D, 4] -> [D, P, 2], [D, P]`.

    The score of a point is the best for any object, not for its own: a quirk of the Object Detection API.
    """
    height, width = image_size(heatmap[tf.newaxis])
    num_keypoints = heatmap.shape[2]
    rows, columns = (tf.cast(tf.range(length), tf.float32) for length in (height, width))
    rows, columns = rows[:, tf.newaxis, tf.newaxis], columns[tf.newaxis, :, tf.newaxis]
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    inside = (rows >= ymin) & (rows < ymax) & (columns >= xmin) & (columns < xmax)
    y_off = rows[..., tf.newaxis] - regressed[..., 0]
    x_off = columns[..., tf.newaxis] - regressed[..., 1]
    denominator = tf.cast(tf.minimum(height, width), tf.float32) * np.float32(gaussian_denom_ratio)
    gaussian = tf.exp((-1 * (y_off * y_off + x_off * x_off)) / denominator)
    weighted = heatmap[:, :, tf.newaxis] * gaussian * tf.cast(inside, tf.float32)[..., tf.newaxis]
    places = tf.argmax(tf.reshape(weighted, [height * width, -1, num_keypoints]), axis=0, output_type=tf.int32)
    row, column = places // width, places % width
    which = tf.stack([row, column, tf.zeros_like(places) + tf.range(num_keypoints)], axis=-1)
    points = tf.cast(which[..., :2], tf.float32)
    points += tf.gather_nd(tf.reshape(offset, [height, width, num_keypoints, 2]), which)
    return points, tf.gather_nd(tf.reduce_max(weighted, axis=2), which)


def _of_own_keypoint(feature_map: FeatureMap, peaks: Peaks, size: int) -> tf.Tensor:
    """`[N, H, W, size or size * P], peaks [N, P, M] -> [N, P, M, size]`: values at each peak for its own keypoint."""
    at_peaks = values_at(feature_map, peaks.locations)
    if num_channels(feature_map) == size:
        return at_peaks
    num_keypoints, num_candidates = peaks.scores.shape[1:]
    by_keypoint = tf.reshape(at_peaks, [-1, num_keypoints, num_candidates, num_keypoints, size])
    return tf.gather(by_keypoint, peaks.channels, batch_dims=3)


def _candidates_first(values: tf.Tensor) -> tf.Tensor:
    """`[N, P, M, ...] -> [N, M, P, ...]`."""
    return tf.transpose(values, [0, 2, 1, *range(3, values.shape.rank)])


def _chosen(values: tf.Tensor, best: tf.Tensor) -> tf.Tensor:
    """`[N, M, P, ...], [N, D, P] -> [N, D, P, ...]`."""
    order = [0, 2, 1, *range(3, values.shape.rank)]
    chosen = tf.gather(tf.transpose(values, order), tf.transpose(best, [0, 2, 1]), batch_dims=2)
    return tf.transpose(chosen, order)


def _longest_side(boxes: tf.Tensor) -> tf.Tensor:
    """`[..., 4] -> [...]`."""
    return tf.reduce_max(boxes[..., 2:] - boxes[..., :2], axis=-1)
