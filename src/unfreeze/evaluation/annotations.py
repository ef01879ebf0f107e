"""Reads images with annotated objects: COCO's JSON, or the TFRecord files of a training.

Source: object_detection/data_decoders/tf_example_decoder.py (features and their defaults),
object_detection/metrics/coco_evaluation.py (areas, crowds).
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from unfreeze.errors import ImageError
from unfreeze.formatting import first_line

EXPECTED = "Pass COCO's JSON, or the TFRecord files of the training."
JSON_START = (b"{", b"\xef\xbb\xbf{")

if TYPE_CHECKING:
    import tensorflow as tf

    Features = Mapping[str, tf.train.Feature]


@dataclass(frozen=True)
class Example:
    """An image: its id in the annotations, its name, and the content of its file."""

    image_id: int
    name: str
    encoded: bytes


@dataclass(frozen=True)
class Annotations:
    """Annotated images.

    `dataset` is COCO's JSON: images, annotations, categories. `examples` reads the images, in the order of `dataset`.
    """

    path: str
    dataset: dict[str, Any]
    examples: Callable[[], Iterator[Example]]

    @property
    def has_masks(self) -> bool:
        """Returns whether every object has a segmentation, not only a box."""
        objects = self.dataset["annotations"]
        return bool(objects) and all(annotation.get("segmentation") for annotation in objects)


def read_annotations(
    path: str | Path, names: Mapping[int, str], *, images: str | Path | None = None, limit: int | None = None
) -> Annotations:
    """Returns the annotations of COCO's JSON or of TFRecord files.

    Args:
        path: a file, or a pattern such as `val.record-?????-of-00010`.
        names: class id -> name, for TFRecords, which have ids only.
        images: the folder of the JSON's images; by default the JSON's own.
        limit: read only this many images.

    Raises: ImageError if the file is neither, or if an image is missing.
    """
    files = sorted(glob.glob(str(path))) or [str(path)]
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise ImageError(f"{missing[0]}: no such file. {EXPECTED}")
    with open(files[0], "rb") as file:
        is_json = file.read(4).lstrip().startswith(JSON_START)
    if is_json:
        return _read_coco(Path(files[0]), Path(images) if images is not None else None, limit)
    return _read_tfrecords(str(path), files, names, limit)


def _read_coco(path: Path, images: Path | None, limit: int | None) -> Annotations:
    try:
        dataset = json.loads(path.read_text("utf-8-sig"))
        entries = dataset["images"][:limit]
        image_ids = {entry["id"] for entry in entries}
        objects = [annotation for annotation in dataset["annotations"] if annotation["image_id"] in image_ids]
        categories = [{"id": category["id"], "name": category["name"]} for category in dataset["categories"]]
        file_names = [(entry["id"], entry["file_name"]) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(
            f"{path}: not COCO's JSON of images, annotations and categories ({error!r}). {EXPECTED}"
        ) from None
    folder = images or path.parent
    missing = [name for _, name in file_names if not (folder / name).is_file()]
    if missing:
        raise ImageError(
            f"{folder / missing[0]}: no such image ({len(missing)} of {len(file_names)} are missing). "
            "Pass the folder of the images with --images."
        )

    def examples() -> Iterator[Example]:
        return (Example(image_id, name, (folder / name).read_bytes()) for image_id, name in file_names)

    limited = {**dataset, "images": entries, "annotations": objects, "categories": categories}
    return Annotations(str(path), limited, examples)


def _read_tfrecords(path: str, files: Sequence[str], names: Mapping[int, str], limit: int | None) -> Annotations:
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for name, encoded, features in _read_examples(files, limit):
        height, width = decode_image(encoded, name).shape[:2]
        image_id = len(images) + 1
        images.append({"id": image_id, "width": width, "height": height, "file_name": name})
        for annotation in _objects_of(features, image_id, height, width):
            objects.append({"id": len(objects) + 1, **annotation})
    if not images:
        raise ImageError(f"{path}: the file has no records. {EXPECTED}")
    class_ids = {annotation["category_id"] for annotation in objects} | set(names)
    categories = [{"id": class_id, "name": names.get(class_id, f"class {class_id}")} for class_id in sorted(class_ids)]

    def examples() -> Iterator[Example]:
        records = enumerate(_read_examples(files, limit), start=1)
        return (Example(image_id, name, encoded) for image_id, (name, encoded, _) in records)

    return Annotations(path, {"images": images, "annotations": objects, "categories": categories}, examples)


def decode_image(encoded: bytes, name: str) -> np.ndarray:
    """Returns the pixels of an image file, uint8 `[H, W, 3]`, as a training reads them.

    Raises: ImageError if TensorFlow cannot decode it.
    """
    import tensorflow as tf

    try:
        pixels: np.ndarray = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
        return pixels
    except tf.errors.OpError as error:
        raise ImageError(
            f"{name}: TensorFlow cannot decode the image: {first_line(error)}. Replace or remove it."
        ) from None


def _read_examples(files: Sequence[str], limit: int | None) -> Iterator[tuple[str, bytes, Features]]:
    """Yields the name, the image file and all features of each record."""
    import tensorflow as tf

    records = ((file, number, record) for file in files for number, record in enumerate(_records_of(file)))
    for file, number, record in islice(records, limit):
        try:
            features: Features = tf.train.Example.FromString(record).features.feature
        except DecodeError:
            features = {}
        encoded = _first_value(features, "image/encoded")
        if encoded is None:
            raise ImageError(
                f"{file}: record {number} is not a tf.Example of a training: it has no image/encoded. {EXPECTED}"
            )
        name = (_first_value(features, "image/filename") or b"").decode("utf-8", "replace")
        yield name or f"{Path(file).name}[{number}]", encoded, features


def _records_of(file: str) -> Iterator[bytes]:
    import tensorflow as tf

    try:
        yield from tf.data.TFRecordDataset(file).as_numpy_iterator()
    except tf.errors.OpError as error:
        raise ImageError(
            f"{file}: neither COCO's JSON nor a complete TFRecord file ({first_line(error)}). {EXPECTED}"
        ) from None


def _objects_of(features: Features, image_id: int, height: int, width: int) -> Iterator[dict[str, Any]]:
    """Yields the objects of an image as COCO annotations; a box is left, top, width and height in pixels."""
    edges = [_values(features, f"image/object/bbox/{edge}") for edge in ("ymin", "xmin", "ymax", "xmax")]
    labels = _values(features, "image/object/class/label")
    crowds, areas = _values(features, "image/object/is_crowd"), _values(features, "image/object/area")
    for i, label in enumerate(labels):
        ymin, xmin, ymax, xmax = (float(values[i]) for values in edges)
        box = [xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height]
        area = float(areas[i]) if i < len(areas) and areas[i] > 0 else box[2] * box[3]
        crowd = int(crowds[i]) if i < len(crowds) else 0
        yield {"image_id": image_id, "category_id": int(label), "bbox": box, "area": area, "iscrowd": crowd}


def _values(features: Features, name: str) -> Sequence[Any]:
    kind = features[name].WhichOneof("kind") if name in features else None
    return list(getattr(features[name], kind).value) if kind else []


def _first_value(features: Features, name: str) -> Any:
    values = _values(features, name)
    return values[0] if values else None
