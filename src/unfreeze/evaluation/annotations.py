"""Pictures with what is truly in them: COCO's JSON, or the TFRecords that a training read.

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
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from unfreeze.errors import ImageError

JSON_START = (b"{", b"\xef\xbb\xbf{")


@dataclass(frozen=True)
class Example:
    """A picture: its id among the annotations, what to call it, and the bytes of its file."""

    number: int
    name: str
    encoded: bytes


@dataclass(frozen=True)
class Annotations:
    """`truth` is what COCO calls a dataset: images, annotations, categories. `examples` reads the pictures in order."""

    path: str
    truth: dict[str, Any]
    examples: Callable[[], Iterator[Example]]

    @property
    def has_masks(self) -> bool:
        """Whether every thing is outlined, not just framed."""
        things = self.truth["annotations"]
        return bool(things) and all(thing.get("segmentation") for thing in things)


def read_annotations(
    path: str | Path, names: Mapping[int, str], *, images: str | Path | None = None, limit: int | None = None
) -> Annotations:
    """COCO's JSON, whose pictures lie in the folder `images` (default: the JSON's own), or TFRecord files.

    Args:
        path: a file, or a pattern such as `val.record-?????-of-00010`.
        names: class id -> name, for TFRecords, which have numbers only.
        limit: only so many pictures, the first ones.

    Raises: ImageError when it is neither, or a picture is not there.
    """
    files = sorted(glob.glob(str(path))) or [str(path)]
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise ImageError(f"{missing[0]}: no such file: give COCO's JSON, or the TFRecords of the training")
    with open(files[0], "rb") as file:
        is_json = file.read(4).lstrip().startswith(JSON_START)
    if is_json:
        return _coco(Path(files[0]), Path(images) if images is not None else None, limit)
    return _records(str(path), files, names, limit)


def _coco(path: Path, images: Path | None, limit: int | None) -> Annotations:
    try:
        truth = json.loads(path.read_text("utf-8-sig"))
        pictures = truth["images"][:limit]
        kept = {picture["id"] for picture in pictures}
        things = [thing for thing in truth["annotations"] if thing["image_id"] in kept]
        categories = [{"id": each["id"], "name": each["name"]} for each in truth["categories"]]
        named = [(picture["id"], picture["file_name"]) for picture in pictures]
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"{path}: not COCO's JSON of images, annotations and categories ({error!r})") from None
    folder = images or path.parent
    absent = [name for _, name in named if not (folder / name).is_file()]
    if absent:
        raise ImageError(
            f"{folder / absent[0]}: no such picture, {len(absent)} of {len(named)} are missing: "
            "give the folder of the pictures with --images"
        )

    def examples() -> Iterator[Example]:
        return (Example(number, name, (folder / name).read_bytes()) for number, name in named)

    kept_truth = {**truth, "images": pictures, "annotations": things, "categories": categories}
    return Annotations(str(path), kept_truth, examples)


def _records(path: str, files: Sequence[str], names: Mapping[int, str], limit: int | None) -> Annotations:
    images: list[dict[str, Any]] = []
    things: list[dict[str, Any]] = []
    for name, encoded, features in _read(files, limit):
        height, width = decoded(encoded, name).shape[:2]
        number = len(images) + 1
        images.append({"id": number, "width": width, "height": height, "file_name": name})
        things += [
            {"id": len(things) + i, **each} for i, each in enumerate(_things(features, number, height, width), 1)
        ]
    if not images:
        raise ImageError(f"{path}: no record in it")
    seen = {thing["category_id"] for thing in things} | set(names)
    categories = [{"id": each, "name": names.get(each, f"class {each}")} for each in sorted(seen)]

    def examples() -> Iterator[Example]:
        return (
            Example(number, name, encoded) for number, (name, encoded, _) in enumerate(_read(files, limit), start=1)
        )

    return Annotations(path, {"images": images, "annotations": things, "categories": categories}, examples)


def decoded(encoded: bytes, name: str) -> np.ndarray:
    """The pixels of a picture's file, uint8 `[H, W, 3]`, as a training reads them.

    Raises: ImageError when TensorFlow does not decode it.
    """
    try:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"{name}: not a picture that TensorFlow decodes: {error.message}") from None


def _read(files: Sequence[str], limit: int | None) -> Iterator[tuple[str, bytes, Any]]:
    """Of each record the picture's name and file, and all features."""
    places = ((file, place, record) for file in files for place, record in enumerate(_records_of(file)))
    for file, place, record in islice(places, limit):
        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError:
            features = {}
        encoded = _first(features, "image/encoded")
        if encoded is None:
            raise ImageError(f"{file}: record {place} has no image/encoded: it is no tf.Example of a training")
        name = (_first(features, "image/filename") or b"").decode("utf-8", "replace")
        yield name or f"{Path(file).name}[{place}]", encoded, features


def _records_of(file: str) -> Iterator[bytes]:
    try:
        yield from tf.data.TFRecordDataset(file).as_numpy_iterator()
    except tf.errors.OpError as error:
        told = error.message.splitlines()[0]
        raise ImageError(f"{file}: neither COCO's JSON nor a whole TFRecord file ({told})") from None


def _things(features: Any, image: int, height: int, width: int) -> Iterator[dict[str, Any]]:
    """What is in a picture, as COCO says it: boxes as left, top, width and height in pixels."""
    edges = [_all(features, f"image/object/bbox/{edge}") for edge in ("ymin", "xmin", "ymax", "xmax")]
    labels = _all(features, "image/object/class/label")
    crowds, areas = _all(features, "image/object/is_crowd"), _all(features, "image/object/area")
    for i, label in enumerate(labels):
        ymin, xmin, ymax, xmax = (float(values[i]) for values in edges)
        box = [xmin * width, ymin * height, (xmax - xmin) * width, (ymax - ymin) * height]
        area = float(areas[i]) if i < len(areas) and areas[i] > 0 else box[2] * box[3]
        crowd = int(crowds[i]) if i < len(crowds) else 0
        yield {"image_id": image, "category_id": int(label), "bbox": box, "area": area, "iscrowd": crowd}


def _all(features: Any, name: str) -> Sequence[Any]:
    kind = features[name].WhichOneof("kind") if name in features else None
    return list(getattr(features[name], kind).value) if kind else []


def _first(features: Any, name: str) -> Any:
    values = _all(features, name)
    return values[0] if values else None
