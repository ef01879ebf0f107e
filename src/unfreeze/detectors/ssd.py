"""SSD: one network from pixels to boxes. Source: object_detection/meta_architectures/ssd_meta_arch.py."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from unfreeze.detectors.anchor_generators import build_anchor_generator
from unfreeze.detectors.box_coders import build_box_coder
from unfreeze.detectors.box_predictors import build_box_predictor
from unfreeze.detectors.detector import Detector, Forms, Tensors
from unfreeze.detectors.post_processing import build_post_processing
from unfreeze.detectors.resizers import build_resizer
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS, SsdExtractor
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.ops.branch import Branch
from unfreeze.ops.nms import anchor_indices, gathered, gathered_keypoints
from unfreeze.ops.sizes import image_size

# Fields of feature_extractor that only some extractors take; the original fails on them for the others.
OPTIONS = ("num_layers", "fpn", "bifpn", "spaghettinet_arch_name", "replace_preprocessor_with_placeholder")


def build_ssd(config: Any, p: Branch, forms: Forms) -> Detector:
    """The detector of an `Ssd` message on the weights `p`.

    Raises:
        ConfigError: what the original refuses too.
        UnsupportedError: a feature extractor or an option that this version does not have.
    """
    extractor = _extractor(config.feature_extractor)
    p = p.with_frozen_statistics() if config.freeze_batchnorm else p
    tf2 = extractor.tf2
    resizer = build_resizer(config.image_resizer)
    anchor_generator = build_anchor_generator(config.anchor_generator)
    box_coder = build_box_coder(config.box_coder)
    background_first = config.add_background_class or config.explicit_background_class
    if config.add_background_class and config.explicit_background_class:
        raise ConfigError(
            "ssd: add_background_class and explicit_background_class are both true; set one of them to false"
        )
    box_predictor = build_box_predictor(config.box_predictor, config.num_classes + config.add_background_class, tf2)
    post_processing = build_post_processing(config.post_processing, tf2, forms.suppression)

    def preprocess(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A rounding step can hang on the last bit: a quantization-aware model gets the original's order of the two.
        return resizer.resize_normalized(images, extractor.normalize, normalize_first=p.quantized)

    def predict(preprocessed: tf.Tensor, true_shapes: tf.Tensor) -> Tensors:
        feature_maps = extractor.features(preprocessed, p[extractor.scope], config.feature_extractor)
        anchors = anchor_generator.generate([image_size(each) for each in feature_maps], image_size(preprocessed))
        stages = box_predictor(feature_maps, p, anchor_generator.num_anchors_per_location)
        stages |= {f"feature_map_{level}": feature_map for level, feature_map in enumerate(feature_maps)}
        return stages | {"anchors": tf.concat(anchors, axis=0), "clip_window": _clip_window(preprocessed, true_shapes)}

    def postprocess(stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
        decoded = box_coder.decode(stages["box_encodings"], stages["anchors"])
        all_scores = post_processing.score_converter(stages["class_predictions_with_background"])
        scores = all_scores[:, :, 1:] if background_first else all_scores
        kept = post_processing.nms(decoded.boxes[:, :, tf.newaxis], scores, stages["clip_window"])
        outputs = {
            "detection_boxes": kept.boxes,
            "detection_scores": kept.scores,
            "detection_classes": kept.classes + 1.0,  # the label map counts from 1, and so does a padding row
            "num_detections": tf.cast(kept.num_detections, tf.float32),
            "raw_detection_boxes": decoded.boxes,
            "raw_detection_scores": all_scores,
        }
        if post_processing.keeps_fields:
            outputs["detection_multiclass_scores"] = gathered(all_scores, kept)
            if tf2:
                outputs["detection_anchor_indices"] = anchor_indices(kept)
            if decoded.keypoints is not None:
                outputs["detection_keypoints"] = gathered_keypoints(decoded.keypoints, kept)
        return outputs

    return Detector(preprocess, predict, postprocess, resizer.shape, input_name="input_tensor" if tf2 else "inputs")


def _extractor(config: Any) -> SsdExtractor:
    extractor = SSD_EXTRACTORS.get(config.type)
    if extractor is None:
        raise UnsupportedError(
            f"not supported yet: ssd feature_extractor {config.type!r}; supported: {', '.join(SSD_EXTRACTORS)}"
        )
    for option in OPTIONS:
        if option not in extractor.options and config.HasField(option):
            raise ConfigError(
                f"feature_extractor: {config.type} does not take {option}; take it out, as the original refuses it too"
            )
    return extractor


def _clip_window(preprocessed: tf.Tensor, true_shapes: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C], [N, 3] -> [N, 4]`: the part of each padded image that is picture."""
    padded = tf.cast(tf.stack(image_size(preprocessed)), tf.float32)
    fraction = tf.cast(true_shapes[:, :2], tf.float32) / padded
    return tf.concat([tf.zeros_like(fraction), fraction], axis=1)
