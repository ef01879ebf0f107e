"""The boxes and classes of the second stage, from the mean features of each crop.

Source: object_detection/predictors/mask_rcnn_box_predictor.py, predictors/heads/{box_head,class_head}.py (the
MaskRCNN heads).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tensorflow as tf

from unfreeze.ops.branch import Branch
from unfreeze.ops.layers import Style, fully_connected


@dataclass(frozen=True)
class BoxClassifier:
    """The options of a `mask_rcnn_box_predictor` for its boxes and classes, under the config's names.

    `style` is that of `fc_hyperparams`; these layers ignore its activation.
    """

    num_classes: int
    style: Style
    box_code_size: int = 4
    share_box_across_classes: bool = False

    @property
    def num_boxes(self) -> int:
        """How many boxes each row has."""
        return 1 if self.share_box_across_classes else self.num_classes

    @property
    def outputs(self) -> dict[str, tf.TensorSpec]:
        """The specs of the outputs of `box_classifier`."""
        return {
            "refined_box_encodings": tf.TensorSpec([None, self.num_boxes, self.box_code_size]),
            "class_predictions_with_background": tf.TensorSpec([None, self.num_classes + 1]),
        }


def box_classifier(features: tf.Tensor, p: Branch, options: BoxClassifier) -> dict[str, tf.Tensor]:
    """`[R, h, w, C] -> refined_box_encodings [R, q, code], class_predictions_with_background [R, K + 1]`.

    q is K, a box for each class, or 1.
    """
    pooled = tf.reduce_mean(features, [1, 2])
    linear = replace(options.style, activation=None)
    codes = fully_connected(pooled, p["BoxEncodingPredictor"], options.num_boxes * options.box_code_size, style=linear)
    classes = fully_connected(pooled, p["ClassPredictor"], options.num_classes + 1, style=linear)
    return {
        "refined_box_encodings": tf.reshape(codes, [-1, options.num_boxes, options.box_code_size]),
        "class_predictions_with_background": classes,
    }
