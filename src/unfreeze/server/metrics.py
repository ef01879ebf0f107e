"""Counters and histograms in the text format of Prometheus, with TensorFlow Serving's names where it has one.

prometheus_client is not used: it adds `_total` to counters, and TensorFlow Serving's names do not end so.
Source: servables/tensorflow/util.cc.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from enum import Enum


class Metric(str, Enum):
    """The name of each metric."""

    REQUEST_COUNT = ":tensorflow:serving:request_count"
    REQUEST_LOG_COUNT = ":tensorflow:serving:request_log_count"
    REQUEST_LATENCY = ":tensorflow:serving:request_latency"
    RUNTIME_LATENCY = ":tensorflow:serving:runtime_latency"
    BATCH_SIZE = "unfreeze_batch_size"
    REJECTED = "unfreeze_requests_refused"
    WAITING = "unfreeze_requests_waiting"
    REQUEST_LOG_SECONDS = "unfreeze_request_log_cpu_seconds"


LATENCY_BOUNDS = tuple(10 * 1.8**power for power in range(33))  # microseconds, to about 20 minutes
SIZE_BOUNDS = tuple(float(2**power) for power in range(11))

# Metric -> help text; None for those for which TensorFlow Serving has none.
COUNTERS = {
    Metric.REQUEST_COUNT: None,
    Metric.REQUEST_LOG_COUNT: "The total number of requests logged from the model server sliced down by model_name and "
    "status code.",
}

# Metric -> (help text, upper bounds of the buckets).
HISTOGRAMS = {
    Metric.REQUEST_LATENCY: ("Distribution of wall time (in microseconds) for a request.", LATENCY_BOUNDS),
    Metric.RUNTIME_LATENCY: (
        "Distribution of wall time (in microseconds) for the TensorFlow runtime.",
        LATENCY_BOUNDS,
    ),
    Metric.BATCH_SIZE: ("Rows in one call of the model.", SIZE_BOUNDS),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """The counts since the server started."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: dict[tuple[Metric, Labels], int] = defaultdict(int)
        # The count of each bucket, with one bucket above all bounds, then the sum of the values.
        self.histograms: dict[tuple[Metric, Labels], list[float]] = {}
        self.gauges: dict[Metric, tuple[str, str, Callable[[], float]]] = {}

    def add_gauge(self, metric: Metric, kind: str, help_text: str, value: Callable[[], float]) -> None:
        """Adds a number that is read each time the page is requested."""
        self.gauges[metric] = (kind, help_text, value)

    def count(self, metric: Metric, **labels: str) -> None:
        """Adds one to a counter."""
        with self.lock:
            self.counts[metric, tuple(labels.items())] += 1

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Adds a value to a histogram."""
        bounds = HISTOGRAMS[metric][1]
        with self.lock:
            row = self.histograms.setdefault((metric, tuple(labels.items())), [0.0] * (len(bounds) + 2))
            row[bisect_left(bounds, value)] += 1
            row[-1] += value

    def page(self) -> str:
        """Returns all metrics in the text exposition format."""
        with self.lock:
            counts = dict(self.counts)
            histograms = {key: list(row) for key, row in self.histograms.items()}
        lines = []
        for metric, text in COUNTERS.items():
            lines += [f"# HELP {metric.value} {text}"] if text else []
            lines.append(f"# TYPE {metric.value} counter")
            rows = [(labels, count) for (of, labels), count in counts.items() if of is metric]
            lines += [f"{metric.value}{braces(labels)} {count}" for labels, count in rows]
        for metric, (help_text, bounds) in HISTOGRAMS.items():
            lines += [f"# HELP {metric.value} {help_text}", f"# TYPE {metric.value} histogram"]
            for (_, labels), row in ((key, row) for key, row in histograms.items() if key[0] is metric):
                lines += histogram_lines(metric.value, labels, bounds, row)
        for metric, (kind, help_text, value) in self.gauges.items():
            lines += [f"# HELP {metric.value} {help_text}", f"# TYPE {metric.value} {kind}"]
            lines.append(f"{metric.value} {value()}")
        return "\n".join(lines) + "\n"


def histogram_lines(name: str, labels: Labels, bounds: tuple[float, ...], row: list[float]) -> list[str]:
    """Returns the lines of a histogram: the buckets, cumulated, then sum and count."""
    lines, total = [], 0.0
    for bound, count in zip([*map("{:g}".format, bounds), "+Inf"], row, strict=False):
        total += count
        lines.append(f"{name}_bucket{braces((*labels, ('le', bound)))} {int(total)}")
    return [*lines, f"{name}_sum{braces(labels)} {row[-1]:.6g}", f"{name}_count{braces(labels)} {int(total)}"]


def braces(labels: Labels) -> str:
    """Returns labels as Prometheus writes them: `{name="value"}`."""
    return "{" + ",".join(f'{name}="{escape(value)}"' for name, value in labels) + "}"


def escape(value: str) -> str:
    """Returns the value of a label, escaped for quotes."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
