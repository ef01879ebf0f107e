"""Writes scenes like those of examples/digits, with annotations: python benchmarks/digit_scenes.py FOLDER.

Handwritten digits of scikit-learn (`load_digits`) on textured backgrounds, 160 x 160. The detector of examples/digits
was trained on digits 0 to 1399 of that set; `--part val` (the default) uses those after them, `--part train` those.
FOLDER gets the images and annotations.json in COCO's format.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIZE, TRAINED = 160, 1400
INK = 0.3  # rows and columns of a digit with less than this are cut off
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--part", choices=["val", "train"], default="val")
    arguments = parser.parse_args()
    write_scenes(arguments.folder, arguments.count, arguments.part)


def write_scenes(folder: Path, count: int, part: str) -> Path:
    """Writes the scenes, always the same ones; returns the path of the annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    chosen = slice(TRAINED, None) if part == "val" else slice(TRAINED)
    inks, labels = digits.images[chosen] / 16, digits.target[chosen]
    rng = np.random.default_rng(0 if part == "val" else 1)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        pixels, boxes = scene(rng, inks, labels)
        name = f"{part}_{number:04d}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "width": SIZE, "height": SIZE, "file_name": name})
        for label, box in boxes:
            entry = {"id": len(objects) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0}
            objects.append({**entry, "bbox": box, "area": box[2] * box[3]})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return path


def scene(
    rng: np.random.Generator, inks: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, list[float]]]]:
    """Returns an image, and the label and the box (left, top, width, height) of each digit in it."""
    pixels = background(rng)
    is_dark = pixels.mean() > 128
    boxes: list[tuple[int, list[float]]] = []
    for _ in range(int(rng.integers(2, 5))):
        index = int(rng.integers(len(labels)))
        ink = inks[index]
        ink = ink[ink.max(axis=1) > INK][:, ink.max(axis=0) > INK]
        height = int(rng.integers(30, 71))
        width = max(8, round(height * ink.shape[1] / ink.shape[0] * rng.uniform(0.9, 1.2)))
        left, top = int(rng.integers(0, SIZE - width)), int(rng.integers(0, SIZE - height))
        box = [float(left), float(top), float(width), float(height)]
        if any(overlaps(box, other) for _, other in boxes):
            continue
        mask = Image.fromarray((ink * 255).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
        alpha = np.asarray(mask)[..., np.newaxis] / 255
        color = rng.uniform(0, 60, 3) if is_dark else rng.uniform(195, 255, 3)
        part = pixels[top : top + height, left : left + width]
        part[:] = part * (1 - alpha) + color * alpha
        boxes.append((int(labels[index]), box))
    pixels += rng.normal(0, 8, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8), boxes


def background(rng: np.random.Generator) -> np.ndarray:
    """Returns a few random colors that run into each other, `[H, W, 3]` from 0 to 255."""
    colors = rng.integers(*((0, 160) if rng.random() < 0.5 else (90, 256)), [*rng.integers(2, 4, 2), 3]).astype(
        np.uint8
    )
    return np.asarray(Image.fromarray(colors).resize((SIZE, SIZE), Image.Resampling.BICUBIC), float).copy()


def overlaps(box: list[float], other: list[float]) -> bool:
    """Returns whether two boxes share pixels."""
    return all(box[i] < other[i] + other[i + 2] and other[i] < box[i] + box[i + 2] for i in (0, 1))


if __name__ == "__main__":
    main()
