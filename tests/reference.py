"""The recorded answers of the original program, and the checkpoints that they belong to.

`goldens/tf1/NAME.json.gz` holds a pipeline.config, the name, shape and dtype of each variable and the outputs' dtypes
and shapes; `NAME.npz` what the original Object Detection API answered to two pictures: `a/detection_boxes` and so on.
Of `raw_*` outputs with more rows than 256 (or 64) so many are kept, their indices under `.../rows`; of masks the first
20.

No weights are stored. A weight's value follows from its name and shape, a picture from its size and seed: NumPy's
RandomState is frozen, so they are the same on every version of NumPy.
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
    """One recorded model."""

    name: str
    generation: str
    config: str
    variables: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: dict[str, Any]
    object_graph: bytes | None
    gains: tuple[tuple[str, float], ...]
    side_inputs: dict[str, tuple[list[int], str]]  # shape and dtype of what the model takes besides pictures

    def answers(self) -> dict[str, np.ndarray]:
        """Every recorded array, by `picture/output`."""
        with np.load(GOLDENS / self.generation / f"{self.name}.npz") as arrays:
            return dict(arrays)


def golden(name: str, generation: str = "tf1") -> Golden:
    """The golden called `name`."""
    with gzip.open(GOLDENS / generation / f"{name}.json.gz", "rt") as file:
        read = json.load(file)
    return Golden(
        name,
        generation,
        read["config"],
        tuple((key, tuple(shape), dtype) for key, shape, dtype in read["variables"]),
        read["outputs"],
        bytes.fromhex(read["object_graph"]) if "object_graph" in read else None,
        tuple((pattern, factor) for pattern, factor in read.get("gains", [])),
        {name: (shape, dtype) for name, (shape, dtype) in read.get("side_inputs", {}).items()},
    )


def golden_names(generation: str = "tf1") -> list[str]:
    """The names of all goldens of a generation."""
    return sorted(path.name.removesuffix(".json.gz") for path in (GOLDENS / generation).glob("*.json.gz"))


def write_checkpoint(made: Golden, folder: Path) -> Path:
    """Writes the golden's checkpoint, state file and pipeline.config into `folder`; returns the prefix."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / ("ckpt-1" if made.object_graph else "model.ckpt-1000")
    keys = [key for key, _, _ in made.variables]
    values = [tf.constant(weight(key, shape, dtype, made.gains)) for key, shape, dtype in made.variables]
    if made.object_graph:
        keys.append("_CHECKPOINTABLE_OBJECT_GRAPH")
        values.append(tf.constant(made.object_graph))
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=keys, shape_and_slices=[""] * len(keys), tensors=values)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')
    (folder / "pipeline.config").write_text(made.config)
    return prefix


def weight(key: str, shape: tuple[int, ...], dtype: str, gains: tuple[tuple[str, float], ...] = ()) -> np.ndarray:
    """The value of a weight, by the rule under which the original was recorded."""
    name = key.removesuffix(VALUE_SUFFIX)
    value = reference_weights.value(name, shape, dtype)
    if value.dtype.kind != "f":
        return value
    return (value * reference_weights.gain(name, gains)).astype(value.dtype)


def frozen_graph(name: str) -> bytes:
    """The frozen_inference_graph.pb that the original's exporter wrote for a golden, its weights put back in."""
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
    return graph.SerializeToString()
