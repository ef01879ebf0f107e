"""What the outputs of a detector say of a picture, with the names of its classes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze import config
from unfreeze.errors import ConfigError, SavedModelError
from unfreeze.images import WHOLE_PICTURE, Detection

Names = Mapping[int, str]


def class_names(label_map: Path | None, folder: Path) -> Names:
    """Class id -> name for people, of the label map given or the one that was exported along."""
    labels = find_label_map(label_map, folder)
    return labels.display_names if labels else {}


def find_label_map(label_map: Path | None, folder: Path) -> config.LabelMap | None:
    """The label map given, or the one in the SavedModel's assets/."""
    if label_map is None:
        carried = sorted((folder / "assets").glob("*.pbtxt"))
        if len(carried) > 1:
            listed = ", ".join(path.name for path in carried)
            raise ConfigError(f"{folder / 'assets'} has several label maps ({listed}): choose one with --label-map")
        if not carried:
            return None
        label_map = carried[0]
    return config.read_label_map(label_map)


def carried_names(outputs: Mapping[str, np.ndarray]) -> Names:
    """The names that a server sends along with the classes; one without a name is left to its number."""
    names = outputs.get("detection_class_names", ())
    pairs = zip(outputs["detection_classes"], map(str, names), strict=False)
    return {round(float(class_id)): name for class_id, name in pairs if name}


def detections(
    outputs: Mapping[str, np.ndarray], picture: Image.Image, names: Names, min_score: float
) -> Iterator[Detection]:
    """What the outputs of one picture say, best first as the model gives it, without what scores less."""
    count = int(outputs["num_detections"]) if "num_detections" in outputs else len(outputs["detection_scores"])
    scores, boxes = outputs["detection_scores"][:count], outputs["detection_boxes"][:count]
    numbers = np.isfinite(scores) & np.isfinite(boxes).all(axis=-1)
    for index in np.flatnonzero(~(scores < min_score)).tolist():
        score = scores[index]
        if not numbers[index]:
            raise SavedModelError(f"detection {index} has a box or a score that is not a number: {score}")
        class_id = round(float(outputs["detection_classes"][index]))
        ymin, xmin, ymax, xmax = map(shortest, boxes[index])
        box = (ymin, xmin, ymax, xmax)
        mask = outputs["detection_masks"][index] if "detection_masks" in outputs else None
        # Most models answer with a mask over the box, some with one of the whole picture.
        over_picture = mask is not None and mask.shape == (picture.height, picture.width)
        yield Detection(
            class_id=class_id,
            name=names.get(class_id, f"class {class_id}"),
            score=shortest(score),
            box=box,
            mask=mask,
            mask_box=WHOLE_PICTURE if over_picture else box,
            keypoints=keypoints(outputs, index),
        )


def keypoints(outputs: Mapping[str, np.ndarray], index: int) -> tuple[tuple[float, float, float], ...]:
    """(y, x, score) of each keypoint; a model that does not score them means them all."""
    if "detection_keypoints" not in outputs:
        return ()
    points = outputs["detection_keypoints"][index]
    scores = outputs.get("detection_keypoint_scores", np.ones(outputs["detection_keypoints"].shape[:2]))[index]
    return tuple((shortest(y), shortest(x), shortest(score)) for (y, x), score in zip(points, scores, strict=True))


def shortest(number: np.floating) -> float:
    """The shortest decimal that gives the same float32 back, so that JSON says 0.9 and not 0.8999999761581421."""
    return float(str(np.float32(number)))
