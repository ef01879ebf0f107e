"""SSD, a detector of one stage. Source: object_detection/meta_architectures/ssd_meta_arch.py."""

from __future__ import annotations

import tensorflow as tf

from unfreeze.config import messages
from unfreeze.detectors.anchor_generators import build_anchor_generator
from unfreeze.detectors.box_coders import build_box_decoder
from unfreeze.detectors.box_predictors import build_box_predictor
from unfreeze.detectors.detector import Detector, Forms, Tensors
from unfreeze.detectors.post_processing import build_post_processing
from unfreeze.detectors.resizers import build_resizer
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS, SsdExtractor
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.ops.branch import Branch
from unfreeze.ops.nms import anchor_indices, gathered, gathered_keypoints
from unfreeze.ops.sizes import image_size

# Fields of feature_extractor that only some extractors support; the Object Detection API rejects them for the others.
OPTIONS = ("num_layers", "fpn", "bifpn", "spaghettinet_arch_name", "replace_preprocessor_with_placeholder")


def build_ssd(config: messages.Ssd, p: Branch, forms: Forms) -> Detector:
    """Returns the detector of an `Ssd` message on the weights `p`.

    Raises:
        ConfigError: the Object Detection API rejects the message too.
        UnsupportedError: a feature extractor or an option is not supported.
    """
    extractor = _extractor(config.feature_extractor)
    p = p.with_frozen_statistics() if config.freeze_batchnorm else p
    tf2 = extractor.tf2
    resizer = build_resizer(config.image_resizer, portable=forms.portable)
    anchor_generator = build_anchor_generator(config.anchor_generator)
    decode_boxes = build_box_decoder(config.box_coder)
    background_first = config.add_background_class or config.explicit_background_class
    if config.add_background_class and config.explicit_background_class:
        raise ConfigError(
            "ssd: add_background_class and explicit_background_class are both true; set one of them to false"
        )
    box_predictor = build_box_predictor(config.box_predictor, config.num_classes + config.add_background_class, tf2)
    post_processing = build_post_processing(config.post_processing, tf2, forms.suppression)

    def preprocess(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A quantization step can depend on the last bit, so quantization-aware models keep the order of operations of
        # the Object Detection API.
        return resizer.resize_normalized(images, extractor.normalize, normalize_first=p.quantized)

    def predict(preprocessed: tf.Tensor, true_shapes: tf.Tensor) -> Tensors:
        feature_maps = extractor.features(preprocessed, p[extractor.scope], config.feature_extractor)
        map_sizes = [image_size(feature_map) for feature_map in feature_maps]
        anchors = anchor_generator.generate(map_sizes, image_size(preprocessed))
        stages = box_predictor(feature_maps, p, anchor_generator.num_anchors_per_location)
        stages |= {f"feature_map_{level}": feature_map for level, feature_map in enumerate(feature_maps)}
        return stages | {"anchors": tf.concat(anchors, axis=0), "clip_window": _clip_window(preprocessed, true_shapes)}

    def postprocess(stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
        decoded = decode_boxes(stages["box_encodings"], stages["anchors"])
        all_scores = post_processing.score_converter(stages["class_predictions_with_background"])
        scores = all_scores[:, :, 1:] if background_first else all_scores
        kept = post_processing.nms(decoded.boxes[:, :, tf.newaxis], scores, stages["clip_window"])
        outputs = {
            "detection_boxes": kept.boxes,
            "detection_scores": kept.scores,
            "detection_classes": kept.classes + 1.0,  # label maps count from 1; in padding rows the class is 1 too
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


def _extractor(config: messages.SsdFeatureExtractor) -> SsdExtractor:
    extractor = SSD_EXTRACTORS.get(config.type)
    if extractor is None:
        raise UnsupportedError(
            f"not supported yet: ssd feature_extractor {config.type!r}; supported: {', '.join(SSD_EXTRACTORS)}"
        )
    for option in OPTIONS:
        if option not in extractor.options and config.HasField(option):
            raise ConfigError(
                f"feature_extractor: {option} is not supported by {config.type}; remove it (the Object Detection API "
                "rejects it too)"
            )
    return extractor


def _clip_window(preprocessed: tf.Tensor, true_shapes: tf.Tensor) -> tf.Tensor:
    """`[N, H, W, C], [N, 3] -> [N, 4]`: the window of each padded image that is not padding, normalized."""
    padded = tf.cast(tf.stack(image_size(preprocessed)), tf.float32)
    fraction = tf.cast(true_shapes[:, :2], tf.float32) / padded
    return tf.concat([tf.zeros_like(fraction), fraction], axis=1)
