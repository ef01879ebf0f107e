"""The rule that gives every reference weight and reference image its value, so that none has to be stored.

The value of a weight follows from its name and shape, an image from its size and seed: the frozen generator of NumPy,
RandomState, gives the same numbers on every version. This file runs on Python 3.7 too, where goldens are recorded with
TensorFlow 1.15 (scripts/recording).
"""

import re
import zlib
from typing import Sequence, Tuple

import numpy as np

VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"  # ends each key of a TF2 checkpoint; not part of a weight's name

# (height, width, seed) of the two images of every golden, each a batch of one.
IMAGES = {"a": (240, 320, 0), "b": (333, 250, 1)}


def value(name: str, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
    """Returns the weight called `name`: a TF1 variable name, or a TF2 checkpoint key without VALUE_SUFFIX."""
    shape = tuple(int(size) for size in shape)
    if not str(dtype).startswith("float"):
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
    weights = random.standard_normal(shape) * np.sqrt(2.0 / max(fan_in, 1))
    predictor = "redict" in name or name.startswith(("Conv/", "logits"))
    if predictor and "ower" not in name and "depthwise" not in leaf:  # keeps scores away from 0 and 1
        weights *= 0.006 if "SecondStage" in name else 0.05 if "FirstStage" in name else 0.1
    if "/conv3/" in name or "_3_conv/" in name:  # keeps a sum of residual units from growing
        weights *= 0.25
    return np.asarray(weights, dtype)


def gain(name: str, gains: Sequence[Tuple[str, float]]) -> np.float32:
    """Returns the factor on top of `value`: the product of the factors whose regular expression matches `name`."""
    product: np.float32 = np.float32(np.prod([factor for pattern, factor in gains if re.search(pattern, name)]))
    return product


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns a uint8 image [height, width, 3]: gradients, boxes and some noise."""
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
    clipped: np.ndarray = np.clip(pixels, 0, 255).astype("uint8")
    return clipped


def side_input(shape: Sequence[int], dtype: str, seed: int = 0) -> np.ndarray:
    """Returns a side input for the image of this seed: counts from 1 to 7 (int32), or numbers around 0."""
    random = np.random.RandomState(2000 + seed)
    return (
        random.randint(1, 8, shape).astype(dtype) if dtype == "int32" else random.standard_normal(shape).astype(dtype)
    )
