"""Runs a graph model of TensorFlow.js that was written, in Node.js with each of its backends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unfreeze.errors import VerificationError
from unfreeze.tfjs.node import BACKENDS, find_node, run_in_node
from unfreeze.verification import compare_detections

Outputs = Mapping[str, np.ndarray]


def run_graph_model(path: Path, images: np.ndarray) -> Outputs:
    """Returns the outputs of a graph model for images, one at a time, as the last of the backends computes them.

    Args:
        images: [N, H, W, 3], of the dtype of the input.

    Raises:
        VerificationError: the backends return other outputs than each other. ConversionError: it does not run.
        MissingExtraError: Node.js or TensorFlow.js is not installed.
    """
    node = find_node()
    [input_name] = json.loads(path.read_text(encoding="utf-8"))["signature"]["inputs"]
    by_backend = {}
    for backend in BACKENDS:
        results = run_in_node(node, path, backend, input_name, [image[np.newaxis] for image in images])
        by_backend[backend] = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    first, last = by_backend[BACKENDS[0]], by_backend[BACKENDS[-1]]
    comparison = compare_detections(last, first)
    if not comparison.ok:
        raise VerificationError(
            f"not exported, since the backends {' and '.join(BACKENDS)} of TensorFlow.js differ: "
            f"{'; '.join(comparison.problems[:3])}"
        )
    return last
