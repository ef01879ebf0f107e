"""Turns annotations and the outputs of a model into columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unfreeze.evaluation.annotations import Annotations
from unfreeze.evaluation.boxes import Detections, Mask, Objects
from unfreeze.images import WHOLE_IMAGE, Detection
from unfreeze.images.detections import Box
from unfreeze.runtimes.model import Outputs


@dataclass(frozen=True)
class Truth:
    """The annotations as columns, with what their indexes of images and classes mean."""

    objects: Objects
    image_ids: np.ndarray  # [I] rising, as pycocotools orders images
    class_names: tuple[str, ...]  # [K] in the order of the category ids
    labels: np.ndarray  # [V] keys (`group_keys`) of the image-level labels

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


def truth_of(
    annotations: Annotations, class_ids: Collection[int], *, masks: bool, without: Collection[int] = ()
) -> Truth:
    """Returns the annotated objects of some categories as columns, without the images of some ids.

    With `masks`, the segmentations are decoded, which needs pycocotools.
    """
    dataset = annotations.dataset
    images = sorted(image["id"] for image in dataset["images"])
    wanted = [category for category in dataset["categories"] if category["id"] in class_ids]
    categories = sorted(wanted, key=lambda category: category["id"])
    image_index = {image_id: index for index, image_id in enumerate(images)}
    class_index = {category["id"]: index for index, category in enumerate(categories)}
    rows = [
        entry
        for entry in dataset["annotations"]
        if entry["image_id"] not in without and entry["category_id"] in class_index
    ]
    boxes = np.array([entry["bbox"] for entry in rows], np.float64).reshape(-1, 4)
    areas = [entry.get("area", box[2] * box[3]) for entry, box in zip(rows, boxes.tolist(), strict=True)]
    labels = [
        image_index[image_id] * len(categories) + class_index[category]
        for image_id, verified in annotations.image_labels.items()
        for category in verified
        if category in class_index
    ]
    return Truth(
        Objects(
            np.array([image_index[entry["image_id"]] for entry in rows], np.int64),
            np.array([class_index[entry["category_id"]] for entry in rows], np.int64),
            boxes,
            np.array(areas, np.float64),
            is_crowd=_flags(rows, "iscrowd"),
            is_difficult=_flags(rows, "difficult"),
            is_group_of=_flags(rows, "group_of"),
            masks=_masks(dataset["images"], rows) if masks else None,
        ),
        np.array(images),
        tuple(str(category["name"]) for category in categories),
        np.array(labels, np.int64),
    )


def _flags(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([bool(entry.get(name)) for entry in rows], bool)


def _masks(images: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[Mask]:
    """Returns the segmentations, polygons or run lengths, as compressed run lengths."""
    from pycocotools import mask as coco_mask

    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    masks: list[Mask] = []
    for entry in rows:
        segmentation, (height, width) = entry["segmentation"], sizes[entry["image_id"]]
        if isinstance(segmentation, list):
            segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, height, width)
        masks.append(segmentation)
    return masks


@dataclass
class DetectionColumns:
    """Collects the detections of one image after another.

    `class_index` maps a class id of the model to a class of the annotations; detections of other classes do not count.
    """

    class_index: Mapping[int, int]
    masks: bool
    images: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # height, width
    class_ids: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    encoded: list[Mask] = field(default_factory=list)

    def add(self, image: int, size: tuple[int, int], outputs: Outputs) -> None:
        """Adds the detections of an image of `size` (height, width)."""
        count = int(outputs.get("num_detections", len(outputs["detection_scores"])))
        self.images.append(image)
        self.sizes.append(size)
        self.class_ids.append(np.array(outputs["detection_classes"][:count]))
        self.boxes.append(np.array(outputs["detection_boxes"][:count]))
        self.scores.append(np.array(outputs["detection_scores"][:count]))
        self.masks = self.masks and "detection_masks" in outputs
        if self.masks:
            for mask, box in zip(outputs["detection_masks"][:count], self.boxes[-1].tolist(), strict=True):
                self.encoded.append(encode_mask(mask, tuple(box), size))

    def detections(self) -> Detections:
        """Returns all detections that were added; those with a box or score that is not finite do not count."""
        counts = [len(scores) for scores in self.scores]
        height, width = np.repeat(np.array(self.sizes, float).reshape(-1, 2), counts, axis=0).T
        class_ids = np.rint(np.nan_to_num(np.concatenate([np.zeros(0), *self.class_ids]), nan=-1)).astype(np.int64)
        ymin, xmin, ymax, xmax = np.concatenate([np.zeros((0, 4)), *self.boxes]).T
        table = Detections(
            np.repeat(np.array(self.images, np.int64), counts),
            self._classes_of(class_ids),
            np.stack([xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height], axis=1),
            np.concatenate([np.zeros(0), *self.scores]),
            self.encoded if self.masks else None,
        )
        counted = (table.classes >= 0) & np.isfinite(table.scores) & np.isfinite(table.boxes).all(axis=1)
        return table[np.flatnonzero(counted)]

    def _classes_of(self, class_ids: np.ndarray) -> np.ndarray:
        """Returns the class of each class id, -1 for none."""
        known, positions = np.unique(class_ids, return_inverse=True)
        classes = np.array([self.class_index.get(class_id, -1) for class_id in known.tolist()], np.int64)
        of_ids: np.ndarray = classes[positions]
        return of_ids


def encode_mask(mask: np.ndarray, box: Box, size: tuple[int, int]) -> Mask:
    """Returns a mask over a box, or over the whole image, as COCO's compressed run lengths."""
    from pycocotools import mask as coco_mask

    detection = Detection(0, "", 0.0, box, mask, WHOLE_IMAGE if mask.shape == size else box)
    return dict(coco_mask.encode(np.asfortranarray(detection.mask_px(size[1], size[0]).astype(np.uint8))))
