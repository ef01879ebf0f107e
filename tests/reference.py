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
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
GOLDENS = HERE / "goldens"
LARGEST_BYTES = 4_000_000  # an output of a TensorFlow 2 detector that is larger was not recorded
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

# (height, width, seed) of the two pictures of every golden, each a batch of one.
PICTURES = {"a": (240, 320, 0), "b": (333, 250, 1)}


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
    value = _unscaled(name, shape, dtype)
    if value.dtype.kind != "f":
        return value
    factor = np.float32(np.prod([by for pattern, by in gains if re.search(pattern, name)]))
    return (value * factor).astype(value.dtype)


def _unscaled(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if not dtype.startswith("float"):
        return np.zeros(shape, dtype)
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
    leaf = name.rsplit("/", 1)[-1]
    if leaf in ("min", "max") and not shape:  # ranges of a quantization-aware graph
        return np.asarray((-1 if leaf == "min" else 1) * (1.0 if "weights_quant" in name else 6.0), dtype)
    if leaf in ("gamma", "moving_variance", "moving_var", "variance"):
        return np.asarray(random.uniform(0.5, 1.5, shape), dtype)
    if leaf in ("beta", "bias", "biases", "moving_mean", "mean") or len(shape) < 2:
        return np.asarray(random.standard_normal(shape) * 0.1, dtype)
    fan_in = shape[0] * shape[1] if "depthwise" in leaf else int(np.prod(shape[:-1]))
    value = random.standard_normal(shape) * np.sqrt(2.0 / max(fan_in, 1))
    predictor = "redict" in name or name.startswith(("Conv/", "logits"))
    if predictor and "ower" not in name and "depthwise" not in leaf:  # keeps scores away from 0 and 1
        value *= 0.006 if "SecondStage" in name else 0.05 if "FirstStage" in name else 0.1
    if "/conv3/" in name or "_3_conv/" in name:  # keeps a sum of residual units from growing
        value *= 0.25
    return np.asarray(value, dtype)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A uint8 picture `[height, width, 3]`: gradients, boxes and some noise."""
    random = np.random.RandomState(1000 + seed)
    y, x = np.mgrid[0:height, 0:width].astype("float64")
    pixels = np.stack(
        [255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 127 + 127 * np.sin(x / 9.0) * np.cos(y / 13.0)], -1
    )
    for _ in range(12):
        top, left = random.randint(0, height - 8), random.randint(0, width - 8)
        bottom, right = top + random.randint(4, height // 2), left + random.randint(4, width // 2)
        pixels[top:bottom, left:right] = random.randint(0, 256, 3)
    pixels += random.randint(-12, 13, pixels.shape)
    return np.clip(pixels, 0, 255).astype("uint8")


def side_input(shape: list[int], dtype: str, seed: int = 0) -> np.ndarray:
    """What a picture of this seed is given besides: counts from 1 to 7, or numbers around 0."""
    random = np.random.RandomState(2000 + seed)
    return (
        random.randint(1, 8, shape).astype(dtype) if dtype == "int32" else random.standard_normal(shape).astype(dtype)
    )


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
