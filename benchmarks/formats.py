"""Measures the formats of a golden against the Object Detection API's graph: python benchmarks/formats.py [GOLDEN].

All models are made from one checkpoint (tests/reference.py). The first one is the SavedModel that the Object Detection
API (OD API) writes: for TensorFlow 1 its frozen graph in tests/frozen, for others pass --original-saved-model. The
others are exports of `unfreeze`. `unfreeze benchmark` runs them in turn, each in a process of its own, with one thread.

What is measured:

    export s, peak MB       `unfreeze export --format FORMAT` with its verification, and the memory of its largest
                            process without that of `import tensorflow`
    batch N CPU ms          CPU time per image, and the median of the ratios to the OD API's model, round by round

The second part is measured in each of --settings: TF_ENABLE_ONEDNN_OPTS=0 (off) and 1 (on), which concern TensorFlow
only. A TFLite model is exported for the size of the images, so that every model resizes them itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import compare
import reference
from onednn_settings import SETTINGS
from PIL import Image

import unfreeze
from unfreeze.formats import FORMAT_NAMES, FORMATS, SAVED_MODEL

IMAGE_SIZE = (480, 640)


def main() -> None:
    arguments = parsed_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        original = arguments.original_saved_model or compare.write_frozen_saved_model(
            arguments.golden, folder / "original"
        )
        exports = arguments.exports or folder / "exports"
        if not exports.exists():
            measure_exports(arguments.golden, arguments.formats, folder / "run", exports)
        models = {"OD API": original} | {name: path_of(exports, name) for name in arguments.formats}
        images = folder / "images"
        images.mkdir()
        for seed in (1, 2):
            Image.fromarray(reference.image(*IMAGE_SIZE, seed)).save(images / f"{seed}.png")
        for setting in arguments.settings:
            os.environ |= SETTINGS[setting]  # the processes of the models inherit them
            for size in arguments.batches:
                measure_models(models, images, size, setting, arguments.seconds)


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("golden", nargs="?", default="ssd_mobilenet_v2_coco", metavar="GOLDEN", help="default: ssd_mobilenet_v2_coco")
    add("--formats", nargs="+", default=["saved_model", "onnx", "openvino", "tflite"], choices=FORMAT_NAMES)
    add("--settings", nargs="+", default=["off", "on"], choices=SETTINGS, help="of oneDNN; default: off on")
    add("--batches", type=int, nargs="+", default=[1, 8], help="default: 1 8")
    add("--seconds", type=float, default=60, help="for all models of each setting and batch size; default: 60")
    add("--original-saved-model", type=Path, metavar="FOLDER", help="the OD API's SavedModel of this golden")
    add("--exports", type=Path, metavar="FOLDER", help="keep the exports here; if it exists, nothing is exported")
    return parser.parse_args()


def path_of(exports: Path, name: str) -> Path:
    """The model of a format, which has a folder of its own."""
    return exports / name / ("saved_model" if name == SAVED_MODEL else FORMATS[name].file)


def measure_exports(golden: str, formats: list[str], run: Path, exports: Path) -> None:
    """Exports the golden in each format and prints what that costs."""
    generation = "tf2" if golden in compare.TF2_NAMES else "tf1"
    prefix = reference.write_checkpoint(reference.golden(golden, generation), run)
    compare.point_to_keypoint_labels(prefix.parent / "pipeline.config")
    weights_mb = sum(file.stat().st_size for file in prefix.parent.glob(f"{prefix.name}.data-*")) / 1e6
    source = Path(__file__).resolve().parents[1] / "src"
    environment = compare.ENVIRONMENT | {"PYTHONPATH": str(source)}
    alone = compare.measure_command([sys.executable, "-c", "import tensorflow"], environment)
    print(f"checkpoint: {weights_mb:.1f} MB; import tensorflow: {alone.wall_s:.1f} s, {alone.peak_bytes / 1e6:.0f} MB")
    for name in formats:
        command = [sys.executable, "-m", "unfreeze", "export", str(prefix), "--quiet", "--format", name]
        command += ["--output-directory", str(exports / name)]
        if name in FORMATS and FORMATS[name].needs_fixed_size:
            command += ["--input-shape", ",".join(map(str, (1, *IMAGE_SIZE, 3)))]
        cost = compare.measure_command(command, environment)
        beyond_mb = (cost.peak_bytes - alone.peak_bytes) / 1e6
        print(
            f"export {name:<13} {cost.wall_s:6.1f} s  CPU {cost.cpu_s:6.1f} s  "
            f"{beyond_mb:6.0f} MB beyond TensorFlow, {beyond_mb / weights_mb:.1f} times the weights"
        )


def measure_models(models: dict[str, Path], images: Path, size: int, setting: str, seconds: float) -> None:
    """Runs the models in turn and prints the CPU time of each."""
    results = unfreeze.benchmark(list(models.values()), images=images, batch=[size], threads=1, seconds=seconds).results
    first = results[0].timings[0]
    for name, result in zip(models, results, strict=True):
        label = f"oneDNN {setting:<4} batch {size}  {name:<13}"
        if result.failure is not None:
            print(label, result.status)
            continue
        [timing] = result.timings
        cpu_ms = 1000 * statistics.median(timing.cpu_s) / size
        ratio = statistics.median(cpu / other for cpu, other in zip(timing.cpu_s, first.cpu_s, strict=True))
        agreement = result.agreement or ""
        print(f"{label} CPU {cpu_ms:8.1f} ms  ratio {ratio:.2f}  {len(timing.cpu_s)} rounds  {agreement}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
