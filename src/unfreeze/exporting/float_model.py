"""The detector in TensorFlow as a model of images, with which files of other formats are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from unfreeze.input_types import IMAGE_TENSOR
from unfreeze.savedmodel import Exportable


@dataclass(frozen=True)
class TensorFlowModel:
    """The detector in TensorFlow, in float32, as a model of images."""

    exportable: Exportable
    input_type: str
    title: str = "the float model"
    uses_gpu: bool = False

    @property
    def output_names(self) -> tuple[str, ...]:
        """Returns the names of its outputs."""
        return tuple(self.exportable.detect.structured_outputs)

    def run(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns every output for images `[N, H, W, 3]` uint8."""
        pixels = tf.constant(as_pixels(images, self.input_type))
        outputs = self.exportable.detect(*self.exportable.detector.preprocess(pixels))
        return {name: value.numpy() for name, value in outputs.items()}


def as_pixels(images: np.ndarray, input_type: str) -> np.ndarray:
    """Returns images uint8 in the dtype of an input type: IMAGE_TENSOR or FLOAT_IMAGE_TENSOR."""
    return images if input_type == IMAGE_TENSOR else images.astype(np.float32)
