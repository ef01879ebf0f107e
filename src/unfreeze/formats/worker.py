"""The process in which a converter runs: `python -m unfreeze.formats.worker MODULE SCRATCH FILE`."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import tensorflow as tf

from unfreeze.formats.conversion import GRAPH, TENSORS
from unfreeze.formats.frozen import FrozenDetector


def main(module: str, scratch: str, path: str) -> None:
    """Reads the graph in `scratch`, and writes the file that `module` makes of it."""
    graph_def = tf.compat.v1.GraphDef.FromString((Path(scratch) / GRAPH).read_bytes())
    tensors = json.loads((Path(scratch) / TENSORS).read_text(encoding="utf-8"))
    frozen = FrozenDetector(graph_def, tensors["inputs"], tensors["outputs"])
    import_module(module).convert(frozen, Path(path), tensors["opset"])


if __name__ == "__main__":
    main(*sys.argv[1:])
