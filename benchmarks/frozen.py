"""Measures the export of a frozen graph: python benchmarks/frozen.py [GOLDEN] [--runs N] [--graph FILE].

Runs three commands in turns, each in a fresh process: the import of TensorFlow as `unfreeze` does it, `unfreeze export
GRAPH --no-verify`, and `unfreeze export GRAPH`. Prints the seconds and the peak memory of the largest process of each,
then the cost of the exports without the import, and the size of the graph.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from compare import ENVIRONMENT, HERE, CommandCost, frozen_names, measure_command, reference
from onednn_settings import onednn_variables

IMPORT = "from unfreeze.cli.quiet_tensorflow import import_tensorflow_quietly; import_tensorflow_quietly()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", nargs="?", default="ssd_mobilenet_v2_coco", choices=sorted(frozen_names()))
    parser.add_argument("--graph", type=Path, help="a frozen graph of your own instead")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--verify", action=argparse.BooleanOptionalAction, default=True, help="the third command too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        graph = arguments.graph or Path(scratch) / "frozen_inference_graph.pb"
        if arguments.graph is None:
            graph.write_bytes(reference.frozen_graph(arguments.golden))
        print(json.dumps(costs(graph, Path(scratch) / "out", arguments.runs, arguments.verify), indent=1))


def costs(graph: Path, out: Path, runs: int, verify: bool) -> dict[str, Any]:
    export = ["-m", "unfreeze", "export", str(graph), "--output-directory", str(out), "--quiet"]
    commands = {"import": ["-c", IMPORT], "export, not verified": [*export, "--no-verify"]}
    if verify:
        commands["export, verified"] = export
    environment = ENVIRONMENT | {"PYTHONPATH": str(HERE.parent / "src")}
    measured: dict[str, list[CommandCost]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            shutil.rmtree(out, ignore_errors=True)
            cost = measure_command([sys.executable, *command], environment)
            if turn:  # the first brings files into memory
                measured[name].append(cost)
    size = graph.stat().st_size
    medians = {
        name: (
            statistics.median(cost.wall_s for cost in costs),
            statistics.median(cost.peak_bytes for cost in costs) / 1e6,
        )
        for name, costs in measured.items()
    }
    base = medians.pop("import")
    return {
        "environment": onednn_variables(environment),
        "graph_mb": round(size / 1e6, 1),
        "import": {"seconds": round(base[0], 2), "peak_mb": round(base[1], 1)},
        **{
            name: {
                "seconds": round(seconds, 2),
                "peak_mb": round(peak, 1),
                "seconds_beyond_import": round(seconds - base[0], 2),
                "mb_beyond_import": round(peak - base[1], 1),
                "times_the_graph": round((peak - base[1]) * 1e6 / size, 2),
            }
            for name, (seconds, peak) in medians.items()
        },
    }


if __name__ == "__main__":
    main()
