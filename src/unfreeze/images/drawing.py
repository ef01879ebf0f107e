"""Boxes, masks, keypoints and labels drawn on a picture, legible at any size."""

import colorsys
import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unfreeze.images.detections import Detection

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside

WHITE = (255, 255, 255)
GOLDEN_RATIO = 0.618033988749895
MASK_OPACITY = 0.45
KEYPOINT_MIN_SCORE = 0.2
SMALLEST_FONT = 10
# Fonts that have more than Latin letters, where the machine has one.
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "DejaVuSans.ttf")


def draw(picture: Image.Image, detections: Sequence[Detection], magnify: int = 1) -> Image.Image:
    """A copy of the RGB picture, `magnify` times larger, with everything that was found drawn on it."""
    size = (picture.width * magnify, picture.height * magnify)
    drawn = picture.resize(size, Image.Resampling.BICUBIC) if magnify > 1 else picture.copy()
    best_first = sorted(detections, key=lambda detection: -detection.score)
    for detection in reversed(best_first):
        draw_mask(drawn, detection)
    for detection in reversed(best_first):
        draw_box(drawn, detection)
        draw_keypoints(drawn, detection)
    for label in reversed(list(place_labels(drawn, best_first))):
        draw_label(drawn, *label)
    return drawn


def color_of(class_id: int) -> Color:
    """Hues a golden ratio apart: classes whose numbers are near get colours that are far."""
    value = (1.0, 0.82)[class_id // 7 % 2]
    red, green, blue = colorsys.hsv_to_rgb((0.35 + class_id * GOLDEN_RATIO) % 1.0, 0.8, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def legible_on(background: Color) -> Color:
    """Black or white, whichever stands out more."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE


def line_width(picture: Image.Image) -> int:
    return max(1, round(math.sqrt(picture.width * picture.height) / 240))


def edges(picture: Image.Image, detection: Detection) -> Rectangle:
    """The box in whole pixels, at least one pixel large and inside the picture."""
    top, left, bottom, right = detection.box_px(picture.width, picture.height)
    left, top = min(round(left), picture.width - 1), min(round(top), picture.height - 1)
    return left, top, max(round(right), left + 1), max(round(bottom), top + 1)


def draw_mask(picture: Image.Image, detection: Detection) -> None:
    if detection.mask is None:
        return
    opacity = np.where(detection.mask_px(picture.width, picture.height), round(255 * MASK_OPACITY), 0)
    picture.paste(color_of(detection.class_id), (0, 0, *picture.size), Image.fromarray(opacity.astype(np.uint8)))


def draw_box(picture: Image.Image, detection: Detection) -> None:
    left, top, right, bottom = edges(picture, detection)
    ImageDraw.Draw(picture).rectangle(
        (left, top, right - 1, bottom - 1), outline=color_of(detection.class_id), width=line_width(picture)
    )


def draw_keypoints(picture: Image.Image, detection: Detection) -> None:
    pen = ImageDraw.Draw(picture)
    radius = 1.5 * line_width(picture) + 0.5
    for y, x, score in detection.keypoints:
        if score >= KEYPOINT_MIN_SCORE and 0 <= y <= 1 and 0 <= x <= 1:
            x_px, y_px = x * picture.width, y * picture.height
            for reach, fill in ((radius + line_width(picture) / 2, WHITE), (radius, color_of(detection.class_id))):
                pen.ellipse((x_px - reach, y_px - reach, x_px + reach, y_px + reach), fill=fill)


def place_labels(
    picture: Image.Image, best_first: Sequence[Detection]
) -> Iterator[tuple[str, Font, Rectangle, int, Color]]:
    """A place inside the picture for each label, at its box, where it covers the least of the better ones' labels."""
    size = max(SMALLEST_FONT, round(0.025 * math.sqrt(picture.width * picture.height)))
    taken: list[Rectangle] = []
    for detection in best_first:
        font = font_for(detection.name, size)
        padding = max(2, size // 4)
        text = fitting(detection, font, picture.width - 2 * padding)
        height = sum(font.getmetrics()) + padding if isinstance(font, ImageFont.FreeTypeFont) else size + padding
        if not text or height > picture.height:
            continue
        width = math.ceil(font.getlength(text)) + 2 * padding
        places = [within(picture, place, width, height) for place in corners(edges(picture, detection), width, height)]
        best = min(places, key=lambda place: sum(overlap(place, other) for other in taken))
        taken.append(best)
        yield text, font, best, padding, color_of(detection.class_id)


def fitting(detection: Detection, font: Font, width: int) -> str:
    """The name and the score, shortened until the font fits them into so many pixels; empty when nothing fits."""
    percent = f"{detection.score:.0%}"
    names = [detection.name, *(f"{detection.name[:end]}..." for end in range(len(detection.name) - 1, 0, -1))]
    for text in [*(f"{name} {percent}" for name in names), percent]:
        if font.getlength(text) <= width:
            return text
    return ""


def corners(box: Rectangle, width: int, height: int) -> list[tuple[int, int]]:
    """Where a label's left upper corner may be, best first: on the box, under it, then inside it, left before right."""
    left, top, right, bottom = box
    rows = (top - height, bottom, top, bottom - height)
    return [(column, row) for row in rows for column in (left, right - width)]


def within(picture: Image.Image, corner: tuple[int, int], width: int, height: int) -> Rectangle:
    left = min(max(corner[0], 0), picture.width - width)
    top = min(max(corner[1], 0), picture.height - height)
    return left, top, left + width, top + height


def overlap(one: Rectangle, other: Rectangle) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def draw_label(picture: Image.Image, text: str, font: Font, place: Rectangle, padding: int, color: Color) -> None:
    left, top, right, bottom = place
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left, top, right - 1, bottom - 1), fill=color)
    pen.text((left + padding, top + padding // 2), text, font=font, fill=legible_on(color))


def font_for(text: str, size: int) -> Font:
    """Pillow's own font, or for letters that it does not have one of the machine's."""
    if not text.isascii():
        for name in WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)
