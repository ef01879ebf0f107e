"""A frozen detector as a file, from which a converter makes another format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

GRAPH, TENSORS = "graph.pb", "tensors.json"


@dataclass(frozen=True)
class FrozenFile:
    """A GraphDef without variables. The names of inputs and outputs are those of the SavedModel, or of the OD API."""

    path: Path
    inputs: Mapping[str, str]  # name -> tensor, such as `inputs:0`
    outputs: Mapping[str, str]

    def read(self) -> Any:
        """Returns the GraphDef."""
        import tensorflow as tf  # not every converter needs it

        return tf.compat.v1.GraphDef.FromString(self.path.read_bytes())


def write_frozen_file(
    graph_def: Any,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    folder: Path,
    weights: Mapping[str, np.ndarray],
) -> FrozenFile:
    """Writes a frozen detector into a folder; `weights` has the values of its stand-ins.

    Raises: ValueError: the graph is larger than 2 GB.
    """
    from unfreeze.weights.stand_ins import write_graph

    write_graph(graph_def, weights, folder / GRAPH)
    (folder / TENSORS).write_text(json.dumps({"inputs": dict(inputs), "outputs": dict(outputs)}), encoding="utf-8")
    return FrozenFile(folder / GRAPH, inputs, outputs)


def read_frozen_file(folder: Path) -> FrozenFile:
    """Returns the frozen detector that was written into a folder."""
    tensors = json.loads((folder / TENSORS).read_text(encoding="utf-8"))
    return FrozenFile(folder / GRAPH, tensors["inputs"], tensors["outputs"])
