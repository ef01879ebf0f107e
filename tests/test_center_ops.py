"""Boxes, keypoints and masks of CenterNet against slow references in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from unfreeze.ops.center_boxes import (
    boxes_of_peaks,
    enclosing_boxes,
    normalized_boxes,
    overlap_radius,
    scaled_boxes,
)
from unfreeze.ops.heatmaps import Peaks, top_peaks, top_peaks_by_channel
from unfreeze.ops.instance_masks import Surfaces, boxes_in_map, instance_masks, surface_coordinates
from unfreeze.ops.keypoints import (
    KeypointMaps,
    KeypointOptions,
    Keypoints,
    argmax_keypoints,
    keypoint_candidates,
    keypoints_of_peaks,
    normalized_keypoints,
    regressed_keypoints,
    rescored,
)

RANDOM = np.random.RandomState(0)
HEIGHT, WIDTH = 9, 12


def random_map(channels: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    return RANDOM.uniform(low, high, (2, HEIGHT, WIDTH, channels)).astype("float32")


def peaks_of(heatmap: np.ndarray, k: int = 5) -> Peaks:
    return top_peaks(heatmap, k, 3)


def locations(peaks: Peaks) -> list[list[tuple[int, int]]]:
    return [[(int(y), int(x)) for y, x in image] for image in peaks.locations.numpy()]


@pytest.mark.parametrize("by_channel", [False, True])
def test_peaks_equal_a_search_of_local_maxima(by_channel: bool) -> None:
    values = random_map(3)
    peaks = (top_peaks_by_channel if by_channel else top_peaks)(tf.constant(values), 4, 3)
    for image in range(2):
        maxima = [
            (values[image, y, x, c], y, x, c)
            for y in range(HEIGHT)
            for x in range(WIDTH)
            for c in range(3)
            if values[image, y, x, c]
            == values[image, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2, c].max()
        ]  # fmt: skip
        groups = [[peak for peak in maxima if peak[3] == c] for c in range(3)] if by_channel else [maxima]
        expected = np.array([sorted(group, reverse=True)[:4] for group in groups])
        expected = expected if by_channel else expected[0]
        for i, field in enumerate((peaks.scores, peaks.y, peaks.x, peaks.channels)):
            np.testing.assert_allclose(field[image], expected[..., i], rtol=1e-6)


def test_boxes_of_peaks_are_clipped_boxes_around_them() -> None:
    scale, offset, peaks = random_map(2, -3, 9), random_map(2, -1, 1), peaks_of(random_map(2))
    boxes = boxes_of_peaks(peaks, scale, offset).numpy()
    for image, places in enumerate(locations(peaks)):
        for d, (y, x) in enumerate(places):
            center = np.array([y, x]) + offset[image, y, x]
            half = np.maximum(scale[image, y, x], 0) / 2
            expected = np.clip([*(center - half), *(center + half)], 0, [HEIGHT, WIDTH, HEIGHT, WIDTH])
            np.testing.assert_allclose(boxes[image, d], expected, atol=1e-5)


def test_normalized_boxes_are_relative_to_the_true_image() -> None:
    strided = tf.constant([[[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 30.0, 40.0]]])
    boxes = normalized_boxes(strided, 4, tf.constant([[20, 32, 3]]))
    np.testing.assert_allclose(boxes, [[[0.2, 0.25, 0.6, 0.5], [0.4, 0.25, 1.0, 1.0]]], atol=1e-6)


def test_boxes_are_scaled_around_their_centers() -> None:
    boxes = scaled_boxes(tf.constant([[[1.0, 2.0, 3.0, 8.0]]]), 1.5)
    np.testing.assert_allclose(boxes, [[[0.5, 0.5, 3.5, 9.5]]])


def test_enclosing_boxes_contain_all_points() -> None:
    points = tf.constant([[[[1.0, 5.0], [3.0, 2.0], [2.0, 4.0]]]])
    np.testing.assert_allclose(enclosing_boxes(points), [[[1.0, 2.0, 3.0, 5.0]]])


@pytest.mark.parametrize(("height", "width", "min_iou"), [(10.0, 20.0, 0.7), (8.0, 8.0, 0.5), (40.0, 5.0, 0.3)])
def test_overlap_radius_is_the_smallest_of_three_cases(height: float, width: float, min_iou: float) -> None:
    radius = float(overlap_radius(tf.constant([[height, width]]), min_iou)[0])
    # Roots of a quadratic equation, without the division by 2a as in core/target_assigner.py.
    cases = [
        (1, -(height + width), width * height * (1 - min_iou) / (1 + min_iou)),
        (4, -2 * (height + width), (1 - min_iou) * width * height),
        (4 * min_iou, 2 * min_iou * (height + width), (min_iou - 1) * width * height),
    ]
    assert radius == pytest.approx(min((-b + np.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in cases), rel=1e-5)


OPTIONS = KeypointOptions(
    keypoint_candidate_score_threshold=0.6,
    num_candidates_per_keypoint=4,
    unmatched_keypoint_score=0.15,
    candidate_search_scale=0.4,
    keypoint_std_dev=(6.0, 8.0, 10.0),
)


def keypoint_maps(offsets: int = 6) -> KeypointMaps:
    return KeypointMaps(random_map(3), random_map(offsets, -1, 1), random_map(6, -4, 4), random_map(3))


def ranking(
    mode: str, score: float, distance: float, box: np.ndarray, std_dev: float, options: KeypointOptions
) -> float:
    """The ranking of a candidate, by the formulas of center_net_meta_arch.py."""
    side = max(box[2] - box[0], box[3] - box[1])
    if mode == "min_distance":
        return -distance
    if mode == "score_distance_ratio":
        return score / (distance + options.score_distance_offset)
    if mode == "score_scaled_distance_ratio":
        return score / (distance + side * options.score_distance_multiplier)
    radius = float(overlap_radius(tf.constant([[box[2] - box[0], box[3] - box[1]]], tf.float32), 0.7)[0])
    sigma = std_dev * (2 * max(np.floor(radius), 0) + 1) / 6
    return score * np.exp(-distance * distance / (2 * sigma * sigma))


@pytest.mark.parametrize("offsets", [2, 6])
@pytest.mark.parametrize(
    "mode", ["min_distance", "score_distance_ratio", "score_scaled_distance_ratio", "gaussian_weighted"]
)
def test_keypoints_equal_a_search_of_candidates(mode: str, offsets: int) -> None:
    options = replace(OPTIONS, candidate_ranking_mode=mode)
    maps, peaks = keypoint_maps(offsets), peaks_of(random_map(2))
    boxes = boxes_of_peaks(peaks, random_map(2, 3, 9), random_map(2, -1, 1))
    keypoints = keypoints_of_peaks(maps, peaks, boxes, options)
    candidates = top_peaks_by_channel(maps.heatmap, 4, 3)
    matched = 0
    for image, places in enumerate(locations(peaks)):
        for d, (y, x) in enumerate(places):
            box = boxes[image, d].numpy()
            for p in range(3):
                regressed = np.array([y, x]) + maps.regression[image, y, x, 2 * p : 2 * p + 2]
                ranked = []
                for m in range(4):
                    row, column = int(candidates.y[image, p, m]), int(candidates.x[image, p, m])
                    score, start = float(candidates.scores[image, p, m]), 2 * p if offsets == 6 else 0
                    point = np.array([row, column]) + maps.offset[image, row, column, start : start + 2]
                    valid = score >= options.keypoint_candidate_score_threshold
                    distance = float(np.linalg.norm(regressed - point)) if valid else 1e5
                    rank = ranking(mode, score, distance, box, options.keypoint_std_dev[p], options)
                    ranked.append((rank, -m, score, point, distance, float(maps.depth[image, row, column, p])))
                rank, _, score, point, _, depth = max(ranked, key=lambda candidate: candidate[:2])
                score = rank if mode == "gaussian_weighted" else score
                center, half = (box[:2] + box[2:]) / 2, options.box_scale * (box[2:] - box[:2]) / 2
                inside = (np.abs(point - center) <= half).all()
                near = min(candidate[4] for candidate in ranked) <= options.candidate_search_scale * 2 * half.max()
                good = score >= options.keypoint_candidate_score_threshold and inside and near
                matched += good
                np.testing.assert_allclose(keypoints.points[image, d, p], point if good else regressed, atol=1e-4)
                np.testing.assert_allclose(keypoints.scores[image, d, p], score if good else 0.15, atol=1e-4)
                np.testing.assert_allclose(keypoints.depths[image, d, p], depth if good else 0, atol=1e-4)
    assert 2 <= matched <= 28


def test_candidates_are_valid_from_the_threshold_on() -> None:
    heatmap = tf.reshape(tf.constant([0.5, 0.0, 0.0, 0.4999, 0.0, 0.0, 0.7]), [1, 1, 7, 1])
    maps = KeypointMaps(heatmap, tf.zeros([1, 1, 7, 2]), tf.zeros([1, 1, 7, 2]))
    candidates = keypoint_candidates(
        maps, replace(OPTIONS, keypoint_candidate_score_threshold=0.5, num_candidates_per_keypoint=3)
    )
    assert candidates.valid.numpy()[0, :, 0].tolist() == [True, True, False]
    assert candidates.depths is None


def test_without_boxes_the_distance_does_not_matter() -> None:
    heatmap = tf.reshape(tf.constant([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9]), [1, 1, 7, 1])
    maps = KeypointMaps(heatmap, tf.zeros([1, 1, 7, 2]), tf.zeros([1, 1, 7, 2]))
    peaks = Peaks(*(tf.constant([[value]]) for value in (1.0, 0, 0, 0)))
    far = keypoints_of_peaks(maps, peaks, None, OPTIONS)
    assert far.points.numpy().tolist() == [[[[0.0, 6.0]]]]
    near_only = keypoints_of_peaks(maps, peaks, tf.constant([[[0.0, 0.0, 1.0, 1.0]]]), OPTIONS)
    assert near_only.points.numpy().tolist() == [[[[0.0, 0.0]]]]


def test_argmax_keypoints_equal_a_search_of_pixels() -> None:
    maps, peaks = keypoint_maps(), peaks_of(random_map(1))
    boxes = tf.constant(np.tile([1.0, 2.0, 8.0, 10.0], (2, 5, 1)), tf.float32)
    keypoints = argmax_keypoints(maps, peaks, boxes, OPTIONS)
    regressed = regressed_keypoints(maps.regression, peaks).numpy()
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside = (rows >= 1) & (rows < 8) & (columns >= 2) & (columns < 10)
    for image in range(2):
        for p in range(3):
            weighted = [
                maps.heatmap[image, ..., p]
                * np.exp(-((rows - regressed[image, d, p, 0]) ** 2 + (columns - regressed[image, d, p, 1]) ** 2)
                         / (HEIGHT * OPTIONS.gaussian_denom_ratio)) * inside
                for d in range(5)
            ]  # fmt: skip
            for d in range(5):
                y, x = np.unravel_index(weighted[d].argmax(), inside.shape)
                point = np.array([y, x]) + maps.offset[image, y, x, 2 * p : 2 * p + 2]
                np.testing.assert_allclose(keypoints.points[image, d, p], point, atol=1e-5)
                np.testing.assert_allclose(keypoints.scores[image, d, p], max(w[y, x] for w in weighted), atol=1e-6)


@pytest.mark.parametrize("clip", [False, True])
def test_keypoints_outside_of_the_image_are_clipped(clip: bool) -> None:
    points = tf.constant([[[[1.0, 2.0], [-1.0, 9.0], [5.0, 8.0]]]])
    keypoints = Keypoints(points, tf.constant([[[0.5, 0.6, 0.7]]]))
    normalized = normalized_keypoints(keypoints, 4, tf.constant([[20, 32, 3]]), clip_out_of_frame_keypoints=clip)
    outside, score = ([0.0, 1.0], 0.0) if clip else ([-0.2, 1.125], 0.6)
    np.testing.assert_allclose(normalized.points[0, 0], [[0.2, 0.25], outside, [1.0, 1.0]], atol=1e-6)
    np.testing.assert_allclose(normalized.scores[0, 0], [0.5, score, 0.7])


def test_rescored_objects_have_the_mean_over_visible_keypoints() -> None:
    scores, classes = tf.constant([[0.5, 0.8, 0.9]]), tf.constant([[2.0, 1.0, 2.0]])
    keypoint_scores = tf.constant([[[0.4, 0.1, 0.9, 0.6], [0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.9, 0.2]]])
    new, visible = rescored(
        scores, classes, keypoint_scores, class_id=2, keypoint_indices=(0, 1, 3), rescoring_threshold=0.2
    )
    np.testing.assert_allclose(new, [[0.5 * (0.4 + 0.6) / 2, 0.8, 0.0]], atol=1e-6)
    expected = [[[0.4, 0, 0.9, 0.6], [0.5, 0.5, 0.5, 0.5], [0, 0, 0.9, 0]]]
    np.testing.assert_allclose(visible, expected, atol=1e-6)


def test_boxes_in_map_are_relative_to_the_padded_image() -> None:
    boxes = boxes_in_map(tf.constant([[[0.5, 0.5, 1.0, 1.0]]]), tf.zeros([1, 5, 10, 1]), 4, tf.constant([[10, 30, 3]]))
    np.testing.assert_allclose(boxes, [[[0.25, 0.375, 0.5, 0.75]]])


def crop(values: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[H, W, C] -> [h, w, C]`, by TensorFlow's operation for one box."""
    return tf.image.crop_and_resize(values[np.newaxis], box[np.newaxis], [0], size)[0].numpy()


def test_masks_and_surface_coordinates_equal_single_crops() -> None:
    heatmap, surfaces = random_map(2), Surfaces(random_map(3), random_map(6))
    boxes = np.float32([[[0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]], [[0.3, 0.1, 0.6, 0.8], [0.2, 0.2, 0.7, 0.7]]])
    classes = np.int32([[0, 1], [1, 0]])
    masks = instance_masks(heatmap, tf.constant(boxes), tf.constant(classes), (4, 5), 0.5)
    numbered, coordinates = surface_coordinates(masks, surfaces, tf.constant(boxes), tf.constant(classes == 1))
    for image in range(2):
        for d in range(2):
            box, of_class = boxes[image, d], classes[image, d]
            mask = crop(heatmap[image], box, (4, 5))[..., of_class] >= 0.5
            np.testing.assert_array_equal(masks[image, d], mask)
            parts = crop(surfaces.part_heatmap[image], box, (4, 5)).argmax(-1)
            points = crop(surfaces.coordinates[image], box, (4, 5)).reshape(4, 5, 3, 2)
            points = np.take_along_axis(points, parts[..., np.newaxis, np.newaxis], 2)[:, :, 0]
            expected = mask * (parts + 1) if of_class == 1 else mask
            np.testing.assert_array_equal(numbered[image, d], expected)
            dense = (mask & (of_class == 1))[..., np.newaxis]
            np.testing.assert_allclose(coordinates[image, d], points * dense, atol=1e-6)
