"""A detector without suppression, for clients that do it themselves."""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf

from unfreeze.detectors.detector import Detector, Tensors
from unfreeze.errors import UnsupportedError


def with_raw_outputs(detector: Detector) -> Detector:
    """Returns the detector with boxes and scores before suppression as its only outputs.

    `raw_detection_boxes` `[N, A, 4]` are decoded and normalized, and not clipped in an SSD. `raw_detection_scores`
    `[N, A, C]` are converted; where the model has a background, it is column 0. An SSD has `anchors` `[N, A, 4]`, the
    same for each image; a detector of two stages has `final_anchors` `[N, A, 4]`, its proposals. Both are normalized to
    the padded image: ymin, xmin, ymax, xmax.

    Raises: UnsupportedError, when it is traced: the model has no boxes before its detections are chosen (a CenterNet).
    """

    def postprocess(stages: Tensors, true_shapes: tf.Tensor) -> Tensors:
        outputs = detector.postprocess(stages, true_shapes)
        if "raw_detection_boxes" not in outputs:
            raise UnsupportedError(
                "--postprocessing none: this model has no boxes before its detections are chosen (a CenterNet decodes "
                "boxes only at the peaks of its heatmaps); remove the option"
            )
        raw = {name: outputs[name] for name in ("raw_detection_boxes", "raw_detection_scores")}
        if "proposal_boxes_normalized" in stages:
            return raw | {"final_anchors": stages["proposal_boxes_normalized"]}
        num_images = tf.shape(raw["raw_detection_boxes"])[0]
        return raw | {"anchors": tf.tile(stages["anchors"][tf.newaxis], [num_images, 1, 1])}

    return replace(detector, postprocess=postprocess, masks_of_boxes=None)
