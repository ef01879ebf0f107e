"""Runs a model file on images in a process of its own: what a runtime does there, it does to no other process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.child_process import run_module
from unfreeze.runtimes.model import Outputs

RUN = "run.json"


@dataclass(frozen=True)
class ProcessRun:
    """The results of a process: the outputs for each batch or why it failed, and how long loading and calling took."""

    outputs: tuple[Outputs | str, ...]
    load_s: float
    seconds: tuple[float, ...]


def run_in_process(path: Path, batches: Sequence[np.ndarray]) -> ProcessRun:
    """Returns the outputs of the model in a file or folder for each batch of images `[N, H, W, 3]` uint8.

    A batch that fails does not stop the others.

    Raises: ModuleError: the model cannot be loaded, or its process ended.
    """
    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
        folder = Path(scratch)
        for number, batch in enumerate(batches):
            np.save(images_of(folder, number), batch)
        run_module("unfreeze.runtimes.worker", [str(path), scratch])
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
        outputs = tuple(
            _outputs(folder, number) if failure is None else str(failure)
            for number, failure in enumerate(run["failures"])
        )
        return ProcessRun(outputs, run["load_s"], tuple(run["seconds"]))


def images_of(folder: Path, number: int) -> Path:
    """Returns the file of a batch."""
    return folder / f"{number}.npy"


def outputs_of(folder: Path, number: int) -> Path:
    """Returns the file of the outputs for a batch."""
    return folder / f"{number}.npz"


def _outputs(folder: Path, number: int) -> Outputs:
    with np.load(outputs_of(folder, number)) as outputs:
        return dict(outputs)
