"""Counts and times in Prometheus' text format, under TensorFlow Serving's names where it has one.

Written out here because its names begin with a colon and its counters do not end in `_total`, which the usual client
would add. Source: servables/tensorflow/util.cc.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable

REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"
BATCH_SIZE = "unfreeze_batch_size"
REFUSED = "unfreeze_requests_refused"
WAITING = "unfreeze_requests_waiting"

LATENCY_BOUNDS = tuple(10 * 1.8**power for power in range(33))  # microseconds, to about 20 minutes
SIZE_BOUNDS = tuple(float(2**power) for power in range(11))

# Name -> (help, bounds of the buckets).
HISTOGRAMS = {
    REQUEST_LATENCY: ("Distribution of wall time (in microseconds) for a request.", LATENCY_BOUNDS),
    RUNTIME_LATENCY: ("Distribution of wall time (in microseconds) for the TensorFlow runtime.", LATENCY_BOUNDS),
    BATCH_SIZE: ("Rows that were answered by one call of the model.", SIZE_BOUNDS),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What was counted since the start."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: dict[Labels, int] = defaultdict(int)
        self.histograms: dict[tuple[str, Labels], list[float]] = {}  # counts of each bucket, one over all, then the sum
        self.gauges: dict[str, tuple[str, str, Callable[[], float]]] = {}

    def watch(self, name: str, kind: str, told: str, value: Callable[[], float]) -> None:
        """Add a number that is looked up when the page is asked for."""
        self.gauges[name] = (kind, told, value)

    def count_request(self, model: str, status: str) -> None:
        with self.lock:
            self.counts[(("model_name", model), ("status", status))] += 1

    def observe(self, name: str, value: float, **labels: str) -> None:
        bounds = HISTOGRAMS[name][1]
        with self.lock:
            row = self.histograms.setdefault((name, tuple(labels.items())), [0.0] * (len(bounds) + 2))
            row[bisect_left(bounds, value)] += 1
            row[-1] += value

    def page(self) -> str:
        """Everything, in the text exposition format."""
        with self.lock:
            counts = dict(self.counts)
            histograms = {key: list(row) for key, row in self.histograms.items()}
        lines = [f"# TYPE {REQUEST_COUNT} counter"]
        lines += [f"{REQUEST_COUNT}{braces(labels)} {count}" for labels, count in counts.items()]
        for name, (told, bounds) in HISTOGRAMS.items():
            lines += [f"# HELP {name} {told}", f"# TYPE {name} histogram"]
            for (_, labels), row in ((key, row) for key, row in histograms.items() if key[0] == name):
                lines += histogram_lines(name, labels, bounds, row)
        for name, (kind, told, value) in self.gauges.items():
            lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}", f"{name} {value():g}"]
        return "\n".join(lines) + "\n"


def histogram_lines(name: str, labels: Labels, bounds: tuple[float, ...], row: list[float]) -> list[str]:
    lines, total = [], 0.0
    for bound, count in zip([*map("{:g}".format, bounds), "+Inf"], row, strict=False):
        total += count
        lines.append(f"{name}_bucket{braces((*labels, ('le', bound)))} {int(total)}")
    return [*lines, f"{name}_sum{braces(labels)} {row[-1]:.6g}", f"{name}_count{braces(labels)} {int(total)}"]


def braces(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}"


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
