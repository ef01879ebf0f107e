"""Non-maximum suppression for all images and classes at once, with the results of the Object Detection API.

The Object Detection API runs suppression for each image and class over every box above the threshold, sorts what
remains, and keeps the best `max_total_detections`. Here only the best pairs of a box and a class are considered, a few
hundred per image. Suppression proceeds in the order of descending scores, so a pair never affects pairs before it: if
enough of these pairs remain, they are what the Object Detection API keeps. If not, more pairs are considered, at last
all of them.

Suppression itself has two forms with the same results: TensorFlow's kernel, which is the fastest, and plain tensor
operations, for converters that do not support the kernel; see `Suppression`.

Source: object_detection/core/post_processing.py (batch_multiclass_non_max_suppression and what it calls), and
TensorFlow's tensorflow/core/kernels/image/non_max_suppression_op.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from unfreeze.ops.boxes import area, clipped, in_frame, intersected, keypoints_in_frame
from unfreeze.ops.sizes import Length, larger, smaller

# How many pairs are considered first, in units of max_total_detections. Trained detectors need two or three; with one
# class a pair costs less, and more of them overlap.
FIRST_LIMIT, FIRST_LIMIT_OF_ONE_CLASS = 4, 8
GROWTH = 4
WIDEST_PIECE = 16  # the longest pieces of rows that are searched for the highest scores
# Below every score and above every area. Finite, since tf2onnx multiplies by 0 what a condition does not choose.
NEVER = np.finfo(np.float32).min
LARGEST_AREA = np.finfo(np.float32).max


class Suppression(Enum):
    """The form of suppression; both have the same results.

    `KERNEL`: TensorFlow's CombinedNonMaxSuppression. `OPERATIONS`: tensor operations and loops, which take longer in
    small detectors.
    """

    KERNEL = "kernel"
    OPERATIONS = "operations"


@dataclass(frozen=True)
class NmsOptions:
    """The options of a `BatchNonMaxSuppression` message, under its names, and the behavior of the TensorFlow version.

    `suppress_at_threshold`: whether an overlap of exactly `iou_threshold` suppresses (in TensorFlow 1.15, not in 2.x).
    In soft suppression, 1.15 also drops boxes that overlap that much, while 2.x ignores `iou_threshold`.
    """

    score_threshold: float
    iou_threshold: float
    max_detections_per_class: int
    max_total_detections: int
    use_static_shapes: bool = False
    use_class_agnostic_nms: bool = False
    soft_nms_sigma: float = 0.0
    use_combined_nms: bool = False
    change_coordinate_frame: bool = False
    suppress_at_threshold: bool = False
    suppression: Suppression = Suppression.KERNEL

    @property
    def kept_overlap(self) -> np.float32:
        """The largest overlap that does not suppress; TensorFlow's kernel suppresses only above it."""
        at_threshold = self.suppress_at_threshold and not self.use_combined_nms and self.iou_threshold > 0
        threshold = np.float32(self.iou_threshold)
        below: np.float32 = np.nextafter(threshold, NEVER)
        return below if at_threshold else threshold

    @property
    def pads_with_first_anchor(self) -> bool:
        """Returns whether padding rows contain the first anchor with the score -1, instead of zeros."""
        return self.use_static_shapes and not self.use_combined_nms

    @property
    def most_per_class(self) -> int:
        """The most boxes of a class that suppression keeps: one, if even boxes without overlap suppress."""
        all_suppress = self.suppress_at_threshold and self.iou_threshold == 0 and not self.use_combined_nms
        return 1 if all_suppress else self.max_detections_per_class


@dataclass(frozen=True)
class Selection:
    """The detections of N images in D rows each, best first; rows from `num_detections` on are padding.

    `boxes` [N, D, 4], `scores` [N, D], `classes` [N, D] (float32, from 0), `num_detections` [N] (int32), `indices`
    [N, D] (int32): the anchors of the detections. `empty` [N, D]: whether a row is zero in every field. `frame` [N, 4]:
    the window to which coordinates are relative, with `change_coordinate_frame`.
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    classes: tf.Tensor
    num_detections: tf.Tensor
    indices: tf.Tensor
    empty: tf.Tensor
    frame: tf.Tensor | None = None


class _Pool(NamedTuple):
    """The P best pairs of each image, in the order (score descending, class ascending, anchor ascending).

    `anchors`, `classes`, `scores` [N, P]. `usable` [N, P]: whether a pair is above the threshold and no pair outside of
    the pool comes before it. `unseen` [N]: the highest possible score of usable pairs outside of the pool; NEVER if
    there are none.
    """

    anchors: tf.Tensor
    classes: tf.Tensor
    scores: tf.Tensor
    usable: tf.Tensor
    unseen: tf.Tensor


class _Kept(NamedTuple):
    """The result of suppression in S rows.

    `places` [N, S]: their indices in the pool. `boxes` [N, S, 4], not clipped. `scores` [N, S]. `order` [N, S], at most
    P: rows with higher values come first; 0 means that there is no row.
    """

    places: tf.Tensor
    boxes: tf.Tensor
    scores: tf.Tensor
    order: tf.Tensor


class _Rows(NamedTuple):
    """D rows of each image: first `num_good` [N] detections, then `num_pruned` [N] that lie outside of the window.

    `anchors`, `classes`, `scores` [N, D]. `class_counts` [N, C]: how many pairs of each class suppression kept (only
    where padding needs it). `enough` [N]: whether these are D detections, or all that exist.
    """

    anchors: tf.Tensor
    classes: tf.Tensor
    scores: tf.Tensor
    num_good: tf.Tensor
    num_pruned: tf.Tensor
    class_counts: tf.Tensor
    enough: tf.Tensor


def multiclass_nms(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    clip_window: tf.Tensor,
    options: NmsOptions,
    num_valid_boxes: tf.Tensor | None = None,
) -> Selection:
    """Boxes `[N, A, q, 4]` and scores `[N, A, C]` -> the best detections, clipped to `clip_window` `[N, 4]`.

    q is 1 (one box for all classes) or C. With `num_valid_boxes` [N], only so many first anchors count.

    Equal scores are ordered by class, then by anchor, as in TensorFlow 2 (in 1.15 the order of equal scores within a
    class is undefined). TensorFlow 1.15 keeps copies of a box without area until its class is full; here, as in
    TensorFlow 2, it is kept once, and then removed by clipping.
    """
    if num_valid_boxes is not None:
        valid = tf.range(tf.shape(scores)[1]) < num_valid_boxes[:, tf.newaxis]
        scores = tf.where(valid[:, :, tf.newaxis], scores, NEVER)
    if not options.use_class_agnostic_nms:
        return _selection(boxes, scores, clip_window, options)
    best = tf.argmax(scores, axis=2, output_type=tf.int32)
    if boxes.shape[2] != 1:
        boxes = tf.gather(boxes, best[:, :, tf.newaxis], batch_dims=2)
    options = replace(options, max_detections_per_class=options.max_total_detections)
    selection = _selection(boxes, tf.reduce_max(scores, axis=2, keepdims=True), clip_window, options)
    return replace(selection, classes=gathered(tf.cast(best, tf.float32), selection))


def gathered(values: tf.Tensor, selection: Selection) -> tf.Tensor:
    """`[N, A, ...] -> [N, D, ...]`: the values of the selected anchors."""
    return _without_empty(tf.gather(values, selection.indices, batch_dims=1), selection)


def anchor_indices(selection: Selection) -> tf.Tensor:
    """Returns `[N, D]` float32: the anchors of the detections."""
    return _without_empty(tf.cast(selection.indices, tf.float32), selection)


def gathered_keypoints(keypoints: tf.Tensor, selection: Selection) -> tf.Tensor:
    """`[N, A, P, 2] -> [N, D, P, 2]`: the points (y, x) of the selected anchors, in the frame of the boxes."""
    selected = tf.gather(keypoints, selection.indices, batch_dims=1)
    if selection.frame is not None:
        selected = keypoints_in_frame(selected, selection.frame)
    return _without_empty(selected, selection)


def _without_empty(rows: tf.Tensor, selection: Selection) -> tf.Tensor:
    axes = (...,) + (tf.newaxis,) * (rows.shape.rank - 2)
    return tf.where(selection.empty[axes], tf.zeros([], rows.dtype), rows)


def _selection(boxes: tf.Tensor, scores: tf.Tensor, clip_window: tf.Tensor, options: NmsOptions) -> Selection:
    size = options.max_total_detections
    if options.use_static_shapes:
        size = min(size, scores.shape[2] * options.max_detections_per_class)
    rows = _best_rows(boxes, scores, clip_window, options, size)
    if options.pads_with_first_anchor:
        rows = _padded_with_first_anchor(rows, options.max_detections_per_class)
        empty = tf.zeros_like(rows.anchors, tf.bool)
    else:
        empty = tf.range(size) >= rows.num_good[:, tf.newaxis]
    anchors, classes = tf.where(empty, 0, rows.anchors), tf.where(empty, 0, rows.classes)
    selected = _pair_boxes(boxes, anchors, classes)
    if options.use_combined_nms:
        selected = intersected(selected, clip_window)
    else:
        selected = clipped(selected, clip_window)
        if options.change_coordinate_frame:
            selected = in_frame(selected, clip_window)
    return Selection(
        boxes=tf.where(empty[..., tf.newaxis], np.float32(0), selected),
        scores=tf.where(empty, np.float32(0), rows.scores),
        classes=tf.cast(classes, tf.float32),
        num_detections=rows.num_good,
        indices=anchors,
        empty=empty,
        frame=clip_window if options.change_coordinate_frame else None,
    )


def _padded_with_first_anchor(rows: _Rows, max_detections_per_class: int) -> _Rows:
    """Returns rows of static shape: each class is padded to `max_detections_per_class` rows, class after class."""
    place = tf.range(rows.anchors.shape[1])
    pad = place - (rows.num_good + rows.num_pruned)[:, tf.newaxis]
    pads_until = tf.cumsum(max_detections_per_class - rows.class_counts, axis=1)
    pad_class = tf.reduce_sum(tf.cast(pads_until[:, tf.newaxis] <= pad[..., tf.newaxis], tf.int32), axis=2)
    return rows._replace(
        anchors=tf.where(pad < 0, rows.anchors, 0),
        classes=tf.where(pad < 0, rows.classes, pad_class),
        scores=tf.where(place < rows.num_good[:, tf.newaxis], rows.scores, np.float32(-1)),
    )


def _pair_boxes(boxes: tf.Tensor, anchors: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """`[N, A, q, 4], [N, P], [N, P] -> [N, P, 4]`: the boxes of pairs of anchors and classes."""
    q = boxes.shape[2]
    pairs = anchors if q == 1 else anchors * q + classes
    return tf.gather(tf.reshape(boxes, [-1, _length(boxes) * q, 4]), pairs, batch_dims=1)


def _best_rows(boxes: tf.Tensor, scores: tf.Tensor, clip_window: tf.Tensor, options: NmsOptions, size: int) -> _Rows:
    """Suppresses a few pairs first; then more, at last all, as long as an image needs more."""

    def rows_of(pool: _Pool, suppressed: _Suppress) -> _Rows:
        return _rows(boxes, pool, clip_window, options, scores.shape[2], size, suppressed)

    def more(limit: tf.Tensor, _: _Rows) -> tuple[tf.Tensor, _Rows]:
        return limit * GROWTH, rows_of(_exact_pool(scores, limit, options), suppress)

    suppress = _one_by_one if options.soft_nms_sigma > 0 else HARD_SUPPRESSIONS[options.suppression]
    limit = size * (FIRST_LIMIT_OF_ONE_CLASS if scores.shape[2] == 1 else FIRST_LIMIT)
    first = rows_of(_likely_pool(scores, limit, options), suppress)
    rows: _Rows
    if suppress is _fixed_point:
        return _or_all_one_by_one(first, boxes, scores, clip_window, options, size)
    _, rows = tf.while_loop(
        lambda _, rows: tf.logical_not(tf.reduce_all(rows.enough)),
        more,
        (tf.constant(limit * GROWTH), first),
        parallel_iterations=1,
    )
    return rows


def _or_all_one_by_one(
    rows: _Rows, boxes: tf.Tensor, scores: tf.Tensor, clip_window: tf.Tensor, options: NmsOptions, size: int
) -> _Rows:
    """Returns the rows, or those of all pairs, suppressed one by one, if an image needs more.

    The memory of `_fixed_point` grows with the square of its pool, so there is no step between. This is neither a
    branch nor a loop: tf2onnx fails on the branch, and OpenVINO returns memory that was never written for a loop that
    ends before its first step. Where it is not needed it costs little: it gets one anchor, with no score to consider.
    """
    enough = tf.reduce_all(rows.enough)
    num_anchors = tf.where(enough, 1, _length(scores))
    scores = tf.where(enough, NEVER, scores[:, :num_anchors])
    boxes = boxes[:, :num_anchors]
    pool = _exact_pool(scores, num_anchors * scores.shape[2], options)
    of_all = _rows(boxes, pool, clip_window, options, scores.shape[2], size, _one_by_one)
    return _Rows(*(tf.where(enough, mine, theirs) for mine, theirs in zip(rows, of_all, strict=True)))


def _likely_pool(scores: tf.Tensor, limit: Length, options: NmsOptions) -> _Pool:
    """Returns the `limit` best pairs of `[N, A, C]`, found quickly; pairs that tie with the last are not usable."""
    num_anchors, num_classes = _length(scores), scores.shape[2]
    total = num_anchors * num_classes
    if num_classes == 1:
        return _exact_pool(scores, limit, options)
    limit = smaller(limit, total)
    best, pairs = _highest(scores, limit)
    # They are sorted by class and anchor first: sorting by score then keeps that order among equal scores.
    key, order = tf.nn.top_k(-(pairs % num_classes * num_anchors + pairs // num_classes), limit)
    best, again = tf.nn.top_k(tf.gather(best, order, batch_dims=1), limit)
    key = -tf.gather(key, again, batch_dims=1)
    last = tf.where(limit < total, best[:, -1], NEVER)
    return _pool(key, best, best > last[:, tf.newaxis], last, num_anchors, options)


def _exact_pool(scores: tf.Tensor, limit: Length, options: NmsOptions) -> _Pool:
    """Returns the first `limit` pairs of `[N, A, C]`, in the exact order of ties."""
    num_anchors, num_classes = _length(scores), scores.shape[2]
    total = num_anchors * num_classes
    limit = smaller(limit, total)
    by_class = scores if num_classes == 1 else tf.transpose(scores, [0, 2, 1])
    best, key = tf.nn.top_k(tf.reshape(by_class, [-1, total]), limit)
    last = tf.where(limit < total, best[:, -1], NEVER)
    return _pool(key, best, tf.ones_like(best, tf.bool), last, num_anchors, options)


def _pool(
    key: tf.Tensor, scores: tf.Tensor, sure: tf.Tensor, last: tf.Tensor, num_anchors: Length, options: NmsOptions
) -> _Pool:
    """Returns the pool of pairs `key` [N, P] (class * A + anchor).

    `sure` [N, P]: whether no pair outside comes before it. `last` [N]: the lowest score, NEVER if these are all pairs.
    """

    def above(scores: tf.Tensor) -> tf.Tensor:
        result = scores > np.float32(options.score_threshold)
        if options.score_threshold < 0 and not options.use_combined_nms:
            result &= scores >= 0  # the Object Detection API counts detections by this condition
        return result

    return _Pool(
        anchors=key % num_anchors,
        classes=key // num_anchors,
        scores=scores,
        usable=above(scores) & sure,
        unseen=tf.where(above(last), last, NEVER),
    )


def _highest(values: tf.Tensor, limit: Length) -> tuple[tf.Tensor, tf.Tensor]:
    """`[N, R, W] -> [N, limit], [N, limit]`: the highest values in any order, and their indices in `[R * W]`.

    They are in the `limit` rows with the highest maxima; these rows are split into pieces and searched in the same way.
    """
    width = values.shape[2]
    best_rows = tf.nn.top_k(tf.reduce_max(values, 2), smaller(limit, _length(values)), sorted=False).indices
    rows = tf.gather(values, best_rows, batch_dims=1)
    piece = max(w for w in range(1, WIDEST_PIECE + 1) if width % w == 0)
    if 4 <= piece < width:
        best, places = _highest(tf.reshape(rows, [-1, _length(rows) * (width // piece), piece]), limit)
    else:
        best, places = tf.nn.top_k(tf.reshape(rows, [-1, _length(rows) * width]), limit, sorted=False)
    return best, tf.gather(best_rows, places // width, batch_dims=1) * width + places % width


def _rows(
    boxes: tf.Tensor,
    pool: _Pool,
    clip_window: tf.Tensor,
    options: NmsOptions,
    num_classes: int,
    size: int,
    suppressed: _Suppress,
) -> _Rows:
    """Suppresses the pairs of a pool, drops those outside of the window, and keeps the first `size`."""
    pool_boxes = _pair_boxes(boxes, pool.anchors, pool.classes)
    kept = suppressed(pool_boxes, pool, _good(pool_boxes, clip_window, options), options, num_classes, size)
    good = _good(kept.boxes, clip_window, options) & (kept.order > 0)
    if options.pads_with_first_anchor:  # pruned rows come after the good ones
        pruned = tf.cast(_length(pool.scores), tf.float32)
        order, rows = tf.nn.top_k(tf.where(good, kept.order + pruned, kept.order), size)
        num_pruned = _count((order > 0) & (order <= pruned))
        classes = tf.where(kept.order > 0, tf.gather(pool.classes, kept.places, batch_dims=1), -1)
        class_counts = tf.reduce_sum(tf.one_hot(classes, num_classes, dtype=tf.int32), axis=1)
    else:
        order, rows = tf.nn.top_k(tf.where(good, kept.order, np.float32(0)), size)
        num_pruned = class_counts = tf.zeros_like(order[:, 0], tf.int32)
    num_good = _count(order > 0) - num_pruned
    full = _count(kept.order > 0) >= num_classes * options.most_per_class  # every class is full
    places = tf.gather(kept.places, rows, batch_dims=1)
    return _Rows(
        anchors=tf.gather(pool.anchors, places, batch_dims=1),
        classes=tf.gather(pool.classes, places, batch_dims=1),
        scores=tf.gather(kept.scores, rows, batch_dims=1),
        num_good=num_good,
        num_pruned=num_pruned,
        class_counts=class_counts,
        enough=(num_good >= size) | full | tf.equal(pool.unseen, NEVER),
    )


def _good(boxes: tf.Tensor, clip_window: tf.Tensor, options: NmsOptions) -> tf.Tensor:
    """`[N, S, 4], [N, 4] -> [N, S]`: whether the clipped box has an area; always true in combined suppression."""
    if options.use_combined_nms:
        return tf.ones_like(boxes[..., 0], tf.bool)
    areas = area(clipped(boxes, clip_window))
    return tf.not_equal(areas, 0) if options.use_static_shapes else areas > 0


def _kernel(boxes: tf.Tensor, pool: _Pool, good: tf.Tensor, options: NmsOptions, num_classes: int, size: int) -> _Kept:
    """Suppresses by TensorFlow's kernel for many classes, with ranks instead of scores, so that there are no ties."""
    limit = _length(pool.scores)
    order = tf.where(pool.usable, tf.cast(tf.range(limit, 0, -1), tf.float32), np.float32(0))
    per_class = options.most_per_class
    if num_classes == 1:
        order_by_class = order[..., tf.newaxis]
    else:
        # The kernel sorts classes x rows per class, so it gets only classes that are in the pool.
        counts = tf.reduce_sum(tf.one_hot(pool.classes, num_classes, dtype=tf.int32), axis=1)
        numbers = tf.cumsum(tf.minimum(counts, 1), axis=1)
        compact_classes = tf.gather(numbers, pool.classes, batch_dims=1) - 1
        order_by_class = tf.one_hot(compact_classes, tf.reduce_max(numbers)) * order[..., tf.newaxis]
        per_class = tf.minimum(per_class, tf.reduce_max(counts))
    with tf.device("/device:CPU:0"):  # the kernel for GPUs rounds differently
        kept = tf.image.combined_non_max_suppression(
            boxes[:, :, tf.newaxis],
            order_by_class,
            max_output_size_per_class=per_class,
            max_total_size=larger(limit, size),
            iou_threshold=options.kept_overlap,
            score_threshold=0.0,
            clip_boxes=False,
        )
    places = tf.minimum(limit - tf.cast(kept.nmsed_scores, tf.int32), limit - 1)
    return _Kept(places, kept.nmsed_boxes, tf.gather(pool.scores, places, batch_dims=1), kept.nmsed_scores)


def _fixed_point(
    boxes: tf.Tensor, pool: _Pool, good: tf.Tensor, options: NmsOptions, num_classes: int, size: int
) -> _Kept:
    """Suppresses by matrix products: a pair is kept unless a kept pair before it suppresses it.

    This definition is applied as a step from one guess to the next. The first pair is right from the start, and every
    pair is right once all before it are. The step is repeated until nothing changes, usually two to five times.
    """
    overlaps = _overlaps(boxes)(tf.tile(tf.range(_length(boxes))[tf.newaxis], [tf.shape(boxes)[0], 1]))
    places = tf.range(_length(boxes))
    suppresses = (overlaps > options.kept_overlap) & (places[:, tf.newaxis] < places)
    same_class = tf.equal(pool.classes[:, :, tf.newaxis], pool.classes[:, tf.newaxis])
    suppresses = tf.cast(suppresses & same_class if num_classes > 1 else suppresses, tf.float32)
    usable = tf.cast(pool.usable, tf.float32)

    def step(kept: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return usable * tf.cast(tf.equal(_times(kept, suppresses), 0), tf.float32), kept

    kept, _ = tf.while_loop(  # the first step is always taken, see _or_all_one_by_one
        lambda kept, before: tf.reduce_any(tf.not_equal(kept, before)),
        step,
        (usable, usable - 1.0),
        parallel_iterations=1,
    )
    not_after = same_class & (places[:, tf.newaxis] <= places)
    kept *= tf.cast(_times(kept, tf.cast(not_after, tf.float32)) <= options.most_per_class, tf.float32)
    order = kept * tf.cast(tf.range(_length(boxes), 0, -1), tf.float32)
    return _in_place(boxes, pool.scores, order, size)


def _one_by_one(
    boxes: tf.Tensor, pool: _Pool, good: tf.Tensor, options: NmsOptions, num_classes: int, size: int
) -> _Kept:
    """Suppresses one by one: repeatedly, the best pair of each image is kept and suppresses those that overlap it.

    It ends with `size` rows that are `good`, unless padding needs to count all rows. Soft suppression lowers scores.
    """
    limit = _length(pool.scores)
    soft, threshold = options.soft_nms_sigma > 0, np.float32(options.score_threshold)
    decay = np.float32(-0.5) / np.float32(options.soft_nms_sigma) if soft else None
    floor = tf.maximum(pool.unseen, threshold)  # below it, a pair outside of the pool might come first
    overlaps = _overlaps(boxes)

    def unfinished(scores: tf.Tensor, num_good: tf.Tensor) -> tf.Tensor:
        above = tf.reduce_max(scores, axis=1) > floor
        return above if options.pads_with_first_anchor else above & (num_good < size)

    def step(
        order_now: tf.Tensor, scores: tf.Tensor, order: tf.Tensor, final: tf.Tensor, num_good: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        best = tf.argmax(scores, axis=1, output_type=tf.int32)[:, tf.newaxis]
        active = unfinished(scores, num_good)[:, tf.newaxis]
        taken = tf.equal(tf.range(limit), best) & active
        order, final = tf.where(taken, order_now, order), tf.where(taken, scores, final)
        same_class = tf.equal(pool.classes, tf.gather(pool.classes, best, batch_dims=1))
        overlap = overlaps(best)[:, 0]
        if decay is None:
            lowered, removed = scores, taken | (overlap > options.kept_overlap)
        else:
            lowered = scores * tf.exp(decay * overlap * overlap)
            removed = taken | (lowered <= threshold)
            if options.suppress_at_threshold:
                removed |= overlap >= np.float32(options.iou_threshold)
        num_of_class = _count(same_class & (order > 0))[:, tf.newaxis]
        removed |= num_of_class >= options.most_per_class
        affected = same_class & active & (scores > NEVER)
        scores = tf.where(affected, tf.where(removed, NEVER, lowered), scores)
        return order_now - 1, scores, order, final, num_good + _count(taken & good)

    none, scores = tf.zeros_like(pool.scores), tf.where(pool.usable, pool.scores, NEVER)
    state = (tf.cast(limit, tf.float32), scores, none, none, tf.zeros_like(floor, tf.int32))
    _, _, order, final, _ = tf.while_loop(  # the first step is always taken, see _or_all_one_by_one
        lambda order_now, scores, order, final, num_good: (
            (order_now >= tf.cast(limit, tf.float32)) | tf.reduce_any(unfinished(scores, num_good))
        ),
        step,
        state,
        parallel_iterations=1,
    )
    return _in_place(boxes, final, order, size)


_Suppress = Callable[[tf.Tensor, _Pool, tf.Tensor, NmsOptions, int, int], _Kept]
HARD_SUPPRESSIONS: dict[Suppression, _Suppress] = {
    Suppression.KERNEL: _kernel,
    Suppression.OPERATIONS: _fixed_point,
}


def _in_place(boxes: tf.Tensor, scores: tf.Tensor, order: tf.Tensor, size: int) -> _Kept:
    """Returns the rows of a pool in their order there, padded to at least `size` rows."""
    limit = _length(order)
    order = tf.pad(order, [[0, 0], [0, larger(limit, size) - limit]])
    places = tf.broadcast_to(tf.minimum(tf.range(_length(order)), limit - 1), tf.shape(order))
    boxes, scores = (tf.gather(rows, places, batch_dims=1) for rows in (boxes, scores))
    return _Kept(places, boxes, scores, order)


def _times(rows: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """`[N, P], [N, P, S] -> [N, S]`: products of rows and matrices."""
    return tf.matmul(rows[:, tf.newaxis], matrices)[:, 0]


def _overlaps(boxes: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from indices `[N, B]` of boxes `[N, P, 4]` to their intersections over union with all boxes.

    These are `[N, B, P]`. The order of operations is that of TensorFlow's kernel, which sorts corners; the overlap of
    boxes without area is 0.
    """
    y0, x0, y1, x1 = tf.unstack(boxes, axis=-1)
    ymin, ymax, xmin, xmax = tf.minimum(y0, y1), tf.maximum(y0, y1), tf.minimum(x0, x1), tf.maximum(x0, x1)
    areas = (ymax - ymin) * (xmax - xmin)
    areas = tf.where(areas > 0, areas, LARGEST_AREA)
    columns = (ymin, xmin, ymax, xmax, areas)
    all_columns = [column[:, tf.newaxis] for column in columns]

    def overlaps(chosen: tf.Tensor) -> tf.Tensor:
        top, left, bottom, right, own_area = (
            tf.gather(column, chosen, batch_dims=1)[..., tf.newaxis] for column in columns
        )
        height = tf.maximum(tf.minimum(all_columns[2], bottom) - tf.maximum(all_columns[0], top), 0.0)
        width = tf.maximum(tf.minimum(all_columns[3], right) - tf.maximum(all_columns[1], left), 0.0)
        intersection = height * width
        return intersection / (all_columns[4] + own_area - intersection)

    return overlaps


def _count(flags: tf.Tensor) -> tf.Tensor:
    """`[N, S] -> [N]`: how many flags are set."""
    return tf.reduce_sum(tf.cast(flags, tf.int32), axis=1)


def _length(values: tf.Tensor) -> Length:
    """Returns the second dimension: an int if it is known, else a tensor."""
    return tf.shape(values)[1] if values.shape[1] is None else values.shape[1]
