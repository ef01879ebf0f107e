"""Draws the times of a benchmark as bars."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unfreeze.benchmarking.results import Benchmark

WIDTH, MARGIN, LABEL_WIDTH, VALUE_WIDTH = 1200, 40, 330, 170
BAR, GAP, HEADING, TITLE = 34, 14, 56, 90
COLORS = ("#4269d0", "#efb118", "#3ca951", "#ff725c", "#a463f2", "#6cc5b0", "#9c6b4e", "#97bbf5")
TEXT, FAINT, WHISKER = "#1f2328", "#656d76", "#1f2328"


def write_chart(benchmark: Benchmark, path: Path) -> None:
    """Writes a PNG: for each batch size, a bar of the median time per image of each model, with its quartiles.

    Raises: OSError if the file cannot be written.
    """
    draw_chart(benchmark).save(path, format="PNG")


def draw_chart(benchmark: Benchmark) -> Image.Image:
    """Returns the chart."""
    group = HEADING + len(benchmark.results) * (BAR + GAP)
    image = Image.new("RGB", (WIDTH, TITLE + group * len(benchmark.batches) + MARGIN), "white")
    draw = ImageDraw.Draw(image)
    title, heading, label = (ImageFont.load_default(size) for size in (28, 20, 18))
    draw.text((MARGIN, 28), "Milliseconds per image (less is better)", TEXT, title)
    timings = [timing for result in benchmark.results for timing in result.timings]
    longest = max((timing.quartiles_ms[2] for timing in timings), default=1.0)
    left, right = MARGIN + LABEL_WIDTH, WIDTH - MARGIN - VALUE_WIDTH
    top = TITLE
    for batch in benchmark.batches:
        draw.text((MARGIN, top + 14), f"batch {batch}", FAINT, heading)
        draw.line((MARGIN, top + HEADING - 12, WIDTH - MARGIN, top + HEADING - 12), "#d0d7de", 1)
        y = top + HEADING
        for number, result in enumerate(benchmark.results):
            middle = y + BAR // 2
            name = _shortened(f"{number + 1}: {result.format} ({result.runtime})", label, LABEL_WIDTH - 16)
            draw.text((left - 14, middle), name, TEXT, label, anchor="rm")
            if timing := result.timing(batch):
                first, median, third = (round((right - left) * value / longest) for value in timing.quartiles_ms)
                bar = (left, y, left + max(median, 2), y + BAR)
                draw.rounded_rectangle(bar, 4, COLORS[number % len(COLORS)])
                draw.line((left + first, middle, left + third, middle), WHISKER, 2)
                for x in (left + first, left + third):
                    draw.line((x, middle - 6, x, middle + 6), WHISKER, 2)
                value = f"{timing.quartiles_ms[1]:.2f} ms"
                draw.text((left + max(median, third) + 12, middle), value, TEXT, label, anchor="lm")
            else:
                draw.text((left + 8, middle), "failed", FAINT, label, anchor="lm")
            y += BAR + GAP
        top += group
    return image


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Returns a text cut to a width in pixels."""
    cut = text
    while font.getlength(cut) > width:
        text = text[:-1]
        cut = f"{text}..."
    return cut
