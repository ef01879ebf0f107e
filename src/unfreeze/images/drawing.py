"""Draws boxes, masks, keypoints and labels on an image, legible at any size."""

import colorsys
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unfreeze.images.detections import Detection

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
ColorOf = Callable[[Detection], Color]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are exclusive

WHITE = (255, 255, 255)
GOLDEN_RATIO = 0.618033988749895
MASK_OPACITY = 0.45
KEYPOINT_MIN_SCORE = 0.2
SMALLEST_FONT = 10
# System fonts that have more than Latin letters.
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc", "DejaVuSans.ttf")


def draw_detections(
    image: Image.Image,
    detections: Sequence[Detection],
    magnify: int = 1,
    *,
    color: ColorOf | None = None,
    show_scores: bool = True,
) -> Image.Image:
    """Returns a copy of the RGB image, `magnify` times larger, with the detections drawn on it.

    `color` returns the color of a detection; by default that of its class.
    """
    color = color or class_color
    size = (image.width * magnify, image.height * magnify)
    drawn = image.resize(size, Image.Resampling.BICUBIC) if magnify > 1 else image.copy()
    best_first = sorted(detections, key=lambda detection: -detection.score)
    for detection in reversed(best_first):
        draw_mask(drawn, detection, color(detection))
    for detection in reversed(best_first):
        draw_box(drawn, detection, color(detection))
        draw_keypoints(drawn, detection, color(detection))
    for label in reversed(list(place_labels(drawn, best_first, color, show_scores))):
        draw_label(drawn, *label)
    return drawn


def class_color(detection: Detection) -> Color:
    """Returns the color of the class of a detection."""
    return color_of(detection.class_id)


def color_of(class_id: int) -> Color:
    """Returns the color of a class. Hues are a golden ratio apart, so that neighboring ids get distant colors."""
    value = (1.0, 0.82)[class_id // 7 % 2]
    red, green, blue = colorsys.hsv_to_rgb((0.35 + class_id * GOLDEN_RATIO) % 1.0, 0.8, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_color(background: Color) -> Color:
    """Returns black or white, whichever has more contrast."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else WHITE


def line_width(image: Image.Image) -> int:
    """Returns the width of lines, in pixels, which grows with the image."""
    return max(1, round(math.sqrt(image.width * image.height) / 240))


def rectangle_of(image: Image.Image, detection: Detection) -> Rectangle:
    """Returns the box in whole pixels, at least one pixel large and inside the image."""
    top, left, bottom, right = detection.box_px(image.width, image.height)
    left, top = min(round(left), image.width - 1), min(round(top), image.height - 1)
    return left, top, max(round(right), left + 1), max(round(bottom), top + 1)


def draw_mask(image: Image.Image, detection: Detection, color: Color) -> None:
    """Fills the object with the color, half transparent."""
    if detection.mask is None:
        return
    opacity = np.where(detection.mask_px(image.width, image.height), round(255 * MASK_OPACITY), 0)
    image.paste(color, (0, 0, *image.size), Image.fromarray(opacity.astype(np.uint8)))


def draw_box(image: Image.Image, detection: Detection, color: Color) -> None:
    """Draws the box in that color."""
    left, top, right, bottom = rectangle_of(image, detection)
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), outline=color, width=line_width(image))


def draw_keypoints(image: Image.Image, detection: Detection, color: Color) -> None:
    """Draws the keypoints inside the image with a high enough score, as dots with a white edge."""
    pen = ImageDraw.Draw(image)
    radius = 1.5 * line_width(image) + 0.5
    for y, x, score in detection.keypoints:
        if score >= KEYPOINT_MIN_SCORE and 0 <= y <= 1 and 0 <= x <= 1:
            x_px, y_px = x * image.width, y * image.height
            for reach, fill in ((radius + line_width(image) / 2, WHITE), (radius, color)):
                pen.ellipse((x_px - reach, y_px - reach, x_px + reach, y_px + reach), fill=fill)


def place_labels(
    image: Image.Image, best_first: Sequence[Detection], color: ColorOf, show_scores: bool
) -> Iterator[tuple[str, Font, Rectangle, int, Color]]:
    """Yields a place for each label: inside the image, at its box, covering as little as possible of earlier labels."""
    size = max(SMALLEST_FONT, round(0.025 * math.sqrt(image.width * image.height)))
    taken: list[Rectangle] = []
    for detection in best_first:
        font = font_for(detection.name, size)
        padding = max(2, size // 4)
        text = label_text(detection, font, image.width - 2 * padding, show_scores)
        height = sum(font.getmetrics()) + padding if isinstance(font, ImageFont.FreeTypeFont) else size + padding
        if not text or height > image.height:
            continue
        width = math.ceil(font.getlength(text)) + 2 * padding
        places = [
            moved_inside(image, corner, width, height)
            for corner in corners(rectangle_of(image, detection), width, height)
        ]
        best = min(places, key=lambda place: sum(overlap(place, other) for other in taken))
        taken.append(best)
        yield text, font, best, padding, color(detection)


def label_text(detection: Detection, font: Font, width: int, show_score: bool = True) -> str:
    """Returns the name and the score, shortened to `width` pixels in that font; empty if nothing fits."""
    percent = f"{detection.score:.0%}" if show_score else ""
    names = [detection.name, *(f"{detection.name[:end]}..." for end in range(len(detection.name) - 1, 0, -1))]
    for text in [*(f"{name} {percent}".rstrip() for name in names), percent]:
        if font.getlength(text) <= width:
            return text
    return ""


def corners(box: Rectangle, width: int, height: int) -> list[tuple[int, int]]:
    """Returns candidates for a label's top left corner, best first: above the box, below it, then inside it."""
    left, top, right, bottom = box
    rows = (top - height, bottom, top, bottom - height)
    return [(column, row) for row in rows for column in (left, right - width)]


def moved_inside(image: Image.Image, corner: tuple[int, int], width: int, height: int) -> Rectangle:
    """Returns the rectangle at a corner, moved so that it is inside the image."""
    left = min(max(corner[0], 0), image.width - width)
    top = min(max(corner[1], 0), image.height - height)
    return left, top, left + width, top + height


def overlap(first: Rectangle, second: Rectangle) -> int:
    """Returns the area that two rectangles share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def draw_label(image: Image.Image, text: str, font: Font, place: Rectangle, padding: int, color: Color) -> None:
    """Draws the text of a label on a filled rectangle."""
    left, top, right, bottom = place
    pen = ImageDraw.Draw(image)
    pen.rectangle((left, top, right - 1, bottom - 1), fill=color)
    pen.text((left + padding, top + padding // 2), text, font=font, fill=text_color(color))


def font_for(text: str, size: int) -> Font:
    """Returns Pillow's own font, or a system font for text with letters that Pillow's lacks."""
    if not text.isascii():
        for name in WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)
