"""The result of a verification: a report of checks, as a table or as JSON."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.export_record import ExportRecord


class Status(str, Enum):
    """The result of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"

    def __str__(self) -> str:
        return self.value


STYLES = {Status.PASSED: "green", Status.FAILED: "bold red", Status.SKIPPED: "yellow"}

# Name of a check -> its title in reports.
TITLES = {
    "files": "files are complete",
    "signature": "signatures",
    "weights": "weights equal the checkpoint's",
    "tf2_loader": "TF2 loader, new process",
    "batch": "a batch equals single images",
    "in_memory": "outputs equal the model in memory",
    "tf1_loader": "TF1 loader",
    "cpp_loader": "C++ loader",
    "other_signatures": "other signatures agree",
    "against": "comparison",
}
# Those that only a file of another runtime has.
FILE_TITLES = {
    "interface": "inputs and outputs",
    "runtime": "its runtime, new process",
    "outputs": "outputs are valid",
}
SHOWN = 4  # problems that a check describes; the others are counted
MIXES_BATCH = "mixes_batch"  # key in the numbers of the check "batch"


@dataclass(frozen=True)
class Check:
    """One check: its name (a key of `TITLES` or `FILE_TITLES`), its result in words, and the numbers behind it."""

    name: str
    status: Status
    detail: str
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The title of the check in reports."""
        return (TITLES | FILE_TITLES).get(self.name, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the check as JSON data."""
        return {"name": self.name, "status": self.status.value, "detail": self.detail, "numbers": dict(self.numbers)}


def check_result(
    name: str,
    problems: Sequence[str],
    detail: str,
    numbers: Mapping[str, Any] | None = None,
    status: Status = Status.PASSED,
) -> Check:
    """Returns a failed check that describes the problems, or else one of `status` with `detail`."""
    if not problems:
        return Check(name, status, detail, numbers or {})
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    description = "; ".join(problems[:SHOWN]) + more
    return Check(name, Status.FAILED, description, {**(numbers or {}), "problems": list(problems)})


@dataclass(frozen=True)
class ImageResult:
    """An image `[H, W, 3]` uint8, and the outputs for it without the batch dimension.

    `reference_outputs` are those of the model that the SavedModel is compared with. `generated`: the image shows no
    real objects.
    """

    name: str
    image: np.ndarray
    outputs: Mapping[str, np.ndarray] | None
    reference_outputs: Mapping[str, np.ndarray] | None
    generated: bool = False


class Kind(str, Enum):
    """What a report is about, and its key in JSON."""

    SAVED_MODEL = "saved_model"
    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True)
class Report:
    """All checks of a model, in order.

    `record` has the `weights` and `files` of export.json, by which the same files can be recognized later. `parts` are
    the reports of the other files of an export; an export without a SavedModel has no checks of its own.
    """

    path: Path
    checks: tuple[Check, ...]
    record: ExportRecord = field(default_factory=ExportRecord)
    image_results: tuple[ImageResult, ...] = ()
    kind: Kind = Kind.SAVED_MODEL
    parts: tuple[Report, ...] = ()

    @property
    def saved_model(self) -> Path:
        """The same as `path`: the folder of the SavedModel, where the report is about one."""
        return self.path

    @property
    def all_checks(self) -> tuple[Check, ...]:
        """The checks of the model and of all parts."""
        return (*self.checks, *(check for part in self.parts for check in part.all_checks))

    @property
    def passed(self) -> bool:
        """Returns whether no check failed; a skipped check does not count as failed."""
        return all(check.status is not Status.FAILED for check in self.all_checks)

    @property
    def mixes_batch(self) -> bool:
        """Returns whether the source graph's outputs for an image depend on the other images of the batch."""
        return any(MIXES_BATCH in check.numbers for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """Returns the check of that name."""
        return next(check for check in self.checks if check.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON data, without the record."""
        return {
            self.kind.value: str(self.path),
            "passed": self.passed,
            "checks": [check.to_dict() for check in self.checks],
            **({"files": [part.to_dict() for part in self.parts]} if self.parts else {}),
        }

    def title_of(self, part: Report) -> str:
        """Returns the path of a part, relative to the folder of the export."""
        folder = self.path if self.kind is Kind.FOLDER else self.path.parent
        return os.path.relpath(part.path, folder)

    def table(self, width: int = 110, color: bool = False) -> str:
        """Returns the checks as a table for a terminal."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for title in ("check", "", "result"):
            table.add_column(title, overflow="fold")
        headed = [("", self), *((self.title_of(part), part) for part in self.parts)]
        for heading, report in headed:
            if heading:
                table.add_row(Text(heading, "bold"), "", "")
            for check in report.checks:
                table.add_row(check.title, Text(check.status.value, STYLES[check.status]), Text(check.detail))
        text = io.StringIO()
        console = Console(file=text, width=width, force_terminal=color, no_color=not color, highlight=False)
        console.print(table)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
