"""Draws precision-recall curves and a confusion matrix with Pillow, three times enlarged and scaled down again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from unfreeze.evaluation.evaluation import ClassScores
from unfreeze.images.drawing import Color, Font, font_for, text_color

SCALE = 3  # lines and text are smooth once the chart is scaled down by it
INK, SOFT, LINE, PAPER = (28, 33, 38), (93, 103, 112), (217, 222, 227), (255, 255, 255)
PALE: Color = (190, 198, 206)  # the curves of classes that the legend does not name
BLUE: Color = (9, 83, 163)
CURVES: tuple[Color, ...] = (  # legible on white
    *((209, 36, 47), (9, 105, 218), (26, 150, 84), (214, 110, 0), (130, 80, 223)),
    *((0, 140, 149), (191, 57, 137), (90, 99, 109), (128, 128, 0), (110, 70, 40)),
)
MAX_CLASSES = 40  # of a confusion matrix
TEXT = 13


class Canvas:
    """An image to draw on, in pixels of the finished chart."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def finished(self) -> Image.Image:
        """Returns the chart."""
        size = (self.image.width // SCALE, self.image.height // SCALE)
        return self.image.resize(size, Image.Resampling.LANCZOS)

    def line(self, points: Sequence[tuple[float, float]], color: Color, width: float = 1.0) -> None:
        """Draws a line through the points."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.pen.line(scaled, fill=color, width=max(1, round(width * SCALE)), joint="curve")

    def rectangle(self, box: tuple[float, float, float, float], fill: Color) -> None:
        """Fills a rectangle: left, top, right, bottom."""
        left, top, right, bottom = (round(edge * SCALE) for edge in box)
        self.pen.rectangle((left, top, right - 1, bottom - 1), fill=fill)

    def text(
        self, at: tuple[float, float], text: str, color: Color = INK, size: int = TEXT, anchor: str = "lm"
    ) -> None:
        """Writes a text; `anchor` is Pillow's."""
        self.pen.text((at[0] * SCALE, at[1] * SCALE), text, fill=color, font=chart_font(text, size), anchor=anchor)

    def upward_text(self, at: tuple[float, float], text: str, color: Color = INK, size: int = TEXT) -> None:
        """Writes a text from bottom to top, that begins at a point and is centered on it sideways."""
        font = chart_font(text, size)
        _, top, right, bottom = font.getbbox(text)
        written = Image.new("L", (round(right) + 2, round(bottom) + 2), 0)
        ImageDraw.Draw(written).text((0, 0), text, fill=255, font=font)
        turned = written.rotate(90, expand=True)
        x, y = round(at[0] * SCALE - (top + bottom) / 2), round(at[1] * SCALE) - turned.height
        self.image.paste(color, (x, y), turned)


def chart_font(text: str, size: int) -> Font:
    """Returns the font of a text in a chart."""
    return font_for(text, size * SCALE) if not text.isascii() else _ascii_font(size * SCALE)


@cache
def _ascii_font(size: int) -> Font:
    return font_for("", size)


def text_width(text: str, size: int = TEXT) -> float:
    """Returns how wide a text is, in pixels of the finished chart."""
    return chart_font(text, size).getlength(text) / SCALE


def shortened(text: str, width: float) -> str:
    """Returns a text that is at most so wide."""
    if text_width(text) <= width:
        return text
    return next(
        (f"{text[:end]}..." for end in range(len(text) - 1, 0, -1) if text_width(f"{text[:end]}...") <= width), ""
    )


def precision_recall_chart(classes: Sequence[ClassScores]) -> Image.Image:
    """Returns the curves at IoU 0.5 of all classes; the legend names those with the lowest average precision."""
    curves = [scores for scores in classes if scores.curve is not None]
    ranked = sorted(curves, key=lambda scores: scores.curve.average_precision() if scores.curve else 0.0)
    named, others = ranked[: len(CURVES)], ranked[len(CURVES) :]
    left, top, size = 62, 24, 430
    canvas = Canvas(left + size + 250, top + size + 56)
    for tick in range(0, 11, 2):
        x, y = left + size * tick / 10, top + size * (1 - tick / 10)
        canvas.line([(x, top), (x, top + size)], LINE)
        canvas.line([(left, y), (left + size, y)], LINE)
        canvas.text((x, top + size + 14), f"{tick / 10:.1f}", SOFT, anchor="mm")
        canvas.text((left - 8, y), f"{tick / 10:.1f}", SOFT, anchor="rm")
    canvas.text((left + size / 2, top + size + 38), "recall", anchor="mm")
    canvas.upward_text((16, top + size / 2 + text_width("precision") / 2), "precision")
    for scores in others:
        _draw_curve(canvas, scores, PALE, (left, top, size), 1.0)
    for scores, color in reversed(list(zip(named, CURVES, strict=False))):
        _draw_curve(canvas, scores, color, (left, top, size), 2.0)
    x, y = left + size + 22, top + 8
    canvas.text((x, y), "AP at IoU 0.5" + (", lowest first" if len(curves) > 1 else ""), SOFT)
    for number, (scores, color) in enumerate(zip(named, CURVES, strict=False), start=1):
        assert scores.curve is not None
        row = y + 24 * number
        canvas.line([(x, row), (x + 20, row)], color, 3.0)
        canvas.text((x + 28, row), f"{scores.curve.average_precision():.3f}")
        canvas.text((x + 74, row), shortened(scores.name, 140))
    if others:
        canvas.text((x, y + 24 * (len(named) + 1)), f"{len(others)} more classes in gray", SOFT)
    return canvas.finished()


def _draw_curve(canvas: Canvas, scores: ClassScores, color: Color, frame: tuple[int, int, int], width: float) -> None:
    assert scores.curve is not None
    left, top, size = frame
    recall, precision = scores.curve.recall, scores.curve.precision
    if len(recall) == 0:
        return
    kept = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), 500)).round().astype(int))
    points = [(0.0, float(precision[0])), *zip(recall[kept].tolist(), precision[kept].tolist(), strict=True)]
    canvas.line([(left + size * x, top + size * (1 - y)) for x, y in points], color, width)


def confusion_chart(names: Sequence[str], counts: np.ndarray) -> Image.Image:
    """Returns the confusion matrix: annotated classes in rows, detected ones in columns, colored by share of the row.

    Of more than MAX_CLASSES classes, those with the most errors are shown.
    """
    rows = worst_classes(counts, MAX_CLASSES)
    is_part = len(rows) < len(names)
    shown = [*rows, len(names)]
    matrix = counts[np.ix_(shown, shown)]
    row_names = [*(shortened(names[row], 180) for row in rows), "unmatched"]
    column_names = [*row_names[:-1], "missed"]
    cell = max(16, min(46, 760 // len(shown)))
    left = max(map(text_width, row_names)) + 58
    top = max(map(text_width, column_names)) + 50
    canvas = Canvas(round(left + cell * len(shown) + 24), round(top + cell * len(shown) + (40 if is_part else 16)))
    canvas.text((left, 16), "detected", SOFT)
    canvas.upward_text((16, top + cell * len(shown) / 2 + 30), "annotated", SOFT)
    totals = counts[shown].sum(axis=1)
    for i, (name, total) in enumerate(zip(row_names, totals.tolist(), strict=True)):
        y = top + cell * i
        canvas.text((left - 10, y + cell / 2), name, anchor="rm")
        canvas.upward_text((left + cell * (i + 0.5), top - 8), column_names[i])
        for j in range(len(shown)):
            count, x = int(matrix[i, j]), left + cell * j
            fill = _shade(count / total if total else 0.0)
            canvas.rectangle((x + 0.5, y + 0.5, x + cell - 0.5, y + cell - 0.5), fill)
            if count and cell >= 22:
                canvas.text((x + cell / 2, y + cell / 2), f"{count}", text_color(fill), 12 if count < 1000 else 9, "mm")
    edge = cell * len(rows)
    for points in (
        [(left + edge, top), (left + edge, top + cell * len(shown))],
        [(left, top + edge), (left + cell * len(shown), top + edge)],
    ):
        canvas.line(points, INK)
    if is_part:
        canvas.text(
            (left, top + cell * len(shown) + 20), f"the {len(rows)} of {len(names)} classes with the most errors", SOFT
        )
    return canvas.finished()


def worst_classes(counts: np.ndarray, most: int) -> list[int]:
    """Returns the rows of the classes with the most errors, in their order."""
    diagonal = np.diag(counts)[:-1]
    errors = counts[:-1].sum(axis=1) + counts[:, :-1].sum(axis=0) - 2 * diagonal
    chosen: list[int] = np.sort(np.argsort(-errors, kind="stable")[:most]).tolist()
    return chosen


def _shade(share: float) -> Color:
    """Returns a color between near white and blue; small shares are visible too."""
    amount = share**0.6
    red, green, blue = (round(pale + (deep - pale) * amount) for pale, deep in zip((244, 246, 248), BLUE, strict=True))
    return red, green, blue
