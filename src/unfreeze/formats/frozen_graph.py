"""A frozen graph with the tensor names of the Object Detection API's exporter. Source: object_detection/exporter.py."""

from __future__ import annotations

import shutil
from pathlib import Path

from unfreeze.formats.frozen_file import FrozenFile


def convert(frozen: FrozenFile, path: Path, opset: int | None) -> None:
    """Copies the graph as it is."""
    shutil.copyfile(frozen.path, path)
