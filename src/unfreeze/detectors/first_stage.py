"""Builds the region proposal network of a two-stage detector from the `first_stage_*` fields.

Source: object_detection/meta_architectures/faster_rcnn_meta_arch.py (_predict_first_stage, _postprocess_rpn).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.config import messages
from unfreeze.detectors.anchor_generators import build_anchor_generator
from unfreeze.detectors.detector import Tensors
from unfreeze.detectors.hyperparams import conv_style, keras_style
from unfreeze.detectors.post_processing import build_first_stage_nms
from unfreeze.errors import ConfigError
from unfreeze.heads.convolutional import ConvolutionalBoxPredictor, convolutional_box_predictor
from unfreeze.ops.boxes import clipped
from unfreeze.ops.branch import Branch
from unfreeze.ops.coders import center_size_boxes
from unfreeze.ops.crops import Rows, distinct_rows
from unfreeze.ops.layers import PLAIN, conv
from unfreeze.ops.nms import Suppression
from unfreeze.ops.sizes import Size, image_size

EXTRACTOR_SCOPE = "FirstStageFeatureExtractor"
PREDICTOR_SCOPE = "FirstStageBoxPredictor"

# Scales of the box coder of both stages; no config changes them. Source: core/target_assigner.py
# (create_target_assigner).
BOX_SCALES = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class FirstStage:
    """A region proposal network on `num_maps` feature maps.

    `propose`: (feature maps, true windows [N, 4] in pixels, size of the padded images, p) -> stages, proposals.

    The stage `proposal_boxes_normalized` [N, P, 4] contains the proposals relative to the padded image; rows from
    `num_proposals` [N] on are padding.
    """

    propose: Callable[[Sequence[tf.Tensor], tf.Tensor, Size, Branch], tuple[Tensors, Rows]]
    num_maps: int


def build_first_stage(config: messages.FasterRcnn, tf2: bool, form: Suppression) -> FirstStage:
    """Returns the first stage of a `FasterRcnn` message.

    Raises:
        ConfigError: the Object Detection API rejects the message too.
    """
    anchor_generator = build_anchor_generator(config.first_stage_anchor_generator)
    where, hyperparams = "first_stage_box_predictor_conv_hyperparams", config.first_stage_box_predictor_conv_hyperparams
    style = replace(keras_style(hyperparams) if tf2 else conv_style(hyperparams, where), activation=tf.nn.relu6)
    for field in ("atrous_rate", "box_predictor_kernel_size", "box_predictor_depth"):
        if getattr(config, f"first_stage_{field}") < 1:
            value = getattr(config, f"first_stage_{field}")
            raise ConfigError(f"faster_rcnn: first_stage_{field} is {value}; it must be at least 1")
    predictor = ConvolutionalBoxPredictor(num_class_slots=2, style=PLAIN)  # background and object
    suppression = build_first_stage_nms(config, tf2, form)

    def propose(
        feature_maps: Sequence[tf.Tensor], windows_px: tf.Tensor, size: Size, p: Branch
    ) -> tuple[Tensors, Rows]:
        features = [
            conv(
                feature_map,
                p["Conv"],
                config.first_stage_box_predictor_depth,
                config.first_stage_box_predictor_kernel_size,
                rate=config.first_stage_atrous_rate,
                style=style,
            )
            for feature_map in feature_maps
        ]
        anchors = anchor_generator.generate([image_size(feature_map) for feature_map in feature_maps])
        image_window = tf.cast(tf.stack([[0, 0, *size]]), tf.float32)
        anchors = clipped(tf.concat(anchors, axis=0)[tf.newaxis], image_window)
        predicted = convolutional_box_predictor(
            features, p[PREDICTOR_SCOPE], anchor_generator.num_anchors_per_location, predictor
        )
        boxes_px = center_size_boxes(predicted["box_encodings"], anchors, BOX_SCALES)
        scores = suppression.score_converter(predicted["class_predictions_with_background"])
        kept = suppression.nms(boxes_px[:, :, tf.newaxis], scores[:, :, 1:], windows_px)
        height, width = image_window[0, 2], image_window[0, 3]
        proposals = kept.boxes * (1.0 / tf.stack([height, width, height, width]))
        stages = {
            "rpn_box_encodings": predicted["box_encodings"],
            "rpn_objectness_predictions_with_background": predicted["class_predictions_with_background"],
            "anchors": anchors[0],
            "proposal_boxes_normalized": proposals,
            "num_proposals": kept.num_detections,
        }
        stages |= {f"rpn_box_predictor_features_{level}": feature_map for level, feature_map in enumerate(features)}
        return stages, distinct_rows(proposals, kept.empty)

    return FirstStage(propose, len(anchor_generator.num_anchors_per_location))
