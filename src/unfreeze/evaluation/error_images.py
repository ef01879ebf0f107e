"""Draws the images with the most errors: the annotated objects beside what a model detected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unfreeze.evaluation.boxes import Detections, Objects
from unfreeze.evaluation.error_analysis import Findings, is_regular
from unfreeze.formatting import amount
from unfreeze.images import Detection, draw_detections
from unfreeze.images.drawing import Color

MAX_IMAGES = 12
GREEN: Color = (26, 150, 84)
RED: Color = (209, 36, 47)
ORANGE: Color = (214, 110, 0)
GRAY: Color = (130, 138, 145)
PANEL_WIDTH = (420, 900)  # an image is magnified or scaled down to a width between them
GAP = 8

LoadImages = Callable[[Sequence[int]], Iterator[tuple[int, Image.Image]]]  # indexes of images -> the images that exist


@dataclass(frozen=True)
class ErrorImage:
    """An image with errors: its index, what is wrong, and a drawing with two panels."""

    index: int
    caption: str
    drawing: Image.Image


def error_images(findings: Findings, names: Sequence[str], images: int, load: LoadImages) -> list[ErrorImage]:
    """Returns drawings of the images with the most errors, the worst first."""
    errors = findings.errors(images)
    false_scores = np.bincount(
        findings.detections.images[findings.false], findings.detections.scores[findings.false], minlength=images
    )
    order = np.lexsort((-false_scores, -errors))
    worst = [int(index) for index in order[:MAX_IMAGES] if errors[index]]
    drawn = {
        index: ErrorImage(index, caption(findings, names, index), draw(findings, names, index, image))
        for index, image in load(worst)
    }
    return [drawn[index] for index in worst if index in drawn]


def caption(findings: Findings, names: Sequence[str], index: int) -> str:
    """Returns what is wrong in an image: `2 missed (cat, dog), 1 false (cat)`."""
    objects, detections = findings.objects, findings.detections
    missed = findings.missed[objects.images[findings.missed] == index]
    false = findings.false[detections.images[findings.false] == index]
    confused = findings.confused[detections.images[findings.confused] == index]
    pairs = [
        f"{names[objects.classes[findings.object_of[row]]]} as {names[detections.classes[row]]}" for row in confused
    ]
    parts = [
        ("missed", [names[objects.classes[row]] for row in missed]),
        ("confused", pairs),
        ("false", [names[detections.classes[row]] for row in false]),
    ]
    return ", ".join(f"{len(texts)} {kind} ({_counted(texts)})" for kind, texts in parts if texts)


def _counted(texts: Sequence[str]) -> str:
    return ", ".join(text if count == 1 else f"{count} x {text}" for text, count in Counter(texts).items())


def draw(findings: Findings, names: Sequence[str], index: int, image: Image.Image) -> Image.Image:
    """Returns the annotated objects on the left, the detections above the thresholds on the right."""
    objects = np.flatnonzero(findings.objects.images == index)
    detections = np.flatnonzero(findings.detections.images == index)
    object_colors = {row: _color_of_object(findings, row) for row in objects.tolist()}
    detection_colors = {row: _color_of_detection(findings, row) for row in detections.tolist()}
    panels = (
        _panel(image, findings.objects, object_colors, names, np.ones(len(findings.objects))),
        _panel(image, findings.detections, detection_colors, names, findings.detections.scores),
    )
    left, right = panels
    both = Image.new("RGB", (left.width + GAP + right.width, left.height), (255, 255, 255))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both


def _panel(
    image: Image.Image,
    table: Objects | Detections,
    colors: dict[int, Color],
    names: Sequence[str],
    scores: np.ndarray,
) -> Image.Image:
    """Returns the image with boxes, correct ones below wrong ones."""
    width, height = image.size
    smallest, largest = PANEL_WIDTH
    if width > largest:
        image = image.resize((largest, round(height * largest / width)), Image.Resampling.LANCZOS)
    by_color: dict[int, Color] = {}
    boxes = []
    for number, (row, color) in enumerate(sorted(colors.items(), key=lambda item: item[1] == GREEN)):
        left, top, box_width, box_height = table.boxes[row].tolist()
        box = (top / height, left / width, (top + box_height) / height, (left + box_width) / width)
        by_color[number] = color
        boxes.append(Detection(number, names[int(table.classes[row])], float(scores[row]), box))
    magnify = max(1, round(smallest / image.width))
    return draw_detections(
        image,
        boxes,
        magnify,
        color=lambda detection: by_color[detection.class_id],
        show_scores=isinstance(table, Detections),
    )


def _color_of_object(findings: Findings, row: int) -> Color:
    if not is_regular(findings.objects)[row]:
        return GRAY
    found_by = int(findings.found_by[row])
    if found_by < 0:
        return RED
    return GREEN if findings.detections.classes[found_by] == findings.objects.classes[row] else ORANGE


def _color_of_detection(findings: Findings, row: int) -> Color:
    found = int(findings.object_of[row])
    if found < 0:
        return RED if findings.is_counted[row] else GRAY
    return GREEN if findings.objects.classes[found] == findings.detections.classes[row] else ORANGE


def error_count(findings: Findings) -> str:
    """Returns how many errors there are: `12 missed objects, 3 confused and 5 false detections`."""
    missed = amount(len(findings.missed), "missed object")
    false = amount(len(findings.false), "false detection")
    return f"{missed}, {len(findings.confused):,} with another class, {false}"
