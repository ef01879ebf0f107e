"""The detector that every architecture builds: three functions on tensors, and the inputs that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import tensorflow as tf

from unfreeze.ops.nms import Suppression

Tensors = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Forms:
    """The ways in which a detector computes its results, where several ways have the same results.

    `suppression`: the form of non-maximum suppression. `whole_maps`: whether a CenterNet computes its heads at every
    pixel, which training needs, or only at the peaks that become detections. `portable`: whether the graph is for the
    converters of other runtimes: images are resized by gathers and products, and crops are not computed in parts.
    """

    suppression: Suppression = Suppression.KERNEL
    whole_maps: bool = False
    portable: bool = False


# What every converter translates.
PORTABLE = Forms(Suppression.OPERATIONS, portable=True)


@dataclass(frozen=True)
class Detector:
    """The detector of one config and one checkpoint.

    `preprocess`: images [N, H, W, 3], uint8 or float32 (0..255, RGB) -> preprocessed images
    [N, *preprocessed_shape] float32 and true shapes [N, 3] int32: the height, width and channels of each image without
    its padding.
    `predict`: preprocessed images, true shapes, and the side inputs by name -> named stages.
    `postprocess`: stages and true shapes -> the outputs of the Object Detection API, float32, N first.
    `masks_of_boxes`: stages, true shapes and boxes [N, B, 4] relative to the true image -> the same outputs, but with
    the masks of these boxes. None unless the model can predict a mask for any box.
    """

    preprocess: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    predict: Callable[..., Tensors]
    postprocess: Callable[[Tensors, tf.Tensor], Tensors]
    preprocessed_shape: tuple[int | None, int | None, int]  # None where it depends on the image
    input_name: str  # the input of `serving_default`, as in exports of the Object Detection API for this generation
    # Inputs besides images, by name, N first; every signature takes them too.
    side_inputs: Mapping[str, tf.TensorSpec] = field(default_factory=dict)
    masks_of_boxes: Callable[[Tensors, tf.Tensor, tf.Tensor], Tensors] | None = None

    def detect(self, preprocessed: tf.Tensor, true_shapes: tf.Tensor, *side_inputs: tf.Tensor) -> Tensors:
        """Returns the detections in preprocessed images; `side_inputs` are in the order of `Detector.side_inputs`."""
        side_inputs_by_name = dict(zip(self.side_inputs, side_inputs, strict=True))
        return self.postprocess(self.predict(preprocessed, true_shapes, **side_inputs_by_name), true_shapes)
