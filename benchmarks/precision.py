"""Measures the precisions of the digits example: python benchmarks/precision.py.

Exports examples/digits in every format and precision, with 200 calibration scenes and 300 annotated scenes of
digit_scenes.py, and runs the files in turn with `unfreeze benchmark`, one thread each. Prints a table in Markdown:
size, CPU time for one image, alone and relative to the same format in float32 (the median of the rounds), mAP, and the
mAP that the file loses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import digit_scenes

import unfreeze
from unfreeze.formats import FORMATS
from unfreeze.formats.precision import Precision

CHECKPOINT = Path(__file__).resolve().parents[1] / "examples" / "digits" / "run"
MEASURED = ("onnx", "openvino", "tflite")


def main() -> None:
    arguments = parsed_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        val = digit_scenes.write_scenes(folder / "val", arguments.scenes, "val")
        digit_scenes.write_scenes(folder / "train", 200, "train")
        exports = arguments.exports or folder / "exports"
        models: dict[tuple[str, Precision], Path] = {}
        for name in arguments.formats:
            for precision in (Precision.FLOAT, *FORMATS[name].precisions):
                target = exports / name / precision.value.replace(" ", "-")
                models[name, precision] = target
                if not target.exists():
                    export(name, precision, target, val, folder / "train")
        for name in arguments.formats:
            measure({key: path for key, path in models.items() if key[0] == name}, folder / "val", arguments.seconds)


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--formats", nargs="+", default=MEASURED, choices=MEASURED)
    add("--scenes", type=int, default=300, help="annotated scenes; default: 300")
    add("--seconds", type=float, default=20, help="for all precisions of a format; default: 20")
    add("--exports", type=Path, metavar="FOLDER", help="keep the exports here; those that exist are not made again")
    return parser.parse_args()


def export(name: str, precision: Precision, target: Path, val: Path, train: Path) -> None:
    """Exports one file in a process of its own, with its mAP in export.json."""
    command = [sys.executable, "-m", "unfreeze", "export", str(CHECKPOINT), "--quiet", "--format", name]
    command += ["--output-directory", str(target), "--annotations", str(val)]
    command += [precision.option] if precision.option else []
    command += ["--calibration-images", str(train)] if precision is Precision.INT8 else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(models: dict[tuple[str, Precision], Path], images: Path, seconds: float) -> None:
    """Prints a row for each precision of one format."""
    paths = [path / FORMATS[name].file for (name, _), path in models.items()]
    results = unfreeze.benchmark(paths, images=images, threads=1, seconds=seconds).results
    first = results[0]
    print("| format | precision | size | of float32 | CPU ms for one image | of float32 | mAP | loss |")
    print("|---|---|---|---|---|---|---|---|")
    for ((name, precision), path), result in zip(models.items(), results, strict=True):
        accuracy = json.loads((path / "export.json").read_text())["formats"][name]["accuracy"]
        [timing] = result.timings
        ratios = [cpu / other for cpu, other in zip(timing.cpu_s, first.timings[0].cpu_s, strict=True)]
        print(
            f"| {name} | {precision.value} | {result.size_bytes / 1e6:.2f} MB | "
            f"{result.size_bytes / first.size_bytes:.2f} | {1000 * statistics.median(timing.cpu_s):.2f} | "
            f"{statistics.median(ratios):.2f} | "
            f"{accuracy['file_map']:.4f} | {accuracy['loss']:.4f} |"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
