"""The results of a benchmark, as records, JSON and a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unfreeze.formatting import megabytes

CONFIDENCE_Z = 1.96  # of a normal distribution: 95 %
MIN_DIFFERENCE = 0.02  # of a ratio: less is noise, however many rounds agree on it


@dataclass(frozen=True)
class Ratio:
    """The time of a model relative to the first one: the median over rounds, and its 95 % confidence interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], firsts: Sequence[float]) -> Ratio:
        """Returns the ratio of times that were measured in the same rounds.

        The interval is that of the sign test: it needs no assumption about the distribution.
        """
        ratios = sorted(value / first for value, first in zip(values, firsts, strict=True))
        count = len(ratios)
        rank = max(0, math.floor(count / 2 - CONFIDENCE_Z * math.sqrt(count) / 2))
        return cls(statistics.median(ratios), ratios[rank], ratios[count - 1 - rank])

    @property
    def is_noise(self) -> bool:
        """Returns whether the two models are equally fast as far as these measurements show."""
        return self.low <= 1 <= self.high or abs(self.median - 1) < MIN_DIFFERENCE

    def __str__(self) -> str:
        return "within noise" if self.is_noise else f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class Timing:
    """The times of the rounds of one batch size; `wall_s` and `cpu_s` are seconds for a whole batch."""

    batch: int
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    ratio: Ratio | None = None  # None for the first model

    @property
    def quartiles_ms(self) -> tuple[float, float, float]:
        """Returns the first quartile, the median and the third quartile of the milliseconds for one image."""
        values = [1000 * value / self.batch for value in self.wall_s]
        first, median, third = statistics.quantiles(values, n=4, method="inclusive")
        return first, median, third

    @property
    def images_per_s(self) -> float:
        """Returns how many images a second the median is."""
        return 1000 / self.quartiles_ms[1]

    def to_dict(self) -> dict[str, Any]:
        """Returns the timing as JSON."""
        first, median, third = self.quartiles_ms
        return {
            "batch": self.batch,
            "rounds": len(self.wall_s),
            "ms_per_image": {"median": median, "first_quartile": first, "third_quartile": third},
            "cpu_ms_per_image": 1000 * statistics.median(self.cpu_s) / self.batch,
            "images_per_s": self.images_per_s,
            "ratio": None
            if self.ratio is None
            else {
                "median": self.ratio.median,
                "low": self.ratio.low,
                "high": self.ratio.high,
                "within_noise": self.ratio.is_noise,
            },
        }


@dataclass(frozen=True)
class Agreement:
    """How many detections of the first model another one has too, and the largest differences of pairs.

    `clear_matched` of the `clear` detections match by a rule that holds across precisions (detection_agreement.py).
    """

    matched: int
    detections: int
    box: float
    score: float
    clear_matched: int = 0
    clear: int = 0

    def __str__(self) -> str:
        differences = f"{self.matched} of {self.detections}, box {self.box:.0e}, score {self.score:.0e}"
        if self.matched == self.detections or not self.clear:
            return differences
        return f"{differences}; {self.clear_matched} of {self.clear} clear ones"

    def to_dict(self) -> dict[str, Any]:
        """Returns the agreement as JSON."""
        return {
            "matched": self.matched,
            "detections": self.detections,
            "largest_box_difference": self.box if math.isfinite(self.box) else None,
            "largest_score_difference": self.score if math.isfinite(self.score) else None,
            "clear_matched": self.clear_matched,
            "clear_detections": self.clear,
        }


@dataclass
class ModelResult:
    """What was measured of one model; None where it failed before that."""

    model: str
    format: str
    runtime: str
    size_bytes: int
    failure: str | None = None
    load_s: float | None = None
    first_response_s: float | None = None
    peak_bytes: int | None = None
    timings: tuple[Timing, ...] = ()
    agreement: Agreement | None = None  # None for the first model
    mean_average_precision: float | None = None
    map_loss: float | None = None  # None for the first model

    @property
    def status(self) -> str:
        """Returns `ok`, or `failed: ` and why."""
        return "ok" if self.failure is None else f"failed: {self.failure}"

    def timing(self, batch: int) -> Timing | None:
        """Returns the timing of a batch size, None if the model failed before."""
        return next((timing for timing in self.timings if timing.batch == batch), None)

    def compared_with(self, first: ModelResult) -> tuple[Timing, ...]:
        """Returns the timings with their ratios to those of the first model."""
        return tuple(
            replace(timing, ratio=Ratio.of(timing.wall_s, theirs.wall_s))
            if (theirs := first.timing(timing.batch)) and len(theirs.wall_s) == len(timing.wall_s)
            else timing
            for timing in self.timings
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON, with null for what was not measured."""
        score = self.mean_average_precision
        return {
            "model": self.model,
            "format": self.format,
            "runtime": self.runtime,
            "status": self.status,
            "size_bytes": self.size_bytes,
            "load_s": self.load_s,
            "first_response_ms": _milliseconds(self.first_response_s),
            "peak_memory_bytes": self.peak_bytes,
            "timings": [timing.to_dict() for timing in self.timings],
            "agreement": self.agreement.to_dict() if self.agreement else None,
            "mAP": None if score is None or math.isnan(score) else score,
            "mAP_loss": None if self.map_loss is None or math.isnan(self.map_loss) else self.map_loss,
        }


@dataclass(frozen=True)
class Benchmark:
    """The results of every model, in the order of the command line."""

    images: str
    batches: tuple[int, ...]
    threads: int | None
    results: tuple[ModelResult, ...]

    @property
    def ok(self) -> bool:
        """Returns whether every model could be run."""
        return all(result.failure is None for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Returns the benchmark as JSON."""
        return {
            "images": self.images,
            "batches": list(self.batches),
            "threads": self.threads,
            "models": [result.to_dict() for result in self.results],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        threads = "" if self.threads is None else f", threads: {self.threads}"
        yield f"images: {self.images}{threads}"
        yield from (f"  {number}: {result.model}" for number, result in enumerate(self.results, start=1))
        yield ""
        yield from _table(list(self._rows()))
        failed = [(number, result) for number, result in enumerate(self.results, start=1) if result.failure]
        yield from (f"{number}: {result.status}" for number, result in failed)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        with_score = any(result.mean_average_precision is not None for result in self.results)
        yield (
            *(
                "",
                "format",
                "runtime",
                "status",
                "size",
                "load s",
                "first ms",
                "memory",
                "batch",
                "ms/image (quartiles)",
            ),
            *("images/s", "time vs first", "agreement with first", *(["mAP"] if with_score else [])),
        )
        for number, result in enumerate(self.results, start=1):
            for batch in self.batches:
                is_first = batch == self.batches[0]
                about = (
                    str(number),
                    result.format,
                    result.runtime,
                    "ok" if result.failure is None else "failed",
                    megabytes(result.size_bytes),
                    _number(result.load_s, ".2f"),
                    _number(_milliseconds(result.first_response_s), ".1f"),
                    "-" if result.peak_bytes is None else megabytes(result.peak_bytes),
                )
                agreement = str(result.agreement or "-") if is_first else ""
                score = [_score_cell(result) if is_first else ""] if with_score else []
                yield (*(about if is_first else [""] * len(about)), *_timing_cells(result, batch), agreement, *score)


def _score_cell(result: ModelResult) -> str:
    loss = _number(result.map_loss, ".3f")
    return _number(result.mean_average_precision, ".3f") + ("" if loss == "-" else f" (loss {loss})")


def _timing_cells(result: ModelResult, batch: int) -> tuple[str, ...]:
    timing = result.timing(batch)
    if timing is None:
        return str(batch), "-", "-", "-"
    first, median, third = timing.quartiles_ms
    ratio = "-" if timing.ratio is None else str(timing.ratio)
    return str(batch), f"{median:.2f} ({first:.2f}-{third:.2f})", f"{timing.images_per_s:.1f}", ratio


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)
