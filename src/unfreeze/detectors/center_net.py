"""CenterNet, which detects objects as peaks of a heatmap.

Source: object_detection/meta_architectures/center_net_meta_arch.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from unfreeze.config import messages
from unfreeze.detectors.center_net_extractors import CENTER_NET_EXTRACTORS, STRIDE, CenterNetExtractor, normalization
from unfreeze.detectors.center_net_heads import heads_of
from unfreeze.detectors.center_net_keypoints import KeypointTasks, build_keypoint_tasks
from unfreeze.detectors.center_net_masks import build_deep_mask, mask_outputs
from unfreeze.detectors.detector import Detector, Forms, Tensors
from unfreeze.detectors.post_processing import PostProcessing, build_post_processing
from unfreeze.detectors.resizers import build_resizer
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.heads.center import Head, prediction_net, sparse_prediction_net
from unfreeze.heads.deep_mask import deep_masks
from unfreeze.ops.branch import Branch
from unfreeze.ops.center_boxes import boxes_of_peaks, enclosing_boxes, normalized_boxes
from unfreeze.ops.heatmaps import Peaks, top_peaks, without_padding
from unfreeze.ops.instance_masks import boxes_in_map
from unfreeze.ops.nms import Suppression, gathered
from unfreeze.ops.sizes import image_size

HEADS = "_prediction_head_dict"


def build_center_net(config: messages.CenterNet, p: Branch, forms: Forms) -> Detector:
    """Returns the detector of a `CenterNet` message on the weights `p`.

    Raises:
        ConfigError: the Object Detection API rejects the message too, or fails on it.
        UnsupportedError: the feature extractor is not supported.
    """
    extractor = _extractor(config.feature_extractor)
    resizer = build_resizer(config.image_resizer, portable=forms.portable)
    normalize = normalization(config.feature_extractor, extractor)
    has_deep_masks = config.HasField("deepmac_mask_estimation")
    objects = _with_deep_masks(config, p) if has_deep_masks else _with_tasks(config, forms)

    def preprocess(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        resized, true_shapes = resizer.resize(images)
        return normalize(resizer.finish(resized)), true_shapes

    def predict(preprocessed: tf.Tensor, true_shapes: tf.Tensor) -> Tensors:
        features = extractor.features(preprocessed, p["_feature_extractor"], config.feature_extractor)
        levels = range(len(features)) if objects.every_stage else range(len(features) - 1, len(features))
        stages = {"preprocessed_inputs": preprocessed}
        for level in levels:
            stages[f"extracted_features/{level}"] = features[level]
            for name, head in objects.heads.items():
                net = p[HEADS][name][str(level)]
                stages[f"{name}/{level}"] = (
                    sparse_prediction_net(features[level], net, head)
                    if objects.sparse and head.at_peaks and len(head.num_filters) == 1
                    else prediction_net(features[level], net, head, use_depthwise=objects.use_depthwise)
                )
        _ignore_training_weights(p, objects.heads, len(features) - len(levels))
        return stages | {name: stages[f"{name}/{levels[-1]}"] for name in objects.heads}

    return Detector(
        preprocess,
        predict,
        objects.outputs,
        (*resizer.size, 3),
        input_name="input_tensor",
        masks_of_boxes=objects.masks_of_boxes,
    )


@dataclass(frozen=True)
class _Objects:
    """The heads of the network, and the function that computes the outputs from them.

    `every_stage`: whether the maps of all stacked hourglasses are outputs. `sparse`: whether maps that are used only at
    peaks may be computed only there.
    """

    heads: dict[str, Head]
    outputs: Callable[[Tensors, tf.Tensor], Tensors]
    use_depthwise: bool = False
    every_stage: bool = False
    sparse: bool = False
    masks_of_boxes: Callable[[Tensors, tf.Tensor, tf.Tensor], Tensors] | None = None


def _with_tasks(config: messages.CenterNet, forms: Forms) -> _Objects:
    """Returns the heads and outputs of all tasks of the config."""
    keypoints = build_keypoint_tasks(config)
    suppression = _suppression(config, forms.suppression)
    _check(config)
    heads = heads_of(config)
    if keypoints is not None:
        heads |= {name: head for task in keypoints.tasks for name, head in task.heads.items()}

    def outputs(stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
        detections, peaks = _detections(config, stages, true_shapes)
        if keypoints is not None:
            detections |= _keypoints(keypoints, stages, peaks, detections, true_shapes)
        if config.HasField("mask_estimation_task"):
            boxes = detections["detection_boxes"]
            detections |= mask_outputs(config, stages, boxes, peaks.channels, STRIDE, true_shapes)
        if config.HasField("track_estimation_task"):
            detections["detection_embeddings"] = tf.linalg.normalize(peaks.of(stages["track/reid"]), axis=-1)[0]
        if config.HasField("temporal_offset_task"):
            detections["detection_temporal_offsets"] = peaks.of(stages["track/offset"])
        if suppression is not None:
            detections = _suppressed(detections, suppression)
        if keypoints is not None:
            detections["detection_scores"] = keypoints.rescored(
                detections["detection_scores"],
                detections["detection_classes"],
                detections["detection_keypoint_scores"],
            )
        if config.output_prediction_dict:
            detections |= _prediction_dict(heads, stages, true_shapes)
        return _as_exported(detections)

    every_stage = config.output_prediction_dict
    sparse = not (every_stage or config.use_depthwise or forms.whole_maps)
    return _Objects(heads, outputs, config.use_depthwise, every_stage, sparse)


def _with_deep_masks(config: messages.CenterNet, p: Branch) -> _Objects:
    """Returns the heads and outputs of a DeepMAC.

    Of the other tasks the Object Detection API reads only `object_detection_task` then.
    """
    deep_mask = build_deep_mask(config.deepmac_mask_estimation)
    if not config.HasField("object_detection_task"):
        raise ConfigError("center_net: deepmac_mask_estimation needs boxes; add an object_detection_task")

    def masks(stages: Tensors, strided: tf.Tensor) -> tf.Tensor:
        embedding = stages["INSTANCE_EMBEDDING"]
        boxes = strided / tf.cast(tf.tile(tf.stack(image_size(embedding)), [2]), tf.float32)
        return deep_masks(stages["PIXEL_EMBEDDING"], embedding, boxes, p["_mask_net"], deep_mask, STRIDE)

    def outputs(stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
        detections, _ = _detections(config, stages, true_shapes)
        detections["detection_masks"] = masks(stages, detections["detection_boxes_strided"])
        return _as_exported(detections)

    def masks_of_boxes(stages: Tensors, true_shapes: tf.Tensor, boxes: tf.Tensor) -> Tensors:
        detections, _ = _detections(config, stages, true_shapes)
        map_size = tf.cast(tf.tile(tf.stack(image_size(stages["INSTANCE_EMBEDDING"])), [2]), tf.float32)
        padded = boxes_in_map(boxes, stages["preprocessed_inputs"], 1, true_shapes)
        detections["detection_masks"] = masks(stages, padded * map_size)
        return _as_exported(detections)

    return _Objects(heads_of(config), outputs, masks_of_boxes=masks_of_boxes)


def _detections(config: messages.CenterNet, stages: Tensors, true_shapes: tf.Tensor) -> tuple[Tensors, Peaks]:
    """Returns the peaks of the heatmap, and boxes around them if the config has a task for boxes; classes from 0."""
    params = config.object_center_params
    heatmap = without_padding(tf.sigmoid(stages["object_center"]), true_shapes)
    peaks = top_peaks(heatmap, params.max_box_predictions, params.peak_max_pool_kernel_size)
    detections = {
        "detection_scores": peaks.scores,
        "detection_multiclass_scores": peaks.of(heatmap),
        "detection_classes": tf.cast(peaks.channels, tf.float32),
        "num_detections": tf.reduce_sum(tf.cast(peaks.scores > 0, tf.int32), axis=1),
    }
    if config.HasField("object_detection_task"):
        strided = boxes_of_peaks(peaks, stages["box/scale"], stages["box/offset"])
        detections["detection_boxes_strided"] = strided
        detections["detection_boxes"] = normalized_boxes(strided, STRIDE, true_shapes)
    return detections, peaks


def _keypoints(
    tasks: KeypointTasks, stages: Tensors, peaks: Peaks, detections: Tensors, true_shapes: tf.Tensor
) -> Tensors:
    """Returns keypoints, and the boxes around them if the model has no other boxes."""
    strided = detections.get("detection_boxes_strided")
    keypoints = tasks.keypoints(stages, peaks, strided, STRIDE, true_shapes)
    outputs = {"detection_keypoints": keypoints.points, "detection_keypoint_scores": keypoints.scores}
    if keypoints.depths is not None:
        outputs["detection_keypoint_depths"] = keypoints.depths
    if strided is None:
        outputs["detection_boxes"] = enclosing_boxes(keypoints.points)
    return outputs


def _suppressed(detections: Tensors, suppression: PostProcessing) -> Tensors:
    """Returns the same outputs after non-maximum suppression, each box with the score of its own class only."""
    boxes, scores = detections["detection_boxes"], detections["detection_multiclass_scores"]
    classes = tf.cast(detections["detection_classes"], tf.int32)[..., tf.newaxis]
    own = tf.equal(classes, tf.range(scores.shape[2]))  # tf2onnx does not convert a one_hot of booleans
    # The Object Detection API passes no window to clip to; it then clips to the smallest window around all boxes.
    window = tf.concat([tf.reduce_min(boxes[..., :2], axis=1), tf.reduce_max(boxes[..., 2:], axis=1)], axis=1)
    kept = suppression.nms(
        boxes[:, :, tf.newaxis], tf.where(own, scores, 0.0), window, num_valid_boxes=detections["num_detections"]
    )
    rows = {name: gathered(values, kept) for name, values in detections.items() if name != "num_detections"}
    return rows | {
        "detection_boxes": kept.boxes,
        "detection_scores": kept.scores,
        "detection_classes": kept.classes,
        "num_detections": kept.num_detections,
    }


def _prediction_dict(heads: dict[str, Head], stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
    """Returns the outputs of `output_prediction_dict`: `[N, L, H, W, C]` for L stacked hourglasses.

    The Object Detection API puts L before N, which no server could batch.
    """
    stacked = {}
    for name in (*heads, "extracted_features"):
        count = sum(stage.startswith(f"{name}/") and stage[len(name) + 1 :].isdigit() for stage in stages)
        stacked[name] = tf.stack([stages[f"{name}/{level}"] for level in range(count)], axis=1)
    return stacked | {
        "preprocessed_inputs": stages["preprocessed_inputs"],
        "true_image_shapes": tf.cast(true_shapes, tf.float32),
    }


def _as_exported(detections: Tensors) -> Tensors:
    """Returns all outputs in float32, with classes from 1, as in label maps."""
    detections["detection_classes"] += 1.0
    return {name: tf.cast(values, tf.float32) for name, values in detections.items()}


def _ignore_training_weights(p: Branch, heads: dict[str, Head], unused_levels: int) -> None:
    """Marks what only training needs: heads on the earlier hourglasses, and the classifier of track ids."""
    for name in heads:
        for level in range(unused_levels):
            p[HEADS][name][str(level)].ignore()
    p["track_reid_classification_net"].ignore()
    p["_self_supervised_rng"].ignore()


def _suppression(config: messages.CenterNet, form: Suppression) -> PostProcessing | None:
    if not config.HasField("post_processing"):
        return None
    nms = config.post_processing.batch_non_max_suppression
    for field in ("change_coordinate_frame", "use_combined_nms"):
        if getattr(nms, field):
            raise ConfigError(
                f"center_net: post_processing: {field} is true, which is not supported here; set it to false (the "
                "Object Detection API rejects it too)"
            )
    if config.output_prediction_dict:
        raise ConfigError(
            "center_net: post_processing cannot be combined with output_prediction_dict; remove one of them"
        )
    return build_post_processing(config.post_processing, tf2=True, suppression=form)


def _extractor(config: messages.CenterNetFeatureExtractor) -> CenterNetExtractor:
    extractor = CENTER_NET_EXTRACTORS.get(config.type)
    if extractor is None:
        raise UnsupportedError(
            f"not supported yet: center_net feature_extractor {config.type!r}; supported: "
            f"{', '.join(CENTER_NET_EXTRACTORS)}"
        )
    return extractor


def _check(config: messages.CenterNet) -> None:
    if not config.HasField("object_detection_task") and not config.keypoint_estimation_task:
        raise ConfigError("center_net: no task; add an object_detection_task or a keypoint_estimation_task")
    if config.HasField("densepose_estimation_task") and not config.HasField("mask_estimation_task"):
        raise ConfigError("center_net: densepose_estimation_task needs masks; add a mask_estimation_task")
