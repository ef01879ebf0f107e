"""Whether the variables of an export are the checkpoint's, byte for byte."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unfreeze.export_record import WeightRecord

CONSTANT = "constant "  # in front of the sha256 of a constant, in place of the name of a variable


@dataclass(frozen=True)
class TensorDigest:
    """A tensor as a file holds it: dtype, shape, and the sha256 of its bytes in C order, little endian."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    size_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True)
class ExpectedWeight:
    """Where a weight of the checkpoint went: the name of its variable in variables/, and what must be there.

    A function is called once, when the weight's turn comes, so that not all of them need to be in memory.
    """

    variable: str
    value: TensorDigest | np.ndarray | Callable[[], np.ndarray]

    def stored(self) -> TensorDigest:
        """What must be there, by its digest."""
        if isinstance(self.value, TensorDigest):
            return self.value
        return tensor_digest(self.value if isinstance(self.value, np.ndarray) else self.value())


def expected_constant(value: np.ndarray) -> ExpectedWeight:
    """A weight that has to be a constant of the graph: it is found there by its bytes, not by a name."""
    stored = tensor_digest(value)
    return ExpectedWeight(CONSTANT + stored.sha256, stored)


def tensor_digest(tensor: Any) -> TensorDigest:
    """Describe a tensor, numbers or strings, by its bytes; of strings each one's length counts too."""
    if isinstance(tensor, bytes):  # numpy would drop zeros at its end
        tensor = np.array(tensor, dtype=object)
    array = np.asarray(tensor)
    if array.dtype.names:  # a quantized number, which files hold as the integer that it is
        array = array.view(array.dtype[0])
    if array.dtype.kind in "OSU":
        strings = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
        data = b"".join(len(string).to_bytes(8, "little") + string for string in strings)
        return TensorDigest("string", array.shape, hashlib.sha256(data).hexdigest(), len(data))
    numbers = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return TensorDigest(array.dtype.name, array.shape, hashlib.sha256(numbers.data).hexdigest(), array.nbytes)


def weights_record(weights: Mapping[str, ExpectedWeight], found: Mapping[str, TensorDigest]) -> dict[str, WeightRecord]:
    """The part of export.json that says which weight is which variable, and what its bytes are."""
    return {
        key: WeightRecord(weight.variable, stored.dtype, stored.shape, stored.sha256)
        for key, weight in sorted(weights.items())
        if (stored := found.get(weight.variable)) is not None
    }


def recorded_weights(record: Mapping[str, WeightRecord]) -> dict[str, ExpectedWeight]:
    """Read back what `weights_record` wrote."""
    return {
        key: ExpectedWeight(entry.variable, TensorDigest(entry.dtype, tuple(entry.shape), entry.sha256))
        for key, entry in record.items()
    }


def weight_mismatches(weights: Mapping[str, ExpectedWeight], found: Mapping[str, TensorDigest]) -> list[str]:
    """Say of each weight that is not in variables/ as it should be what is wrong with it."""
    problems = []
    for key, weight in weights.items():
        here = found.get(weight.variable)
        if here is None:
            place = "a constant of the graph" if weight.variable.startswith(CONSTANT) else "in variables/"
            problems.append(f"{key} is not {place} (no {weight.variable})")
            continue
        there = weight.stored()
        if (there.dtype, there.shape) != (here.dtype, here.shape):
            problems.append(
                f"{key} is {here.dtype} {list(here.shape)}, in the checkpoint {there.dtype} {list(there.shape)}"
            )
        elif there != here:
            problems.append(f"{key} has other bytes than the checkpoint's")
    return problems
