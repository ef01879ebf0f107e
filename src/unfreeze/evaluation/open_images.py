"""Reads Open Images' CSV files: boxes, and if they are there image-level labels, class names and the class hierarchy.

Source: object_detection/metrics/oid_challenge_evaluation_utils.py (which columns are read),
object_detection/dataset_tools/oid_hierarchical_labels_expansion.py (what a hierarchy adds).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfreeze.errors import ImageError
from unfreeze.evaluation.annotation_formats import is_open_images_header, not_annotations, read_json
from unfreeze.evaluation.annotations import Annotations, ClassKey, ImageFiles
from unfreeze.evaluation.metric_sets import MetricSet

EDGES = ("XMin", "YMin", "XMax", "YMax")
SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass
class Hierarchy:
    """The classes above and below each class."""

    above: dict[str, set[str]] = field(default_factory=dict)
    below: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Hierarchy:
        """Returns the hierarchy of bbox_labels_600_hierarchy.json, whose root is no class."""
        hierarchy = cls()

        def visit(node: Mapping[str, Any], ancestors: tuple[str, ...]) -> None:
            for child in node.get("Subcategory", ()):
                label = child["LabelName"]
                hierarchy.above.setdefault(label, set()).update(ancestors)
                hierarchy.below.setdefault(label, set())
                for ancestor in ancestors:
                    hierarchy.below[ancestor].add(label)
                visit(child, (*ancestors, label))

        document = read_json(path)
        try:
            visit(document, ())
        except (KeyError, TypeError, AttributeError):
            raise not_annotations(path, "JSON that is not a class hierarchy") from None
        return hierarchy


@dataclass(frozen=True)
class LabeledBox:
    """A row of the boxes; the edges are normalized."""

    label: str
    edges: tuple[float, float, float, float]  # EDGES
    is_group_of: bool

    def annotation(self, width: int, height: int) -> dict[str, Any]:
        """Returns the box as COCO's annotation, without ids, in an image of that size."""
        left, top, right, bottom = (
            edge * size for edge, size in zip(self.edges, (width, height, width, height), strict=True)
        )
        box = [left, top, right - left, bottom - top]
        return {"bbox": box, "area": box[2] * box[3], "group_of": int(self.is_group_of)}


@dataclass
class Tables:
    """The rows of all files: boxes and image-level labels, by image."""

    boxes: dict[str, list[LabeledBox]] = field(default_factory=dict)
    labels: dict[str, set[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # label such as /m/01g317 -> class name
    hierarchy: Hierarchy = field(default_factory=Hierarchy)


def read(path: str, files: Sequence[Path], images: Path | None, limit: int | None, strict: bool) -> Annotations:
    """Returns the annotations of CSV files; the images are in `images`, or else in the folder of the files.

    Raises: ImageError if a file is not one of Open Images, or if images are missing.
    """
    tables = _read_tables(files)
    folder = images or files[0].parent
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder. Pass the folder of the images with --images.")
    image_ids = list(dict.fromkeys([*tables.boxes, *tables.labels]))[:limit]
    existing = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES}
    paths = [existing.get(image_id, folder / f"{image_id}.jpg") for image_id in image_ids]
    image_files = ImageFiles.read(paths, folder, strict)
    kept = [image_ids[number] for number in image_files.numbers]
    used = {box.label for image_id in kept for box in tables.boxes.get(image_id, ())}
    used |= {label for image_id in kept for label in tables.labels.get(image_id, ())}
    category_ids = {label: number for number, label in enumerate(sorted(used), start=1)}
    objects: list[dict[str, Any]] = []
    image_labels: dict[int, frozenset[int]] = {}
    for entry, image_id in zip(image_files.entries, kept, strict=True):
        labels = tables.labels.get(image_id, set())
        image_labels[entry["id"]] = frozenset(category_ids[label] for label in labels)
        for box in tables.boxes.get(image_id, ()):
            annotation = box.annotation(entry["width"], entry["height"])
            ids = {"id": len(objects) + 1, "image_id": entry["id"], "category_id": category_ids[box.label]}
            objects.append({**ids, **annotation})
    categories = [
        {"id": number, "name": tables.names.get(label, label), "label": label} for label, number in category_ids.items()
    ]
    return Annotations(
        path,
        {"images": image_files.entries, "annotations": objects, "categories": categories},
        image_files.examples,
        metrics=MetricSet.OPEN_IMAGES_CHALLENGE if tables.labels else MetricSet.OPEN_IMAGES,
        class_key=ClassKey.NAME,
        image_labels=image_labels if tables.labels else {},
        skipped=image_files.skipped,
    )


def _read_tables(files: Sequence[Path]) -> Tables:
    tables = Tables()
    hierarchies = [file for file in files if file.suffix.lower() == ".json"]
    if hierarchies:
        tables.hierarchy = Hierarchy.read(hierarchies[0])
    for file in files:
        if file in hierarchies:
            continue
        with file.open("rb") as start:
            has_header = is_open_images_header(start.read(4096))
        with file.open(encoding="utf-8-sig", newline="") as text:
            if not has_header:
                tables.names.update(_class_names(file, text))
                continue
            for row in csv.DictReader(text):
                _add_row(file, row, tables)
    if not tables.boxes:
        raise ImageError(
            f"{files[0]}: no boxes in these files (columns XMin, XMax, YMin and YMax). Pass the CSV of boxes."
        )
    return tables


def _class_names(file: Path, text: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yields label and name of each line of class-descriptions-boxable.csv."""
    for row in csv.reader(text):
        if len(row) != 2 or not row[0].startswith("/"):
            raise not_annotations(file)
        yield row[0], row[1]


def _add_row(file: Path, row: Mapping[str, str | None], tables: Tables) -> None:
    image_id, label = row["ImageID"] or "", row["LabelName"] or ""
    try:
        if row.get("XMin"):
            left, top, right, bottom = (float(row[edge] or "") for edge in EDGES)
            is_group_of = float(row.get("IsGroupOf") or 0) > 0
            for name in (label, *sorted(tables.hierarchy.above.get(label, ()))):
                box = LabeledBox(name, (left, top, right, bottom), is_group_of)
                tables.boxes.setdefault(image_id, []).append(box)
            return
        confidence = row.get("ConfidenceImageLabel") or row.get("Confidence")
        is_present = float(confidence or 0) > 0
    except (ValueError, KeyError):
        raise ImageError(
            f"{file}: the row of image {image_id} has a value that is not a number. Copy it again."
        ) from None
    related = tables.hierarchy.above if is_present else tables.hierarchy.below
    tables.labels.setdefault(image_id, set()).update({label, *related.get(label, ())})
