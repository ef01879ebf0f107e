"""Digests of weights: whether those of an export equal the checkpoint's, byte for byte."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unfreeze.export_record import WeightRecord

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # TensorFlow's ending of every key in variables/
CONSTANT = "constant "  # begins the key of a constant, followed by its SHA-256; a variable has a name


@dataclass(frozen=True)
class TensorDigest:
    """Data type, shape and SHA-256 of a tensor; its bytes are in C order, little endian."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    size_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True)
class ExpectedWeight:
    """The variable that must have a weight of the checkpoint, by its key in variables/, and the value it must have.

    A function is called only when the weight is checked, so that not all weights need to be in memory.
    """

    variable: str
    value: TensorDigest | np.ndarray | Callable[[], np.ndarray]

    def digest(self) -> TensorDigest:
        """Returns the digest that the variable must have."""
        if isinstance(self.value, TensorDigest):
            return self.value
        return tensor_digest(self.value if isinstance(self.value, np.ndarray) else self.value())


def expected_constant(value: np.ndarray) -> ExpectedWeight:
    """Returns a weight that must be a constant of the graph, where it is found by its bytes, not by a name."""
    digest = tensor_digest(value)
    return ExpectedWeight(CONSTANT + digest.sha256, digest)


def tensor_digest(tensor: Any) -> TensorDigest:
    """Returns the digest of a tensor of numbers or strings; the length of each string counts too."""
    if isinstance(tensor, bytes):  # NumPy would drop zeros at its end
        tensor = np.array(tensor, dtype=object)
    array = np.asarray(tensor)
    if array.dtype.names:  # a quantized number, which files store as an integer
        array = array.view(array.dtype[0])
    if array.dtype.kind in "OSU":
        strings = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
        data = b"".join(len(string).to_bytes(8, "little") + string for string in strings)
        return TensorDigest("string", array.shape, hashlib.sha256(data).hexdigest(), len(data))
    numbers = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return TensorDigest(array.dtype.name, array.shape, hashlib.sha256(numbers.data).hexdigest(), array.nbytes)


def weights_record(
    weights: Mapping[str, ExpectedWeight], stored: Mapping[str, TensorDigest]
) -> dict[str, WeightRecord]:
    """Returns the part of export.json that lists the variable of each weight, and the digest of the variable."""
    return {
        key: WeightRecord(weight.variable, digest.dtype, digest.shape, digest.sha256)
        for key, weight in sorted(weights.items())
        if (digest := stored.get(weight.variable)) is not None
    }


def recorded_weights(record: Mapping[str, WeightRecord]) -> dict[str, ExpectedWeight]:
    """Returns the weights that `weights_record` listed."""
    return {
        key: ExpectedWeight(entry.variable, TensorDigest(entry.dtype, tuple(entry.shape), entry.sha256))
        for key, entry in record.items()
    }


def weight_mismatches(weights: Mapping[str, ExpectedWeight], stored: Mapping[str, TensorDigest]) -> list[str]:
    """Describes each weight that is missing or differs from the checkpoint's."""
    problems = []
    for key, weight in weights.items():
        actual = stored.get(weight.variable)
        if actual is None:
            place = "among the constants of the graph" if weight.variable.startswith(CONSTANT) else "in variables/"
            problems.append(f"{key} is not {place} (no {weight.variable})")
            continue
        expected = weight.digest()
        if (expected.dtype, expected.shape) != (actual.dtype, actual.shape):
            problems.append(
                f"{key} is {actual.dtype} {list(actual.shape)} (checkpoint: {expected.dtype} {list(expected.shape)})"
            )
        elif expected != actual:
            problems.append(f"{key} does not equal the checkpoint's value")
    return problems
