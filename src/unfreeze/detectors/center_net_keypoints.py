"""Builds the keypoint tasks of a CenterNet: each predicts the keypoints of one class, which a label map names.

Source: object_detection/builders/model_builder.py (keypoint_proto_to_params), meta_architectures/
center_net_meta_arch.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from unfreeze.config import Label, messages, read_label_map
from unfreeze.detectors.center_net_heads import head
from unfreeze.detectors.detector import Tensors
from unfreeze.errors import ConfigError
from unfreeze.heads.center import Head
from unfreeze.ops.heatmaps import Peaks
from unfreeze.ops.keypoints import (
    ARGMAX_RANKING,
    RANKINGS,
    RANKINGS_BY_BOXES,
    KeypointMaps,
    KeypointOptions,
    Keypoints,
    argmax_keypoints,
    keypoints_of_peaks,
    normalized_keypoints,
    rescored,
)

STD_DEV_DEFAULT = 1.0  # for a keypoint that is not in keypoint_label_to_std


@dataclass(frozen=True)
class KeypointTask:
    """A `keypoint_estimation_task`: its class (from 0), the indices of its keypoints among all, and its options."""

    name: str
    class_id: int
    keypoint_indices: tuple[int, ...]
    options: KeypointOptions
    heads: dict[str, Head]  # by the name of their predictions
    clip_out_of_frame_keypoints: bool
    rescore_instances: bool
    rescoring_threshold: float
    argmax_postprocessing: bool

    def maps(self, stages: Tensors) -> KeypointMaps:
        """Returns the maps that the heads of this task predict."""
        return KeypointMaps(
            heatmap=tf.sigmoid(stages[f"{self.name}/keypoint/heatmap"]),
            offset=stages[f"{self.name}/keypoint/offset"],
            regression=stages[f"{self.name}/keypoint/regression"],
            depth=stages.get(f"{self.name}/keypoint/depth"),
        )


@dataclass(frozen=True)
class KeypointTasks:
    """All keypoint tasks of a model.

    `alone`: whether there is one task, for the only class. Its keypoints then come in the order of the label map.
    """

    tasks: tuple[KeypointTask, ...]
    alone: bool

    def keypoints(
        self, stages: Tensors, peaks: Peaks, strided: tf.Tensor | None, stride: int, true_shapes: tf.Tensor
    ) -> Keypoints:
        """Returns the keypoints of D objects relative to the true image; zeros for a class without keypoints.

        `strided` `[N, D, 4]`: the boxes of the objects in pixels of the map, if the model has boxes.
        """
        if self.alone:
            keypoints = _keypoints_of_only_class(self.tasks[0], stages, peaks, strided)
        else:
            keypoints = self._keypoints_of_classes(stages, peaks, strided)
        clip = all(task.clip_out_of_frame_keypoints for task in self.tasks)
        return normalized_keypoints(keypoints, stride, true_shapes, clip_out_of_frame_keypoints=clip)

    def rescored(self, scores: tf.Tensor, classes: tf.Tensor, keypoint_scores: tf.Tensor) -> tf.Tensor:
        """`[N, D], [N, D], [N, D, P] -> [N, D]`: the scores, changed by the tasks with `rescore_instances`."""
        for task in self.tasks:
            if task.rescore_instances:
                scores, keypoint_scores = rescored(
                    scores,
                    classes,
                    keypoint_scores,
                    class_id=task.class_id,
                    keypoint_indices=task.keypoint_indices,
                    rescoring_threshold=task.rescoring_threshold,
                )
        return scores

    def _keypoints_of_classes(self, stages: Tensors, peaks: Peaks, strided: tf.Tensor | None) -> Keypoints:
        """Returns the keypoints of each task for the objects of its class, at their indices among all keypoints."""
        points, scores = [], []
        for task in self.tasks:
            keypoints = keypoints_of_peaks(task.maps(stages), peaks, strided, task.options)
            own = (peaks.channels == task.class_id) & (peaks.scores > 0)
            points.append(tf.where(own[..., tf.newaxis, tf.newaxis], keypoints.points, 0.0))
            scores.append(tf.where(own[..., tf.newaxis], keypoints.scores, 0.0))
        places = np.argsort([index for task in self.tasks for index in task.keypoint_indices])
        return Keypoints(
            tf.gather(tf.concat(points, axis=2), places, axis=2), tf.gather(tf.concat(scores, axis=2), places, axis=2)
        )


def _keypoints_of_only_class(task: KeypointTask, stages: Tensors, peaks: Peaks, strided: tf.Tensor | None) -> Keypoints:
    if task.argmax_postprocessing:
        assert strided is not None  # `_check_ranking` rejects it without boxes
        return argmax_keypoints(task.maps(stages), peaks, strided, task.options)
    return keypoints_of_peaks(task.maps(stages), peaks, strided, task.options)


def build_keypoint_tasks(config: messages.CenterNet) -> KeypointTasks | None:
    """Returns the keypoint tasks of a `CenterNet` message, or None if it has none.

    Raises:
        ConfigError: the Object Detection API rejects the message too, or fails on it.
    """
    if not config.keypoint_estimation_task:
        return None
    labels = _labels(config.keypoint_label_map_path)
    alone = len(config.keypoint_estimation_task) == 1 and config.num_classes == 1
    has_boxes = config.HasField("object_detection_task")
    tasks = tuple(_task(message, labels, alone, has_boxes) for message in config.keypoint_estimation_task)
    _check_together(tasks, alone)
    return KeypointTasks(tasks, alone)


def _labels(path: str) -> dict[str, Label]:
    """Returns the classes with keypoints, by name."""
    return {label.name: label for label in read_label_map(path).labels.values() if label.keypoints}


def _task(
    config: messages.CenterNet.KeypointEstimation, labels: dict[str, Label], alone: bool, has_boxes: bool
) -> KeypointTask:
    where = f"keypoint_estimation_task {config.task_name!r}"
    label = labels.get(config.keypoint_class_name)
    if label is None:
        raise ConfigError(
            f"{where}: keypoint_class_name {config.keypoint_class_name!r} has no keypoints in the label map; classes "
            f"with keypoints: {', '.join(map(repr, labels)) or 'none'}"
        )
    std_devs = [config.keypoint_label_to_std.get(text, STD_DEV_DEFAULT) for text in label.keypoints.values()]
    options = KeypointOptions(
        keypoint_candidate_score_threshold=config.keypoint_candidate_score_threshold,
        num_candidates_per_keypoint=config.num_candidates_per_keypoint,
        peak_max_pool_kernel_size=config.peak_max_pool_kernel_size,
        unmatched_keypoint_score=config.unmatched_keypoint_score,
        box_scale=config.box_scale,
        candidate_search_scale=config.candidate_search_scale,
        candidate_ranking_mode=config.candidate_ranking_mode,
        score_distance_offset=config.score_distance_offset,
        score_distance_multiplier=config.score_distance_multiplier,
        keypoint_std_dev=tuple(std_dev * config.std_dev_multiplier for std_dev in std_devs),
        gaussian_denom_ratio=config.gaussian_denom_ratio,
    )
    argmax = alone and config.argmax_postprocessing
    _check_ranking(where, config, argmax, has_boxes)
    if config.predict_depth and not alone:
        raise ConfigError(
            f"{where}: predict_depth is true, which needs num_classes: 1 and a single keypoint_estimation_task"
        )
    return KeypointTask(
        name=config.task_name,
        class_id=label.id - 1,
        keypoint_indices=tuple(label.keypoints),
        options=options,
        heads=_heads(config, len(label.keypoints), where, argmax=argmax),
        clip_out_of_frame_keypoints=config.clip_out_of_frame_keypoints,
        rescore_instances=config.rescore_instances,
        rescoring_threshold=config.rescoring_threshold,
        argmax_postprocessing=argmax,
    )


def _heads(
    config: messages.CenterNet.KeypointEstimation, num_keypoints: int, where: str, *, argmax: bool
) -> dict[str, Head]:
    num_offsets = 2 * num_keypoints if config.per_keypoint_offset else 2
    heads = {
        "heatmap": head(num_keypoints, config, "heatmap_head_params", where),
        "regression": head(2 * num_keypoints, config, "regress_head_params", where, at_peaks=True),
        "offset": head(num_offsets, config, "offset_head_params", where, at_peaks=not argmax),
    }
    if config.predict_depth:
        heads["depth"] = Head(num_keypoints if config.per_keypoint_depth else 1, at_peaks=True)
    return {f"{config.task_name}/keypoint/{name}": head for name, head in heads.items()}


def _check_ranking(where: str, config: messages.CenterNet.KeypointEstimation, argmax: bool, has_boxes: bool) -> None:
    mode = config.candidate_ranking_mode
    modes = (ARGMAX_RANKING,) if argmax else tuple(RANKINGS)
    if mode not in modes:
        raise ConfigError(
            f"{where}: candidate_ranking_mode is {mode!r}; set it to "
            f"{' or '.join(modes)}{' with argmax_postprocessing' if argmax else ''}"
        )
    if (argmax or mode in RANKINGS_BY_BOXES) and not has_boxes:
        raise ConfigError(f"{where}: candidate_ranking_mode {mode} needs boxes; add an object_detection_task")
    if argmax and not config.per_keypoint_offset:
        raise ConfigError(f"{where}: argmax_postprocessing needs per_keypoint_offset: true")
    if config.num_candidates_per_keypoint < 1:
        raise ConfigError(
            f"{where}: num_candidates_per_keypoint is {config.num_candidates_per_keypoint}; it must be at least 1"
        )


def _check_together(tasks: tuple[KeypointTask, ...], alone: bool) -> None:
    classes = [task.class_id for task in tasks]
    indices = [index for task in tasks for index in task.keypoint_indices]
    if len({task.name for task in tasks}) < len(tasks):
        raise ConfigError("center_net: two keypoint_estimation_task have the same task_name; rename one of them")
    if len(set(classes)) < len(classes):
        raise ConfigError("center_net: two keypoint_estimation_task are for the same class; remove one of them")
    if len(set(indices)) < len(indices):
        raise ConfigError(
            "center_net: two keypoints of the label map have the same id; ids must be unique among all keypoint tasks"
        )
    if not alone and set(indices) != set(range(len(indices))):
        raise ConfigError(
            f"center_net: the keypoints of all tasks have the ids {sorted(indices)}; they must be 0 to "
            f"{len(indices) - 1}, their indices in detection_keypoints"
        )
