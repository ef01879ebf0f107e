"""How large an answer to one picture is, and where that is too much.

Source: util/json_tensor.cc of tensorflow/serving for the form of numbers; the limits of SageMaker are AWS's, that of
gRPC is what its clients take by default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

RAW = "raw_"
SAMPLE = 20_000  # numbers of an output that are written to tell how long they are
NUMBER_BYTES = 13  # of `0.123456789, `, as most numbers are written
# Who: most bytes, and in which form they are sent.
LIMITS = {
    "SageMaker's serverless endpoints": (4 << 20, "json"),
    "SageMaker's real-time endpoints": (6 << 20, "json"),
    "a gRPC client that does not raise grpc.max_receive_message_length": (4 << 20, "proto"),
}


@dataclass(frozen=True)
class ResponseBytes:
    """Bytes of an answer to one picture, as JSON and as a protobuf message, and without the raw outputs."""

    json: int
    proto: int
    json_without_raw: int
    proto_without_raw: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{_size(self.json)} as JSON ({_size(self.json_without_raw)} without raw outputs), "
            f"{_size(self.proto)} by gRPC ({_size(self.proto_without_raw)} without)"
        )


def response_bytes(answer: Mapping[str, Any]) -> ResponseBytes:
    """The size of an answer to a batch, per picture."""
    arrays = {name: np.asarray(tensor) for name, tensor in answer.items()}
    pictures = max(max((array.shape[0] for array in arrays.values() if array.ndim), default=1), 1)
    as_json = {name: _json_bytes(array) + len(name) + 6 for name, array in arrays.items()}
    as_proto = {name: _proto_bytes(array) + len(name) + 20 for name, array in arrays.items()}
    return _summed(as_json, as_proto, pictures)


def expected_bytes(outputs: Mapping[str, tuple[str, tuple[int | None, ...] | None]]) -> ResponseBytes | None:
    """About the size of an answer to one picture, by each output's dtype and static shape; None where one is open."""
    as_json, as_proto = {}, {}
    for name, (dtype, shape) in outputs.items():
        sizes = None if shape is None else shape[1:]
        if sizes is None or None in sizes:
            return None
        known = [size for size in sizes if size is not None]
        values = prod(known)
        lists = sum(prod(known[:axis]) for axis in range(len(known)))
        as_json[name] = values * NUMBER_BYTES + 4 * lists + len(name) + 6
        as_proto[name] = values * (NUMBER_BYTES if dtype == "string" else np.dtype(dtype).itemsize) + len(name) + 20
    return _summed(as_json, as_proto, 1)


def batch_findings(answer: Mapping[str, Any], signature: str, pictures: int) -> list[str]:
    """Which outputs of a request of so many pictures keep a server from batching it or from answering in rows."""
    findings = []
    for name, tensor in answer.items():
        array = np.asarray(tensor)
        if array.ndim == 0:
            findings.append(f"{signature}: {name} is a scalar: neither batches nor JSON in rows work with it")
        elif array.shape[0] != pictures:
            findings.append(
                f"{signature}: {name} has {array.shape[0]} rows for {pictures} pictures: it cannot be batched"
            )
        if array.dtype.kind in "OSU" and name.endswith("_bytes"):
            findings.append(f"{signature}: {name} is text, but its name ends with _bytes: JSON would have it as b64")
    return findings


def size_findings(size: ResponseBytes) -> list[str]:
    """Who does not take an answer of this size."""
    found = []
    for who, (limit, form) in LIMITS.items():
        if getattr(size, form) <= limit:
            continue
        without = getattr(size, f"{form}_without_raw")
        mend = "export with --outputs to leave the raw ones out" if without <= limit else "export with --max-detections"
        found.append(f"an answer to one picture is {size}, and {who} takes {_size(limit)}: {mend}")
    return found


def _summed(as_json: Mapping[str, int], as_proto: Mapping[str, int], pictures: int) -> ResponseBytes:
    def total(sizes: Mapping[str, int], raw: bool) -> int:
        return sum(size for name, size in sizes.items() if raw or not name.startswith(RAW)) // pictures

    return ResponseBytes(total(as_json, True), total(as_proto, True), total(as_json, False), total(as_proto, False))


def _json_bytes(array: np.ndarray) -> int:
    """Numbers with nine digits, as TensorFlow Serving writes them."""
    if array.dtype.kind != "f":
        return len(json.dumps(array.tolist(), default=lambda text: text.decode("utf-8", "replace")))
    # Each number with a comma and a space; each list with brackets, a comma and a space.
    sample = array.ravel()[:: max(array.size // SAMPLE, 1)].tolist()
    numbers = sum(len(f"{number:.9g}") + 2 + 2 * float(number).is_integer() for number in sample)
    lists = sum(int(np.prod(array.shape[:axis])) for axis in range(array.ndim))
    return numbers * array.size // max(len(sample), 1) + 4 * lists


def _proto_bytes(array: np.ndarray) -> int:
    return sum(len(text) + 3 for text in array.ravel()) if array.dtype.kind in "OS" else array.nbytes


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f} kB"
