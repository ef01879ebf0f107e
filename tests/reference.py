"""Goldens: outputs recorded from the Object Detection API, and the checkpoints that they belong to.

`goldens/tf1/NAME.json.gz` contains a pipeline.config, the name, shape and dtype of each variable, and the dtypes and
shapes of the outputs. `NAME.npz` contains the outputs of the Object Detection API for two images: `a/detection_boxes`
and so on. Of `raw_*` outputs with more than 256 (or 64) rows, so many are kept, with their indices under `.../rows`;
of masks the first 20.

No weights are stored. The value of a weight follows from its name and shape, an image from its size and seed: see
reference_weights.py.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import reference_weights
from reference_weights import IMAGES, VALUE_SUFFIX, image, side_input

__all__ = [
    "GOLDENS",
    "IMAGES",
    "Golden",
    "frozen_graph",
    "golden",
    "golden_names",
    "image",
    "side_input",
    "weight",
    "write_checkpoint",
]

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
LARGEST_BYTES = 4_000_000  # an output of a TensorFlow 2 detector that is larger was not recorded


@dataclass(frozen=True)
class Golden:
    """A recorded model."""

    name: str
    generation: str
    config: str
    variables: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: dict[str, Any]
    object_graph: bytes | None
    gains: tuple[tuple[str, float], ...]
    side_inputs: dict[str, tuple[list[int], str]]  # shape and dtype of each input besides images

    def recorded_outputs(self) -> dict[str, np.ndarray]:
        """Returns every recorded array, by `image/output`."""
        with np.load(GOLDENS / self.generation / f"{self.name}.npz") as arrays:
            return dict(arrays)


def golden(name: str, generation: str = "tf1") -> Golden:
    """Returns the golden called `name`."""
    with gzip.open(GOLDENS / generation / f"{name}.json.gz", "rt") as file:
        record = json.load(file)
    return Golden(
        name,
        generation,
        record["config"],
        tuple((key, tuple(shape), dtype) for key, shape, dtype in record["variables"]),
        record["outputs"],
        bytes.fromhex(record["object_graph"]) if "object_graph" in record else None,
        tuple((pattern, factor) for pattern, factor in record.get("gains", [])),
        {name: (shape, dtype) for name, (shape, dtype) in record.get("side_inputs", {}).items()},
    )


def golden_names(generation: str = "tf1") -> list[str]:
    """Returns the names of all goldens of a generation."""
    return sorted(path.name.removesuffix(".json.gz") for path in (GOLDENS / generation).glob("*.json.gz"))


def write_checkpoint(golden: Golden, folder: Path) -> Path:
    """Writes the golden's checkpoint, state file and pipeline.config into `folder`; returns the prefix."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / ("ckpt-1" if golden.object_graph else "model.ckpt-1000")
    keys = [key for key, _, _ in golden.variables]
    values = [tf.constant(weight(key, shape, dtype, golden.gains)) for key, shape, dtype in golden.variables]
    if golden.object_graph:
        keys.append("_CHECKPOINTABLE_OBJECT_GRAPH")
        values.append(tf.constant(golden.object_graph))
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=keys, shape_and_slices=[""] * len(keys), tensors=values)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')
    (folder / "pipeline.config").write_text(golden.config)
    return prefix


def weight(key: str, shape: tuple[int, ...], dtype: str, gains: tuple[tuple[str, float], ...] = ()) -> np.ndarray:
    """Returns the value that a weight had when the golden was recorded."""
    name = key.removesuffix(VALUE_SUFFIX)
    value = reference_weights.value(name, shape, dtype)
    if value.dtype.kind != "f":
        return value
    return (value * reference_weights.gain(name, gains)).astype(value.dtype)


def frozen_graph(name: str) -> bytes:
    """Returns the frozen_inference_graph.pb that the Object Detection API exported for a golden, with its weights."""
    import tensorflow as tf

    with gzip.open(HERE / "frozen" / f"{name}.pb.gz", "rb") as file:
        graph = tf.compat.v1.GraphDef.FromString(file.read())
    for node in graph.node:
        if "_reference_weight" in node.attr:
            del node.attr["_reference_weight"]
            tensor = node.attr["value"].tensor
            shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
            tensor.CopyFrom(
                tf.make_tensor_proto(weight(node.name, shape, tf.dtypes.as_dtype(tensor.dtype).name), shape=shape)
            )
    content: bytes = graph.SerializeToString()
    return content
