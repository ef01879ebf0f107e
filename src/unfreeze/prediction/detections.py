"""Turns the outputs of a model for one image into detections."""

from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from unfreeze.errors import SavedModelError
from unfreeze.images import WHOLE_IMAGE, Detection
from unfreeze.images.detections import Keypoint
from unfreeze.prediction.class_names import Names


def parse_detections(
    outputs: Mapping[str, np.ndarray], image: Image.Image, names: Names, min_score: float
) -> Iterator[Detection]:
    """Yields the detections that score at least `min_score`, in the order of the outputs (highest score first).

    Raises: SavedModelError if a score or a box is not finite.
    """
    count = int(outputs["num_detections"]) if "num_detections" in outputs else len(outputs["detection_scores"])
    scores, boxes = outputs["detection_scores"][:count], outputs["detection_boxes"][:count]
    is_finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=-1)
    for index in np.flatnonzero(~(scores < min_score)).tolist():
        if not is_finite[index]:
            raise SavedModelError(
                f"detection {index} has a box or a score that is not finite (score {scores[index]}). Check the weights."
            )
        class_id = round(float(outputs["detection_classes"][index]))
        ymin, xmin, ymax, xmax = map(shortest_float, boxes[index])
        box = (ymin, xmin, ymax, xmax)
        mask = outputs["detection_masks"][index] if "detection_masks" in outputs else None
        # Most models return masks that cover the box, some return masks that cover the whole image.
        covers_image = mask is not None and mask.shape == (image.height, image.width)
        yield Detection(
            class_id=class_id,
            name=names.get(class_id, f"class {class_id}"),
            score=shortest_float(scores[index]),
            box=box,
            mask=mask,
            mask_box=WHOLE_IMAGE if covers_image else box,
            keypoints=keypoints_of(outputs, index),
        )


def keypoints_of(outputs: Mapping[str, np.ndarray], index: int) -> tuple[Keypoint, ...]:
    """Returns (y, x, score) of each keypoint of a detection; the score is 1 if the model does not return scores."""
    if "detection_keypoints" not in outputs:
        return ()
    points = outputs["detection_keypoints"][index]
    scores = outputs.get("detection_keypoint_scores", np.ones(outputs["detection_keypoints"].shape[:2]))[index]
    return tuple(
        (shortest_float(y), shortest_float(x), shortest_float(score))
        for (y, x), score in zip(points, scores, strict=True)
    )


def shortest_float(number: np.floating) -> float:
    """Returns the shortest decimal that is the same float32, so that JSON has 0.9 and not 0.8999999761581421."""
    return float(str(np.float32(number)))
