"""The interface of every runtime: a model from images to the outputs of the Object Detection API."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from unfreeze.errors import SavedModelError

Outputs = Mapping[str, np.ndarray]  # output of the Object Detection API -> array

REQUIRED_OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes")
OPTIONAL_OUTPUTS = ("num_detections", "detection_masks", "detection_keypoints", "detection_keypoint_scores")
# Those of a model without suppression (`--postprocessing none`).
RAW_OUTPUTS = ("raw_detection_boxes", "raw_detection_scores", "anchors", "final_anchors")

# The signatures of a SavedModel that are run on images, in order of preference. A SavedModel of another exporter may
# have `serving_default` only.
SIGNATURES = ("image_tensor", "serving_default", "float_image_tensor", "encoded_image_string_tensor", "tf_example")


class Model(Protocol):
    """A loaded model of images. It may be used by several threads at once."""

    @property
    def title(self) -> str:
        """Returns what messages call it: its path, and its signature if it has several."""

    @property
    def output_names(self) -> Sequence[str]:
        """Returns the names of its outputs."""

    @property
    def uses_gpu(self) -> bool:
        """Returns whether it runs on a GPU, which is faster with larger batches."""

    def run(self, images: np.ndarray) -> Outputs:
        """Returns every output for images `[N, H, W, 3]` uint8 RGB; the first dimension of each output is N.

        Raises: SavedModelError if the model fails.
        """


def split_batch(outputs: Outputs, count: int) -> list[Outputs]:
    """Returns the outputs of each image of a batch, without the batch dimension."""
    return [{name: value[index] for name, value in outputs.items()} for index in range(count)]


def require_detections(model: str, names: Iterable[str]) -> None:
    """Raises SavedModelError if the names of a model's outputs lack those of a detector."""
    names = list(names)
    missing = [name for name in REQUIRED_OUTPUTS if name not in names]
    if missing:
        raise SavedModelError(
            f"{model} is not a detector: it lacks {', '.join(missing)}, it has {name_list(names)}. Pass a detector."
        )


def name_list(names: Iterable[str]) -> str:
    """Returns sorted names for a message, or `none`."""
    return ", ".join(sorted(names)) or "none"
