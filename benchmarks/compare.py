"""An export beside the original: python benchmarks/compare.py [GOLDEN] [--original-python PY --original-path SITE].

Both sides are made from one checkpoint (tests/reference.py) and run by one TensorFlow. The original's side is what its
exporter writes: for TensorFlow 1 the frozen graph in tests/frozen, in a SavedModel with the signature
`serving_default` and nothing in `variables/`; for TensorFlow 2 the SavedModel itself, made here. Loading and the first
answer are timed in fresh processes, steady answers in one process, in turn: ours, theirs, ours, …

With --original-python (TensorFlow 1.15 and Python 3.7; for TensorFlow 2 models 2.10 and 3.9) and --original-path (the
folder that has `object_detection/`) the original's exporter runs too, in turn with `unfreeze export`, its verification
included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "src")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import reference  # noqa: E402

PICTURE = (480, 640)
TF2_NAMES = reference.golden_names("tf2")
KEYPOINT_LABELS = HERE.parent / "src" / "unfreeze" / "config" / "coco_person_keypoints.pbtxt"
ENVIRONMENT = dict(os.environ)  # of the commands; importing TensorFlow adds to this process's own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "golden", nargs="?", default="ssd_mobilenet_v2_coco", choices=[*sorted(frozen_names()), *TF2_NAMES]
    )
    parser.add_argument("--runs", type=int, default=5, help="fresh processes of each side, and exports")
    parser.add_argument(
        "--batches", type=int, nargs="*", default=[1, 8], help="for TensorFlow 2 models only 1: the original fixes it"
    )
    parser.add_argument("--seconds", type=float, default=30, help="for steady answers of each batch size")
    parser.add_argument(
        "--picture", type=int, nargs=2, default=PICTURE, metavar=("HEIGHT", "WIDTH"), help="of steady answers"
    )
    parser.add_argument("--original-python", help="a Python with TensorFlow 1.15 and what the original needs")
    parser.add_argument("--original-path", help="the folder that has object_detection/")
    parser.add_argument("--load", metavar="SAVED_MODEL", help=argparse.SUPPRESS)  # what a fresh process does
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load_and_answer(arguments.load)))
        return
    if arguments.golden in TF2_NAMES:
        arguments.batches = [1]
        if not (arguments.original_python and arguments.original_path):
            parser.error(
                f"{arguments.golden}: the original's SavedModel is made by its exporter; give --original-python"
            )
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(compare(arguments, Path(scratch)), indent=1))


def compare(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    tf2 = arguments.golden in TF2_NAMES
    prefix = reference.write_checkpoint(reference.golden(arguments.golden, "tf2" if tf2 else "tf1"), scratch / "run")
    with_keypoint_labels(prefix.parent / "pipeline.config")
    exports = time_exports(arguments, prefix, scratch)
    original = scratch / "exporter" / "saved_model" if tf2 else write_original(arguments.golden, scratch / "original")
    ours = scratch / "ours" / "saved_model"
    loads = [[in_fresh_process(folder) for folder in (ours, original)] for _ in range(arguments.runs)]
    told = {
        "golden": arguments.golden,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "export": exports,
        "saved_model.pb bytes": {
            "ours": (ours / "saved_model.pb").stat().st_size,
            "original": (original / "saved_model.pb").stat().st_size,
        },
    }
    for figure in ("tf2 load s", "tf2 first answer s", "tf1 load s"):
        told[figure] = beside([pair[0][figure] for pair in loads], [pair[1][figure] for pair in loads])
    for size in arguments.batches:
        pictures = [reference.picture(*arguments.picture, seed=seed) for seed in range(size)]
        told[f"steady answer s, batch {size}"] = steady(ours, original, np.stack(pictures), arguments.seconds)
    import tensorflow as tf

    return {"tensorflow": tf.__version__, **told}


def with_keypoint_labels(config: Path) -> None:
    """Points a CenterNet's config to a file that is there: the original insists on it."""
    path = f'keypoint_label_map_path: "{KEYPOINT_LABELS}"'
    config.write_text(re.sub(r'keypoint_label_map_path: *"[^"]*"', path, config.read_text()))


def time_exports(arguments: argparse.Namespace, prefix: Path, scratch: Path) -> dict[str, Any]:
    """Whole commands, as a user types them: wall time, and the peak memory of the largest process."""
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent / "src"), ENVIRONMENT.get("PYTHONPATH")])),
    }
    ours = lambda: run(
        [
            sys.executable,
            "-m",
            "unfreeze",
            "export",
            str(prefix),
            "--output-directory",
            str(scratch / "ours"),
            "--overwrite",
            "-q",
        ],
        environment,
    )
    if not (arguments.original_python and arguments.original_path):
        return beside_runs([ours() for _ in range(arguments.runs)], [])
    flags = {"input_type": "image_tensor", "pipeline_config_path": prefix.parent / "pipeline.config"}
    if arguments.golden in TF2_NAMES:
        script, flags["trained_checkpoint_dir"] = "exporter_main_v2", prefix.parent
    else:
        script, flags["trained_checkpoint_prefix"] = "export_inference_graph", prefix

    def theirs() -> tuple[float, float]:
        shutil.rmtree(scratch / "exporter", ignore_errors=True)
        command = [
            arguments.original_python,
            "-m",
            f"object_detection.{script}",
            f"--output_directory={scratch / 'exporter'}",
        ]
        return run(
            [*command, *(f"--{name}={value}" for name, value in flags.items())],
            {**ENVIRONMENT, "PYTHONPATH": arguments.original_path},
        )

    pairs = [(ours(), theirs()) for _ in range(arguments.runs)]
    return beside_runs([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and peak resident megabytes (of the largest process) of a command that has to succeed."""
    measured = (
        "import resource, subprocess, sys\n"
        "code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    began = time.perf_counter()
    code, peak_kb = subprocess.run(
        [sys.executable, "-c", measured, *command], env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    if int(code):
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, int(peak_kb) / 1024


def beside_runs(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "wall s": beside([run[0] for run in ours], [run[0] for run in theirs]),
        "peak MB": beside([run[1] for run in ours], [run[1] for run in theirs]),
    }


def beside(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Medians of both sides, and the median of the ratios pair by pair."""
    told: dict[str, Any] = {"ours": round(statistics.median(ours), 4)}
    if theirs:
        told["original"] = round(statistics.median(theirs), 4)
        told["ratio"] = round(statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)), 3)
    return told


def in_fresh_process(folder: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--load", str(folder)], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def load_and_answer(folder: str) -> dict[str, float]:
    import tensorflow as tf

    picture = tf.constant(reference.picture(*PICTURE)[np.newaxis])
    tf.saved_model.contains_saved_model(folder)
    began = time.perf_counter()
    model = tf.saved_model.load(folder)
    loaded = time.perf_counter()
    model.signatures["serving_default"](picture)
    answered = time.perf_counter()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], folder)
    return {
        "tf2 load s": loaded - began,
        "tf2 first answer s": answered - loaded,
        "tf1 load s": time.perf_counter() - answered,
    }


def steady(ours: Path, original: Path, pictures: np.ndarray, seconds: float) -> dict[str, Any]:
    """Answers in turn, after a warm-up; garbage of one side is not paid by the other."""
    import tensorflow as tf

    batch = tf.constant(pictures)
    loaded = [tf.saved_model.load(str(folder)) for folder in (ours, original)]
    answers: list[Callable[[], Any]] = [
        lambda model=model: model.signatures["serving_default"](batch) for model in loaded
    ]
    times: list[list[float]] = [[], []]
    warm_ups, most = 3, 60
    until = time.perf_counter() + seconds
    while len(times[1]) < warm_ups + 1 or (time.perf_counter() < until and len(times[1]) < most):
        for side, answer in enumerate(answers):
            began = time.perf_counter()
            {name: output.numpy() for name, output in answer().items()}
            times[side].append(time.perf_counter() - began)
    del times[0][:warm_ups], times[1][:warm_ups]
    return beside(*times) | {"answers": len(times[0])}


def write_original(golden: str, folder: Path) -> Path:
    """The original's frozen graph in a SavedModel, as its exporter writes it."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        v1.import_graph_def(v1.GraphDef.FromString(reference.frozen_graph(golden)), name="")
        tensor = graph.get_tensor_by_name
        outputs = {name: tensor(name + ":0") for name in reference.golden(golden).outputs}
        signature = v1.saved_model.predict_signature_def({"inputs": tensor("image_tensor:0")}, outputs)
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    return folder


def frozen_names() -> list[str]:
    return [path.name.removesuffix(".pb.gz") for path in (reference.HERE / "frozen").glob("*.pb.gz")]


if __name__ == "__main__":
    main()
