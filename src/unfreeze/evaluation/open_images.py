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
from unfreeze.evaluation.annotations import Annotations, Example, SkippedImage, image_size, with_readable_images
from unfreeze.evaluation.metric_sets import MetricSet

EDGES = ("XMin", "YMin", "XMax", "YMax")


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


@dataclass
class Tables:
    """The rows of all files: boxes and image-level labels, by image."""

    boxes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    labels: dict[str, set[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # label such as /m/01g317 -> class name
    hierarchy: Hierarchy = field(default_factory=Hierarchy)


def read(path: str, files: Sequence[Path], images: Path | None, limit: int | None, strict: bool) -> Annotations:
    """Returns the annotations of CSV files; the images are in `images`, or else in the folder of the files.

    Raises: ImageError if a file is not one of Open Images, or if images are missing.
    """
    tables = _read_tables(files)
    folder = images or files[0].parent
    image_ids = list(dict.fromkeys([*tables.boxes, *tables.labels]))[:limit]
    existing = {file.stem: file for file in sorted(folder.iterdir())} if folder.is_dir() else {}
    paths = [existing.get(image_id, folder / f"{image_id}.jpg") for image_id in image_ids]
    paths = [folder / f"{path.stem}.jpg" if path.suffix.lower() == ".csv" else path for path in paths]
    present, skipped = with_readable_images([(image.name, image) for image in paths], folder, strict)
    kept = [image_ids[number] for number in present]
    used = {box["label"] for image_id in kept for box in tables.boxes.get(image_id, ())}
    used |= {label for image_id in kept for label in tables.labels.get(image_id, ())}
    category_ids = {label: number for number, label in enumerate(sorted(used), start=1)}
    entries: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    sources: list[Path] = []
    image_labels: dict[int, frozenset[int]] = {}
    for number in present:
        try:
            width, height = image_size(paths[number], str(paths[number]))
        except ImageError as error:
            if strict:
                raise
            skipped.append(SkippedImage(paths[number].name, str(error)))
            continue
        entries.append({"id": len(entries) + 1, "width": width, "height": height, "file_name": paths[number].name})
        sources.append(paths[number])
        labels = tables.labels.get(image_ids[number], set())
        image_labels[len(entries)] = frozenset(category_ids[label] for label in labels)
        for box in tables.boxes.get(image_ids[number], ()):
            left, top, right, bottom = (
                edge * size for edge, size in zip(box["edges"], (width, height) * 2, strict=True)
            )
            annotation = {
                "category_id": category_ids[box["label"]],
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "group_of": box["group_of"],
            }
            objects.append({"id": len(objects) + 1, "image_id": len(entries), **annotation})

    def examples() -> Iterator[Example]:
        pairs = zip(entries, sources, strict=True)
        return (Example(entry["id"], entry["file_name"], source.read_bytes) for entry, source in pairs)

    categories = [
        {"id": number, "name": tables.names.get(label, label), "label": label} for label, number in category_ids.items()
    ]
    return Annotations(
        path,
        {"images": entries, "annotations": objects, "categories": categories},
        examples,
        metrics=MetricSet.OPEN_IMAGES_CHALLENGE if tables.labels else MetricSet.OPEN_IMAGES,
        has_class_ids=False,
        image_labels=image_labels if tables.labels else {},
        skipped=tuple(skipped),
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
            edges = [float(row[edge] or "") for edge in EDGES]
            group_of = int(float(row.get("IsGroupOf") or 0) > 0)
            for name in (label, *sorted(tables.hierarchy.above.get(label, ()))):
                box = {"label": name, "edges": edges, "group_of": group_of}
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
