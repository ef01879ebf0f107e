"""Reads Pascal VOC's XML files, one for each image.

Source: object_detection/dataset_tools/create_pascal_tf_record.py (which elements are read).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from unfreeze.errors import ImageError
from unfreeze.evaluation.annotation_formats import not_annotations
from unfreeze.evaluation.annotations import Annotations, ClassKey, ImageFiles
from unfreeze.evaluation.metric_sets import MetricSet

IMAGE_FOLDER = "JPEGImages"  # beside the folder of the XML files
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def read(path: str, files: Sequence[Path], images: Path | None, limit: int | None, strict: bool) -> Annotations:
    """Returns the annotations of XML files.

    The images are in `images`, or else in JPEGImages beside the folder of the files, or in the folder itself.

    Raises: ImageError if a file is not Pascal VOC's XML, or if images are missing.
    """
    files = files[:limit]
    beside = files[0].parent.parent / IMAGE_FOLDER
    folder = images or (beside if beside.is_dir() else files[0].parent)
    roots = [_parse(file) for file in files]
    paths = [_image_path(root, file, folder) for root, file in zip(roots, files, strict=True)]
    image_files = ImageFiles.read(paths, folder, strict)
    names = sorted(
        {_text(file, node, "name") for file, root in zip(files, roots, strict=True) for node in _objects(root)}
    )
    category_ids = {name: number for number, name in enumerate(names, start=1)}
    objects: list[dict[str, Any]] = []
    for entry, number in zip(image_files.entries, image_files.numbers, strict=True):
        for node in _objects(roots[number]):
            annotation = _annotation(files[number], node, category_ids)
            objects.append({"id": len(objects) + 1, "image_id": entry["id"], **annotation})
    categories = [{"id": number, "name": name} for name, number in category_ids.items()]
    return Annotations(
        path,
        {"images": image_files.entries, "annotations": objects, "categories": categories},
        image_files.examples,
        metrics=MetricSet.PASCAL_VOC,
        class_key=ClassKey.NAME,
        skipped=image_files.skipped,
    )


def _parse(file: Path) -> ElementTree.Element:
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ImageError(f"{file}: the XML is incomplete or invalid ({error}). Write or copy it again.") from None
    if root.tag != "annotation":
        raise not_annotations(file, f"XML whose root is <{root.tag}>")
    return root


def _objects(root: ElementTree.Element) -> list[ElementTree.Element]:
    return root.findall("object")


def _image_path(root: ElementTree.Element, file: Path, folder: Path) -> Path:
    """Returns the image of an XML file: the one that it names, else the one with its own name."""
    named = Path((root.findtext("filename") or "").strip()).name
    candidates = [*([folder / named] if named else []), *(folder / f"{file.stem}{suffix}" for suffix in SUFFIXES)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _annotation(file: Path, node: ElementTree.Element, category_ids: dict[str, int]) -> dict[str, Any]:
    left, top, right, bottom = (_number(file, node, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax"))
    return {
        "category_id": category_ids[_text(file, node, "name")],
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "difficult": int((node.findtext("difficult") or "0").strip() not in ("", "0")),
    }


def _text(file: Path, node: ElementTree.Element, name: str) -> str:
    text = (node.findtext(name) or "").strip()
    if not text:
        raise ImageError(f"{file}: an object has no <{name.rpartition('/')[2]}>. Write the file again.")
    return text


def _number(file: Path, node: ElementTree.Element, name: str) -> float:
    text = _text(file, node, name)
    try:
        return float(text)
    except ValueError:
        raise ImageError(f"{file}: <{name.rpartition('/')[2]}> is {text!r}, which is not a number.") from None
