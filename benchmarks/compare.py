"""Compare exports with the SavedModel of the Object Detection API: python benchmarks/compare.py [GOLDEN] [OPTIONS].

All sides are made from one checkpoint (tests/reference.py) and run by one TensorFlow. `unfreeze export` writes one side
for each binding in --weights. The other side is the SavedModel that the Object Detection API (OD API) writes: for
TensorFlow 1 the frozen graph in tests/frozen, with nothing in `variables/`; for TensorFlow 2 the SavedModel of
exporter_main_v2. Pass --original-saved-model to use one that was written earlier, or --original-python (TensorFlow 1.15
and Python 3.7; for TensorFlow 2 models 2.10 and 3.9) and --original-path (the folder that has `object_detection/`) to
run the OD API's exporter, in turn with `unfreeze export`, whose verification is included.

What is measured:

    wall s, CPU s, peak MB                  whole export commands, in turn; memory is that of the largest process
    saved_model.pb MB                       the size of the file
    load s, first response s, TF1 load s    in fresh processes, in turn
    batch N ms                              steady responses, in processes that stay alive, in turn

Loading and responses are measured in each of --settings:

    off        TF_ENABLE_ONEDNN_OPTS=0
    on         TF_ENABLE_ONEDNN_OPTS=1 and TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=0
    assumed    TF_ENABLE_ONEDNN_OPTS=1 and TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1

Each row of the table is printed as soon as it is measured: the median, and the median of the ratios to the OD API's
side, taken run by run. The same rows follow as JSON. TensorFlow's own messages are on stderr.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "src")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import reference  # noqa: E402
from onednn_settings import MAX_CPU_ISA, SETTINGS, onednn_variables  # noqa: E402

ENVIRONMENT = dict(os.environ)  # for the commands; importing TensorFlow changes that of this process
TF2_NAMES = reference.golden_names("tf2")
KEYPOINT_LABELS = HERE.parent / "src" / "unfreeze" / "config" / "coco_person_keypoints.pbtxt"
BINDINGS = ("variables", "constants", "trainable")
INSTRUCTION_SETS = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
OD_API = "OD API"
WARM_UPS, MIN_ROUNDS = 3, 3  # of steady responses, whatever --seconds says
SCORE_TOLERANCE = 0.01  # between the highest scores of two sides; far above what rounding in other kernels makes


class CommandCost(NamedTuple):
    """What a command took; the memory is that of its largest process."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


class Exporter(NamedTuple):
    """A command that writes `output/saved_model`."""

    command: list[str]
    environment: dict[str, str]
    output: Path


def main() -> None:
    arguments = parsed_arguments()
    if arguments.load:
        print(json.dumps(load_times(arguments.load, arguments.image_size)))
    elif arguments.respond:
        respond(arguments.respond, arguments.batches[0], arguments.image_size)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(compare(arguments, Path(scratch)), indent=1))


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = [*sorted(frozen_names()), *TF2_NAMES]
    default = "ssd_mobilenet_v2_coco"
    add("golden", nargs="?", default=default, choices=names, metavar="GOLDEN", help=f"default: {default}")
    add("--weights", nargs="+", default=["variables"], choices=BINDINGS, help="the exports to compare")
    add("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS, help="default: all three")
    add(
        "--isa",
        choices=INSTRUCTION_SETS,
        help="Set ONEDNN_MAX_CPU_ISA for all measured processes, to emulate another CPU. AVX2 stands for those without "
        "AVX-512, where a convolution whose weights are not constants is slow.",
    )
    add("--runs", type=int, default=5, help="exports of each side, and its fresh processes in each setting")
    add("--batches", type=int, nargs="+", help="default: 1 8; a TensorFlow 2 model of the OD API takes only 1")
    add("--seconds", type=float, default=30, help="for the steady responses of each setting and batch size")
    add("--image-size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    add("--original-saved-model", type=Path, metavar="FOLDER", help="the OD API's SavedModel of this golden")
    add("--original-python", help="a Python that runs the OD API")
    add("--original-path", help="the folder that has object_detection/")
    add("--load", metavar="SAVED_MODEL", help=argparse.SUPPRESS)  # what a fresh process does
    add("--respond", metavar="SAVED_MODEL", help=argparse.SUPPRESS)  # what a process that stays alive does
    arguments = parser.parse_args()
    tf2 = arguments.golden in TF2_NAMES
    arguments.batches = arguments.batches or ([1] if tf2 else [1, 8])
    if arguments.load or arguments.respond:
        return arguments
    if bool(arguments.original_python) != bool(arguments.original_path):
        parser.error("--original-python and --original-path go together: pass both or neither")
    if arguments.original_saved_model and not (arguments.original_saved_model / "saved_model.pb").is_file():
        parser.error(f"--original-saved-model {arguments.original_saved_model}: there is no saved_model.pb")
    if tf2 and not (arguments.original_saved_model or arguments.original_python):
        parser.error(f"{arguments.golden}: pass --original-saved-model, or --original-python and --original-path")
    if tf2 and arguments.batches != [1]:
        parser.error(f"{arguments.golden}: the OD API's SavedModel takes one image at a time. Pass --batches 1.")
    return arguments


def compare(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measures everything and prints the table; returns the rows and what they were measured on."""
    tf2 = arguments.golden in TF2_NAMES
    environment = ENVIRONMENT | ({MAX_CPU_ISA: arguments.isa} if arguments.isa else {})
    prefix = reference.write_checkpoint(reference.golden(arguments.golden, "tf2" if tf2 else "tf1"), scratch / "run")
    point_to_keypoint_labels(prefix.parent / "pipeline.config")
    exporters = make_exporters(arguments, prefix, scratch, environment)

    print(format_line("setting", "measurement", "side", "median", "ratio"))
    costs = export_in_turn(exporters, arguments.runs)
    folders = {side: exporter.output / "saved_model" for side, exporter in exporters.items()}
    if arguments.original_saved_model:
        folders[OD_API] = arguments.original_saved_model
    elif not tf2:
        folders[OD_API] = write_frozen_saved_model(arguments.golden, scratch / "frozen")
    rows = report(
        "export",
        {
            "wall s": {side: [cost.wall_s for cost in costs[side]] for side in costs},
            "CPU s": {side: [cost.cpu_s for cost in costs[side]] for side in costs},
            "peak MB": {side: [cost.peak_bytes / 1e6 for cost in costs[side]] for side in costs},
            "saved_model.pb MB": {side: [folder_size_mb(folder)] for side, folder in folders.items()},
        },
    )
    variables = {"export": onednn_variables(environment)}
    for name in arguments.settings:
        setting = environment | SETTINGS[name]
        variables[name] = onednn_variables(setting)
        rows += report(name, load_in_turn(folders, arguments, setting))
        for size in arguments.batches:
            rows += report(name, {f"batch {size} ms": respond_in_turn(folders, size, arguments, setting)})
    import tensorflow as tf

    return {
        "golden": arguments.golden,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "tensorflow": tf.__version__,
        "image size": list(arguments.image_size),
        "settings": variables,
        "measurements": rows,
    }


# Exports


def make_exporters(
    arguments: argparse.Namespace, prefix: Path, scratch: Path, environment: dict[str, str]
) -> dict[str, Exporter]:
    """The export commands by side, as a user types them."""
    paths = filter(None, [str(HERE.parent / "src"), environment.get("PYTHONPATH")])
    with_unfreeze = environment | {"PYTHONPATH": os.pathsep.join(paths)}
    exporters = {}
    for weights in arguments.weights:
        output = scratch / weights
        command = [sys.executable, "-m", "unfreeze", "export", str(prefix), "--quiet", "--weights", weights]
        exporters[f"unfreeze {weights}"] = Exporter(
            [*command, "--output-directory", str(output)], with_unfreeze, output
        )
    if arguments.original_python:
        tf2 = arguments.golden in TF2_NAMES
        output = scratch / "exporter"
        checkpoint = ("trained_checkpoint_dir", prefix.parent) if tf2 else ("trained_checkpoint_prefix", prefix)
        flags = {
            "input_type": "image_tensor",
            "pipeline_config_path": prefix.parent / "pipeline.config",
            "output_directory": output,
        } | dict([checkpoint])
        script = f"object_detection.{'exporter_main_v2' if tf2 else 'export_inference_graph'}"
        command = [arguments.original_python, "-m", script, *(f"--{name}={value}" for name, value in flags.items())]
        exporters[OD_API] = Exporter(command, environment | {"PYTHONPATH": arguments.original_path}, output)
    return exporters


def export_in_turn(exporters: dict[str, Exporter], runs: int) -> dict[str, list[CommandCost]]:
    costs: dict[str, list[CommandCost]] = {side: [] for side in exporters}
    for _ in range(runs):
        for side, exporter in exporters.items():
            shutil.rmtree(exporter.output, ignore_errors=True)
            costs[side].append(measure_command(exporter.command, exporter.environment))
    return costs


def measure_command(command: list[str], environment: dict[str, str]) -> CommandCost:
    """What a command costs that has to succeed. A small process starts it: this one's size would count as its peak."""
    measured = (
        "import json, resource, subprocess, sys, time\n"
        "began = time.perf_counter()\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
        "wall_s, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "cost = [wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]\n"
        "print(json.dumps([done.returncode, done.stderr.decode(errors='replace')[-2000:], cost]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", measured, *command], env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    code, errors, cost = json.loads(output)
    if code:
        raise SystemExit(f"error: exit code {code} of {' '.join(command)}:\n{errors}")
    return CommandCost(*cost)


def point_to_keypoint_labels(config: Path) -> None:
    """Points a CenterNet's config to a keypoint label map that exists: the OD API's exporter reads it."""
    path = f'keypoint_label_map_path: "{KEYPOINT_LABELS}"'
    config.write_text(re.sub(r'keypoint_label_map_path: *"[^"]*"', path, config.read_text()))


def write_frozen_saved_model(golden: str, folder: Path) -> Path:
    """Writes the OD API's frozen graph of a TensorFlow 1 golden as a SavedModel, as its exporter does."""
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
    """The TensorFlow 1 goldens whose frozen graph is in tests/frozen."""
    return [path.name.removesuffix(".pb.gz") for path in (reference.HERE / "frozen").glob("*.pb.gz")]


def folder_size_mb(saved_model: Path) -> float:
    return (saved_model / "saved_model.pb").stat().st_size / 1e6


# Loading and the first response, in fresh processes


def load_in_turn(
    folders: dict[str, Path], arguments: argparse.Namespace, environment: dict[str, str]
) -> dict[str, dict[str, list[float]]]:
    """Seconds by measurement and side."""
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(arguments.runs):
        for side, folder in folders.items():
            command = child_command("--load", folder, arguments)
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            for measurement, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                times.setdefault(measurement, {}).setdefault(side, []).append(seconds)
    return times


def load_times(folder: str, image_size: tuple[int, int]) -> dict[str, float]:
    """Loads a SavedModel by both of TensorFlow's loaders in this process, which has loaded none before."""
    import tensorflow as tf

    batch = images(1, image_size)
    tf.saved_model.contains_saved_model(folder)
    began = time.perf_counter()
    model = tf.saved_model.load(folder)
    loaded = time.perf_counter()
    model.signatures["serving_default"](batch)
    responded = time.perf_counter()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], folder)
    return {
        "load s": loaded - began,
        "first response s": responded - loaded,
        "TF1 load s": time.perf_counter() - responded,
    }


# Steady responses, in processes that stay alive


def respond_in_turn(
    folders: dict[str, Path], size: int, arguments: argparse.Namespace, environment: dict[str, str]
) -> dict[str, list[float]]:
    """Milliseconds of the responses to one batch by side, warm-ups left out.

    Each side has a process of its own, for each batch size a new one. In one process the sides distort each other: the
    key of oneDNN's primitive cache has the shapes and not whether the weights are constants, so a convolution gets the
    primitive, slow or fast, that was made first for its shapes. And a kernel keeps its reordered weights only in the
    layout that suits its first batch size.
    """
    times: dict[str, list[float]] = {side: [] for side in folders}
    with ExitStack() as stack:
        processes = {}
        for side, folder in folders.items():
            command = [*child_command("--respond", folder, arguments), "--batches", str(size)]
            processes[side] = stack.enter_context(
                subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        require_same_scores({side: next_number(process) for side, process in processes.items()})
        end = None
        while end is None or len(times[OD_API]) < WARM_UPS + MIN_ROUNDS or time.perf_counter() < end:
            for side, process in processes.items():
                print(file=process.stdin, flush=True)
                times[side].append(1000 * next_number(process))
            if end is None and len(times[OD_API]) == WARM_UPS:
                end = time.perf_counter() + arguments.seconds
    return {side: side_times[WARM_UPS:] for side, side_times in times.items()}


def respond(folder: str, size: int, image_size: tuple[int, int]) -> None:
    """Prints the highest score of a batch; then, for each line on stdin, the seconds that one more response takes."""
    import tensorflow as tf

    call = tf.saved_model.load(folder).signatures["serving_default"]
    batch = images(size, image_size)
    print(call(batch)["detection_scores"].numpy().max(), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        {name: output.numpy() for name, output in call(batch).items()}
        print(time.perf_counter() - began, flush=True)


def images(size: int, image_size: tuple[int, int]) -> Any:
    """A batch `[N, H, W, 3]` uint8 of different images, as a tensor."""
    import tensorflow as tf

    return tf.constant(np.stack([reference.image(*image_size, seed=seed) for seed in range(size)]))


def next_number(process: subprocess.Popen[str]) -> float:
    """The number on the next line that a process prints."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"error: exit code {process.wait()} of a process that responds in turn")
    return float(line)


def require_same_scores(highest: dict[str, float]) -> None:
    """Endpoints the benchmark if the sides do not run the same weights."""
    if max(highest.values()) - min(highest.values()) > SCORE_TOLERANCE:
        raise SystemExit(
            f"error: the sides have different weights (highest scores: {highest}). Pass an --original-saved-model that "
            "was written from this golden's checkpoint."
        )


def child_command(mode: str, folder: Path, arguments: argparse.Namespace) -> list[str]:
    return [sys.executable, __file__, mode, str(folder), "--image-size", *map(str, arguments.image_size)]


# The table


def report(setting: str, measurements: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Prints and returns one row for each measurement and side, from its values run by run."""
    rows = []
    for measurement, values in measurements.items():
        for side, side_values in values.items():
            row: dict[str, Any] = {"setting": setting, "measurement": measurement, "side": side}
            row |= {"median": round(statistics.median(side_values), 3), "runs": len(side_values)}
            if side != OD_API and OD_API in values:
                ratios = [ours / theirs for ours, theirs in zip(side_values, values[OD_API], strict=True)]
                row["ratio"] = round(statistics.median(ratios), 3)
            line = format_line(setting, measurement, side, f"{row['median']:.2f}", str(row.get("ratio", "")))
            print(line, flush=True)
            rows.append(row)
    return rows


def format_line(setting: str, measurement: str, side: str, median: str, ratio: str) -> str:
    return f"{setting:8} {measurement:18} {side:20} {median:>8} {ratio:>6}".rstrip()


if __name__ == "__main__":
    main()
