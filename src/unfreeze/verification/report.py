"""What a verification found: as a table for a person, as a dictionary for a machine."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import VerificationError
from unfreeze.export_record import ExportRecord

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
STYLES = {PASSED: "green", FAILED: "bold red", SKIPPED: "yellow"}

TITLES = {
    "files": "files are complete",
    "signature": "signatures",
    "weights": "weights are the checkpoint's",
    "tf2_loader": "fresh process, TF2 loader",
    "batch": "a batch of two is two singles",
    "in_memory": "answers as before it was saved",
    "tf1_loader": "TF1 loader",
    "cpp_loader": "C++ loader",
    "other_signatures": "other signatures agree",
    "against": "compared",
}


@dataclass(frozen=True)
class Check:
    """One check: its name (a key of `TITLES`), what came of it in words and in numbers."""

    name: str
    status: str
    detail: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON can hold it."""
        return {"name": self.name, "status": self.status, "detail": self.detail, "numbers": dict(self.numbers)}


@dataclass(frozen=True)
class ImageResult:
    """A picture `[H, W, 3]` uint8 that was tried, and the outputs for it, without the batch; of both sides, if two."""

    name: str
    picture: np.ndarray
    answer: Mapping[str, np.ndarray] | None
    other: Mapping[str, np.ndarray] | None
    artificial: bool = False


@dataclass(frozen=True)
class Report:
    """All checks of a SavedModel, in order.

    `record` has the `weights` and `files` of export.json, by which the same files can be recognized later.
    """

    saved_model: Path
    checks: tuple[Check, ...]
    record: ExportRecord = field(default_factory=ExportRecord)
    seen: tuple[ImageResult, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check failed; a skipped one has not."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == FAILED)

    def __getitem__(self, name: str) -> Check:
        """Give the check of that name."""
        return next(check for check in self.checks if check.name == name)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it, without the record."""
        return {
            "saved_model": str(self.saved_model),
            "passed": self.passed,
            "checks": [check.to_dict() for check in self.checks],
        }

    def table(self, width: int = 110, color: bool = False) -> str:
        """The report for a person."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for title in ("check", "", "what was found"):
            table.add_column(title, overflow="fold")
        for check in self.checks:
            status = Text(check.status, STYLES[check.status])
            table.add_row(TITLES.get(check.name, check.name), status, Text(check.detail))
        out = io.StringIO()
        console = Console(file=out, width=width, force_terminal=color, no_color=not color, highlight=False)
        console.print(table)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def raise_if_failed(self) -> None:
        """Raise VerificationError in one line if a check failed."""
        if self.failures:
            told = "; ".join(f"{TITLES.get(check.name, check.name)}: {check.detail}" for check in self.failures)
            raise VerificationError(
                f"{self.saved_model} failed {len(self.failures)} of {len(self.checks)} checks: {told}"
            )
