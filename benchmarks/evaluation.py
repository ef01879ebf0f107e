"""Measure what an evaluation costs besides inference: python benchmarks/evaluation.py [OPTIONS].

A model that sleeps as long as a detector takes returns 100 detections for each image, near its objects. The images are
JPEGs of 640 x 480, the annotations are COCO's, with 80 classes. What is printed: the time of the whole evaluation, with
its report, the time inside the model, and the share of the rest; and the CPU time of the main thread, which does not
depend on what else runs on the machine. Images are decoded by other threads, while the model runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.evaluation import evaluate as evaluation
from unfreeze.runtimes.model import Outputs

CLASSES, DETECTIONS, OBJECTS = 80, 100, 7
WIDTH, HEIGHT = 640, 480


class SleepingModel:
    """A model that sleeps, and returns detections that the annotations know."""

    title, output_names, uses_gpu = "sleeping", (), False

    def __init__(self, outputs: Sequence[Outputs], seconds: float) -> None:
        self.outputs = iter(outputs)
        self.seconds = seconds

    def run(self, images: np.ndarray) -> Outputs:
        """Returns the next detections, after the time of a detector."""
        time.sleep(self.seconds * len(images))
        rows = [next(self.outputs) for _ in images]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def main() -> None:
    """Makes the images and annotations, runs the evaluation, and prints its times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--milliseconds", type=float, default=30.0, help="of the model for an image")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boxes, classes = write_dataset(folder, options.images)
        outputs = [outputs_near(*objects) for objects in zip(boxes, classes, strict=True)]
        model = SleepingModel(outputs, options.milliseconds / 1000)
        evaluation.load_model = lambda file: model  # type: ignore[assignment]
        (folder / "model.onnx").touch()
        import tensorflow as tf  # decodes the images; its import is not measured

        tf.constant(0)
        started, cpu_started = time.perf_counter(), time.thread_time()
        result = evaluation.evaluate(folder / "model.onnx", folder / "annotations.json", report_path=folder / "a.html")
        total, cpu = time.perf_counter() - started, time.thread_time() - cpu_started
    share = 1 - result.inference_s / total
    print(f"{result.images:,} images, {result.objects:,} objects, mAP {result.scores[0].mean_average_precision:.3f}")
    print(f"{total:.1f} s, {result.inference_s:.1f} s of them in the model: {share:.1%} outside")
    print(f"{cpu:.1f} s of CPU time in the main thread: {cpu / (cpu + result.inference_s):.1%}")


def write_dataset(folder: Path, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes images and COCO's JSON; returns boxes `[I, OBJECTS, 4]` (left, top, width, height) and classes."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 80, 3), np.uint8)
    Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(folder / "image.jpg", quality=90)
    boxes = np.concatenate([rng.uniform(0, 330, (images, OBJECTS, 2)), rng.uniform(10, 150, (images, OBJECTS, 2))], -1)
    classes = rng.integers(1, CLASSES + 1, (images, OBJECTS))
    entries, annotations = [], []
    for number in range(images):
        (folder / f"{number}.jpg").hardlink_to(folder / "image.jpg")
        entries.append({"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
        for box, class_id in zip(boxes[number].tolist(), classes[number].tolist(), strict=True):
            values = {"image_id": number, "category_id": class_id, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **values})
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    dataset = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(dataset))
    return boxes, classes


def outputs_near(boxes: np.ndarray, classes: np.ndarray) -> Outputs:
    """Returns detections near objects, half of them of the right class."""
    rng = np.random.default_rng(int(classes.sum()))
    source = rng.integers(0, OBJECTS, DETECTIONS)
    left, top, width, height = (boxes[source] + rng.normal(0, 8, (DETECTIONS, 4))).T
    corners = [top / HEIGHT, left / WIDTH, (top + np.abs(height)) / HEIGHT, (left + np.abs(width)) / WIDTH]
    other = rng.integers(1, CLASSES + 1, DETECTIONS)
    return {
        "detection_boxes": np.stack(corners, axis=1).astype(np.float32),
        "detection_scores": np.sort(rng.random(DETECTIONS)).astype(np.float32)[::-1],
        "detection_classes": np.where(rng.random(DETECTIONS) < 0.5, classes[source], other).astype(np.float32),
        "num_detections": np.float32(DETECTIONS),
    }


if __name__ == "__main__":
    main()
