"""What every architecture hands to the writer: three steps on tensors and what they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import tensorflow as tf

from unfreeze.ops.nms import Suppression

Tensors = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Forms:
    """Which of several ways to compute the same results a detector takes.

    `suppression`: that of non-maximum suppression. `whole_maps`: a CenterNet computes its heads at every pixel, as a
    training needs them, and not only at the peaks that become detections.
    """

    suppression: Suppression = Suppression.KERNEL
    whole_maps: bool = False


@dataclass(frozen=True)
class Detector:
    """A detector of one config and one checkpoint.

    `preprocess`: [N, H, W, 3] uint8 or float32 (0..255, RGB) -> [N, *preprocessed_shape] float32, [N, 3] int32 (the
    true height, width and channels of each image within it).
    `predict`: these two, and the side inputs by name -> named stages.
    `postprocess`: stages and true shapes -> the outputs of the original, float32, N first.
    `masks_of_boxes`: stages, true shapes and boxes [N, B, 4] relative to the true picture -> the same outputs, but with
    the masks of these boxes; only where a model has masks for any box.
    """

    preprocess: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    predict: Callable[..., Tensors]
    postprocess: Callable[[Tensors, tf.Tensor], Tensors]
    preprocessed_shape: tuple[int | None, int | None, int]  # None where it depends on the picture
    input_name: str  # of `serving_default`, as the original's exporter of this generation calls it
    # What it needs besides pictures, by name, N first; each of its signatures takes them too.
    side_inputs: Mapping[str, tf.TensorSpec] = field(default_factory=dict)
    masks_of_boxes: Callable[[Tensors, tf.Tensor, tf.Tensor], Tensors] | None = None

    def detect(self, preprocessed: tf.Tensor, true_shapes: tf.Tensor, *side_inputs: tf.Tensor) -> Tensors:
        """Preprocessed images, and side inputs in their order, to detections."""
        given = dict(zip(self.side_inputs, side_inputs, strict=True))
        return self.postprocess(self.predict(preprocessed, true_shapes, **given), true_shapes)
