"""A frozen graph with the tensor names of the Object Detection API's exporter. Source: object_detection/exporter.py."""

from __future__ import annotations

from pathlib import Path

from unfreeze.formats.frozen import FrozenDetector


def convert(frozen: FrozenDetector, path: Path, opset: int | None) -> None:
    """Writes the graph as it is."""
    path.write_bytes(frozen.graph_def.SerializeToString(deterministic=True))
