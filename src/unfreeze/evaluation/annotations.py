"""Reads annotated images, in the formats of COCO, Pascal VOC, Open Images, and of a training (TFRecord)."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import ImageError
from unfreeze.evaluation.annotation_formats import Format, format_of, not_annotations
from unfreeze.evaluation.metric_sets import MetricSet
from unfreeze.formatting import first_few, first_line

EXPECTED = (
    "Pass COCO's JSON, a folder of Pascal VOC's XML files, Open Images' CSV files, or the TFRecord files of a training."
)
MAX_NAMED = 3  # files in an error


@dataclass(frozen=True)
class Example:
    """An image: its id in the annotations, its name, and a function that returns the content of its file."""

    image_id: int
    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class SkippedImage:
    """An image that is missing or cannot be read, with the reason. It does not count in any metric."""

    name: str
    reason: str


class ClassKey(Enum):
    """By what the classes of annotations are matched with those of a model."""

    ID = auto()  # the ids are those of the model's label map
    NAME = auto()  # the annotations have no ids of their own
    NAME_OR_ID = auto()


@dataclass(frozen=True)
class Annotations:
    """Annotated images.

    `dataset` is COCO's JSON: images, annotations, categories. An annotation may also be `difficult` or `group_of`, and
    a category may have a `label`, a second name. `examples` returns the images, in the order of `dataset`.
    """

    path: str
    dataset: dict[str, Any]
    examples: Callable[[], Iterator[Example]]
    metrics: MetricSet = MetricSet.COCO  # what is usual for these annotations
    class_key: ClassKey = ClassKey.NAME_OR_ID
    image_labels: Mapping[int, frozenset[int]] = field(default_factory=dict)  # image id -> verified categories
    skipped: tuple[SkippedImage, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Returns whether every object has a segmentation, not only a box, and every image a size."""
        images, objects = self.dataset["images"], self.dataset["annotations"]
        return (
            bool(objects)
            and all(_is_segmentation(annotation.get("segmentation")) for annotation in objects)
            and all({"width", "height"} <= set(image) for image in images)
        )


def _is_segmentation(segmentation: Any) -> bool:
    """Returns whether it has a form that pycocotools decodes: polygons, or run lengths."""
    if isinstance(segmentation, dict):
        return {"size", "counts"} <= set(segmentation)
    is_list = isinstance(segmentation, list) and bool(segmentation)
    return is_list and all(isinstance(polygon, list) and len(polygon) >= 4 for polygon in segmentation)


def read_annotations(
    path: str | Path,
    names: Mapping[int, str],
    *,
    images: str | Path | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> Annotations:
    """Returns the annotations of a file, of the files of a pattern, or of a folder.

    Args:
        path: COCO's JSON, TFRecord files such as `val.record-?????-of-00010`, a folder of Pascal VOC's XML files, or
            Open Images' CSV files.
        names: class id -> name, for TFRecords, which have ids only.
        images: the folder of the images; by default where the format usually has them.
        limit: read only this many images.
        strict: raise an error for the first image that is missing or unreadable, rather than skip it.

    Raises: ImageError if the annotations are of another format, or all images are missing.
    """
    from unfreeze.evaluation import coco_json, open_images, pascal_voc, tfrecords

    files = annotation_files(path)
    folder = Path(images) if images is not None else None
    match format_of(files):
        case Format.COCO:
            if len(files) > 1:
                listed = first_few([file.name for file in files], MAX_NAMED)
                raise ImageError(f"{path}: {len(files)} JSON files ({listed}; one was expected). Pass one of them.")
            return coco_json.read(files[0], folder, limit, strict)
        case Format.PASCAL_VOC:
            return pascal_voc.read(str(path), files, folder, limit, strict)
        case Format.OPEN_IMAGES:
            return open_images.read(str(path), files, folder, limit, strict)
        case Format.TFRECORD:
            return tfrecords.read(str(path), files, names, limit, strict)
        case None:
            raise not_annotations(files[0])


def annotation_files(path: str | Path) -> list[Path]:
    """Returns the files of a path, a pattern or a folder. Raises: ImageError if there are none."""
    if Path(path).is_dir():
        folder = Path(path) / "Annotations" if (Path(path) / "Annotations").is_dir() else Path(path)
        for pattern in ("*.xml", "*.csv", "*.json", "*record*"):
            if files := sorted(folder.glob(pattern)):
                return [*files, *sorted(folder.glob("*hierarchy*.json"))] if pattern == "*.csv" else files
        raise ImageError(f"{folder}: no annotations in this folder (no .xml, .csv, .json or TFRecord file). {EXPECTED}")
    files = [Path(file) for file in sorted(glob.glob(str(path)))] or [Path(path)]
    if missing := [file for file in files if not file.is_file()]:
        raise ImageError(f"{missing[0]}: no such file. {EXPECTED}")
    return files


def with_readable_images(
    paths: Sequence[tuple[str, Path]], folder: Path, strict: bool
) -> tuple[list[int], list[SkippedImage]]:
    """Returns the numbers of the images whose files exist, and the other images.

    Raises: ImageError if all are missing, or if one is and `strict` is set.
    """
    present = [number for number, (_, path) in enumerate(paths) if path.is_file()]
    skipped = [SkippedImage(name, f"{path}: no such image") for name, path in paths if not path.is_file()]
    if skipped and (strict or not present):
        raise ImageError(
            f"{skipped[0].reason} ({len(skipped)} of {len(paths)} are missing). "
            f"Pass the folder of the images with --images; {folder} was searched."
        )
    return present, skipped


@dataclass(frozen=True)
class ImageFiles:
    """The images of annotations that can be read: COCO's entries, numbered from 1, with their files."""

    entries: list[dict[str, Any]]
    paths: list[Path]
    numbers: list[int]  # which of all images each is
    skipped: tuple[SkippedImage, ...]

    @classmethod
    def read(cls, paths: Sequence[Path], folder: Path, strict: bool) -> ImageFiles:
        """Returns the images of a folder with their sizes; skips those that are missing or unreadable.

        Raises: ImageError if all are missing, or with `strict` for the first that is skipped.
        """
        present, skipped = with_readable_images([(path.name, path) for path in paths], folder, strict)
        files = cls([], [], [], ())
        for number in present:
            try:
                width, height = image_size(paths[number], str(paths[number]))
            except ImageError as error:
                if strict:
                    raise
                skipped.append(SkippedImage(paths[number].name, str(error)))
                continue
            entry = {"id": len(files.paths) + 1, "width": width, "height": height, "file_name": paths[number].name}
            files.entries.append(entry)
            files.paths.append(paths[number])
            files.numbers.append(number)
        if not files.paths:
            raise ImageError(f"{folder}: none of the {len(paths)} images can be read ({skipped[0].reason}).")
        return cls(files.entries, files.paths, files.numbers, tuple(skipped))

    def examples(self) -> Iterator[Example]:
        """Yields the images."""
        for entry, path in zip(self.entries, self.paths, strict=True):
            yield Example(entry["id"], entry["file_name"], path.read_bytes)


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


def image_size(encoded: bytes | Path, name: str) -> tuple[int, int]:
    """Returns width and height of an image file, without EXIF rotation; reads only its start. Raises: ImageError."""
    import io

    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as image:
            width, height = image.size
            return width, height
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be decoded. Replace or remove it.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: the image cannot be read ({first_line(error)}). Replace or remove it.") from None
