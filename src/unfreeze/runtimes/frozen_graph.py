"""Runs a frozen graph of the Object Detection API's exporter.

Source: object_detection/exporter.py (input_placeholder_fn_map, add_output_tensor_nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from unfreeze.errors import SavedModelError
from unfreeze.formatting import first_line
from unfreeze.graphs import read_graph_def
from unfreeze.onednn import assume_frozen_weights_of_graph
from unfreeze.runtimes.model import OPTIONAL_OUTPUTS, RAW_OUTPUTS, REQUIRED_OUTPUTS, Outputs, require_detections
from unfreeze.runtimes.tensorflow_settings import has_gpu, limit_threads

INPUT = "image_tensor"


@dataclass(frozen=True)
class FrozenGraph:
    """A frozen graph, as a function of `image_tensor`."""

    path: Path
    output_names: Sequence[str]
    call: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
    uses_gpu: bool

    @property
    def title(self) -> str:
        """Returns the path."""
        return str(self.path)

    def run(self, images: np.ndarray) -> Outputs:
        """Returns every output for images `[N, H, W, 3]`, running one image at a time.

        Some graphs take one image only, and others pad the images of a batch to one canvas, which changes detections.
        """
        results = [self.run_image(image) for image in images]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def run_image(self, image: np.ndarray) -> Outputs:
        """Returns every output for an image `[H, W, 3]`, as a batch of one."""
        try:
            outputs = self.call(tf.constant(image[np.newaxis]))
        except tf.errors.OpError as error:
            raise SavedModelError(f"{self.path}: the graph failed: {first_line(error)}") from error
        return {name: value.numpy()[:1] for name, value in outputs.items()}


def load_model(path: Path, threads: int | None) -> FrozenGraph:
    """Returns a frozen graph, ready to run.

    Raises: SavedModelError if it cannot be read, does not take `image_tensor`, or has weights that
    depend on the request while oneDNN is set to reuse those of the first.
    """
    limit_threads(threads)
    graph_def = read_graph_def(path)
    try:
        nodes = {node.name for node in graph_def.node}
        names = [name for name in (*REQUIRED_OUTPUTS, *OPTIONAL_OUTPUTS) if name in nodes]
        outputs = {name: f"{name}:0" for name in names or RAW_OUTPUTS if name in nodes}
        if not outputs:
            require_detections(str(path), outputs)
        assume_frozen_weights_of_graph(path, graph_def, [f"{INPUT}:0"], list(outputs.values()))
        function = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
        call = function.prune(f"{INPUT}:0", outputs)
    except SavedModelError:
        raise
    except Exception as error:  # unknown operations or tensors: ValueError, KeyError …
        raise SavedModelError(
            f"{path}: not a frozen detector that takes {INPUT}: {first_line(error)}. Pass a detector."
        ) from None
    return FrozenGraph(path, tuple(outputs), call, has_gpu())
