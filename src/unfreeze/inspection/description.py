"""What a model file of another runtime contains, as far as that can be read without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unfreeze.inspection.inspection import Field
from unfreeze.verification.meta_graph import TensorInfo

TFLITE_POSTPROCESS = "TFLite_Detection_PostProcess"  # the operation, and the first of its outputs
TENSORRT_PLUGIN = "TRT.EfficientNMS_TRT"


@dataclass(frozen=True)
class Constants:
    """The number of constant tensors of a file, and their size."""

    count: int
    size_bytes: int


@dataclass(frozen=True)
class Description:
    """The content of a model file.

    `files` are the file and those that it refers to, which exist. `operations` counts each operation, those of inner
    graphs too. `properties` are what only this kind of file has, and `problems` what keeps it from running.
    """

    path: Path
    files: Sequence[Path]
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    operations: Counter[str]
    constants: Constants
    properties: Sequence[Field] = ()
    problems: Sequence[str] = field(default_factory=tuple)

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """Returns the shape `[N, H, W, 3]` of the images, where None is any length; all None if it takes no images."""
        shapes = [tensor.shape for tensor in self.inputs.values() if tensor.shape is not None]
        return next((shape for shape in shapes if len(shape) == 4), (None,) * 4)

    @property
    def has_own_suppression(self) -> bool:
        """Returns whether it ends in the operation of `--postprocessing tflite_op`, which has rules of its own."""
        return TFLITE_POSTPROCESS in self.operations and TFLITE_POSTPROCESS in self.outputs

    @property
    def needs_tensorrt(self) -> bool:
        """Returns whether it ends in the plugin of `--postprocessing tensorrt`, which only TensorRT runs."""
        return TENSORRT_PLUGIN in self.operations
