"""Reads COCO's JSON of images, annotations and categories.

Source: object_detection/metrics/coco_evaluation.py (areas, crowds).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unfreeze.evaluation.annotation_formats import describe_json, not_annotations, read_json
from unfreeze.evaluation.annotations import Annotations, Example, with_readable_images


def read(path: Path, images: Path | None, limit: int | None, strict: bool) -> Annotations:
    """Returns the annotations of a JSON file; the images are in `images`, or else in the folder of the file.

    Raises: ImageError if it is other JSON, or if images are missing.
    """
    dataset = read_json(path)
    try:
        entries = dataset["images"][:limit]
        categories = [{"id": category["id"], "name": category["name"]} for category in dataset["categories"]]
        folder = images or path.parent
        names = [(entry["file_name"], folder / entry["file_name"]) for entry in entries]
        present, skipped = with_readable_images(names, folder, strict)
        entries = [entries[number] for number in present]
        image_ids = {entry["id"] for entry in entries}
        objects = [
            {**annotation, "bbox": [float(edge) for edge in annotation["bbox"]]}
            for annotation in dataset["annotations"]
            if annotation["image_id"] in image_ids
        ]
        category_ids = {category["id"] for category in categories}
        unknown = {annotation["category_id"] for annotation in objects} - category_ids
        if not entries:
            raise ValueError("no images")
        if any(len(annotation["bbox"]) != 4 for annotation in objects):
            raise ValueError("a bbox has not 4 numbers")
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{describe_json(dataset)} ({type(error).__name__}: {error})"
        raise not_annotations(path, reason) from None
    if unknown:
        raise not_annotations(path, f"COCO's JSON with the unknown category {sorted(unknown)[0]} in its annotations")

    def examples() -> Iterator[Example]:
        return (Example(entry["id"], entry["file_name"], (folder / entry["file_name"]).read_bytes) for entry in entries)

    limited = {**dataset, "images": entries, "annotations": objects, "categories": categories}
    return Annotations(str(path), limited, examples, skipped=tuple(skipped))
