"""Runs a converter in a process of its own, since converters may abort it, and keep the memory that they used."""

from __future__ import annotations

import json
from pathlib import Path

from unfreeze.child_process import ChildProcessError, run_module
from unfreeze.errors import ConversionError
from unfreeze.formats import Format
from unfreeze.formats.frozen import FrozenDetector

GRAPH, TENSORS = "graph.pb", "tensors.json"


def convert(chosen: Format, frozen: FrozenDetector, scratch: Path, output: Path, *, opset: int | None = None) -> Path:
    """Writes the file of a format below `output`, and returns its path.

    Args:
        scratch: an empty folder for the graph.

    Raises:
        ConversionError: the converter failed, or its process ended.
    """
    path = output / chosen.file
    path.parent.mkdir(parents=True, exist_ok=True)
    (scratch / GRAPH).write_bytes(frozen.graph_def.SerializeToString())
    tensors = {"inputs": dict(frozen.inputs), "outputs": dict(frozen.outputs), "opset": opset}
    (scratch / TENSORS).write_text(json.dumps(tensors), encoding="utf-8")
    try:
        run_module("unfreeze.formats.worker", [chosen.module, str(scratch), str(path)])
    except ChildProcessError as error:
        raise ConversionError(f"--format {chosen.name}: the converter failed: {error}") from None
    return path
