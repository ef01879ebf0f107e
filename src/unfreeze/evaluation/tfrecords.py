"""Reads the TFRecord files of a training: tf.Examples with images and objects.

Source: object_detection/data_decoders/tf_example_decoder.py (features and their defaults).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from unfreeze.errors import ImageError
from unfreeze.evaluation.annotations import EXPECTED, Annotations, ClassKey, Example, SkippedImage, image_size
from unfreeze.formatting import first_line

if TYPE_CHECKING:
    import tensorflow as tf

    Features = Mapping[str, tf.train.Feature]


def read(path: str, files: Sequence[Path], names: Mapping[int, str], limit: int | None, strict: bool) -> Annotations:
    """Returns the annotations of TFRecord files; `names` are those of the classes.

    Raises: ImageError if a file has other records, or none.
    """
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    image_labels: dict[int, frozenset[int]] = {}
    skipped: list[SkippedImage] = []
    for number, (name, encoded, features) in enumerate(_read_examples(files, limit), start=1):
        try:
            width, height = image_size(encoded, name)
        except ImageError as error:
            if strict:
                raise
            skipped.append(SkippedImage(name, str(error)))
            continue
        images.append({"id": number, "width": width, "height": height, "file_name": name})
        if labels := _values(features, "image/class/label"):
            image_labels[number] = frozenset(map(int, labels))
        for annotation in _objects_of(name, features, number, height, width):
            objects.append({"id": len(objects) + 1, **annotation})
    if not images:
        reason = f"none of its {len(skipped)} images can be read" if skipped else "the file has no records"
        raise ImageError(f"{path}: {reason}. {EXPECTED}")
    class_ids = {annotation["category_id"] for annotation in objects} | set(names)
    categories = [{"id": class_id, "name": names.get(class_id, f"class {class_id}")} for class_id in sorted(class_ids)]
    read_ids = {image["id"] for image in images}

    def examples() -> Iterator[Example]:
        for number, (name, encoded, _) in enumerate(_read_examples(files, limit), start=1):
            if number in read_ids:
                yield Example(number, name, lambda encoded=encoded: encoded)  # type: ignore[misc]

    dataset = {"images": images, "annotations": objects, "categories": categories}
    return Annotations(
        path, dataset, examples, class_key=ClassKey.ID, image_labels=image_labels, skipped=tuple(skipped)
    )


def read_images(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the name and the image file of each record of a TFRecord file. Raises: ImageError if it is not one."""
    return ((name, encoded) for name, encoded, _ in _read_examples([path], None))


def _read_examples(files: Sequence[Path], limit: int | None) -> Iterator[tuple[str, bytes, Features]]:
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
        yield name or f"{file.name}[{number}]", encoded, features


def _records_of(file: Path) -> Iterator[bytes]:
    import tensorflow as tf

    try:
        yield from tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    except tf.errors.OpError as error:
        raise ImageError(f"{file}: not a complete TFRecord file ({first_line(error)}). {EXPECTED}") from None


def _objects_of(name: str, features: Features, image_id: int, height: int, width: int) -> Iterator[dict[str, Any]]:
    """Yields the objects of an image as COCO annotations; a box is left, top, width and height in pixels."""
    edges = [_values(features, f"image/object/bbox/{edge}") for edge in ("ymin", "xmin", "ymax", "xmax")]
    areas = _values(features, "image/object/area")
    flags = {
        "iscrowd": _values(features, "image/object/is_crowd"),
        "difficult": _values(features, "image/object/difficult"),
        "group_of": _values(features, "image/object/group_of"),
    }
    labels = _values(features, "image/object/class/label")
    if any(len(values) != len(labels) for values in edges):
        raise ImageError(
            f"{name}: the record has {min(map(len, edges))} boxes (image/object/bbox/…) and {len(labels)} classes "
            "(image/object/class/label), which must be as many. Write the TFRecord file again."
        )
    for i, label in enumerate(labels):
        ymin, xmin, ymax, xmax = (float(values[i]) for values in edges)
        box = [xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height]
        area = float(areas[i]) if i < len(areas) and areas[i] > 0 else box[2] * box[3]
        own_flags = {flag: int(values[i]) for flag, values in flags.items() if i < len(values)}
        yield {"image_id": image_id, "category_id": int(label), "bbox": box, "area": area, **own_flags}


def _values(features: Features, name: str) -> Sequence[Any]:
    kind = features[name].WhichOneof("kind") if name in features else None
    return list(getattr(features[name], kind).value) if kind else []


def _first_value(features: Features, name: str) -> Any:
    values = _values(features, name)
    return values[0] if values else None
