"""Recognizes the format of annotations, and names that of files that are none."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

from unfreeze.errors import ImageError
from unfreeze.file_kinds import HEAD_BYTES, kind_of_bytes
from unfreeze.formatting import first_few

BOM = b"\xef\xbb\xbf"
YOLO_LINE = re.compile(r"\d+( +[\d.eE+-]+){4,}\s*$")
SUPPORTED = "COCO's JSON, Pascal VOC's XML, Open Images' CSV or TFRecord files were expected"
ADVICE = "Convert the annotations to COCO's JSON."


class Format(Enum):
    """A format of annotations."""

    COCO = auto()
    PASCAL_VOC = auto()
    OPEN_IMAGES = auto()
    TFRECORD = auto()


def format_of(files: Sequence[Path]) -> Format | None:
    """Returns the format of annotation files by their first bytes; None if they are something else."""
    heads = [_head(file) for file in files[:20]]
    if any(is_open_images_header(head) for head in heads):
        return Format.OPEN_IMAGES
    first = heads[0].removeprefix(BOM).lstrip()
    if re.match(rb"(<\?xml[^>]*\?>\s*)?<annotation\b", first):
        return Format.PASCAL_VOC
    if first.startswith((b"{", b"[")) and files[0].suffix.lower() != ".pbtxt":
        return Format.COCO
    is_text = b"\0" not in heads[0][:64]
    return None if is_text or kind_of_bytes(heads[0]) else Format.TFRECORD


def is_open_images_header(head: bytes) -> bool:
    """Returns whether a file starts with the header of Open Images' boxes or image-level labels."""
    columns = head.removeprefix(BOM).split(b"\n", 1)[0].strip().split(b",")
    return {b"ImageID", b"LabelName"} <= set(columns)


def not_annotations(path: Path, found: str | None = None) -> ImageError:
    """Returns the error to raise for a file of another format; it names the format if it is known."""
    kind = kind_of_bytes(_head(path)) if found is None else None
    advice = f"{kind.advice[0].upper()}{kind.advice[1:]}." if kind and kind.advice else ADVICE
    return ImageError(f"{path}: no annotations ({found or describe(path)} was found; {SUPPORTED}). {advice}")


def describe(path: Path) -> str:
    """Returns what a file is that is none of the formats, such as `a YOLO label file`."""
    head = _head(path)
    if kind := kind_of_bytes(head):
        return kind.name
    if b"\0" in head[:64]:
        return "a binary file of another kind"
    text = head.decode("utf-8-sig", "replace")
    line = next((line for line in text.splitlines() if line.strip()), "")
    if YOLO_LINE.match(line):
        return "a YOLO label file"
    if re.search(r"^(names|nc|train|val):", text, re.MULTILINE) and path.suffix.lower() in (".yaml", ".yml"):
        return "a YOLO data file"
    if "," in line:
        columns = next(csv.reader([line]))
        return f"a CSV file whose first line is {first_few(columns, 6)}"
    return f"text that begins with {line.strip()[:40]!r}"


def describe_json(document: Any) -> str:
    """Returns what a JSON document is that has not COCO's images, annotations and categories."""
    if isinstance(document, list):
        first = document[0] if document and isinstance(document[0], dict) else {}
        if {"image_id", "score"} <= set(first):
            return "a list of COCO's results, which are detections,"
        if "annotations" in first and "image" in first:
            return "CreateML's JSON"
        return "a JSON list"
    if not isinstance(document, dict):
        return "a JSON value"
    if "shapes" in document and "imagePath" in document:
        return "a LabelMe file"
    if "_via_img_metadata" in document or any(
        isinstance(value, dict) and "regions" in value for value in list(document.values())[:3]
    ):
        return "a file of the VGG Image Annotator"
    if document.get("type") == "FeatureCollection":
        return "GeoJSON"
    if {"images", "annotations"} <= set(document):
        return "COCO's JSON without categories" if "categories" not in document else "incomplete COCO JSON"
    return f"JSON with {first_few(list(document), 5) or 'no keys'}"


def read_json(path: Path) -> Any:
    """Returns a JSON document. Raises: ImageError if it is none."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise ImageError(f"{path}: the JSON is incomplete or invalid ({error}). Write or copy it again.") from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
