"""The size of a server's response to one image, and what in it servers and clients reject.

Source: util/json_tensor.cc of tensorflow/serving for the format of numbers; platform_limits.py for the limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from unfreeze.targets.platform_limits import GRPC_CLIENT, LIMITS, REAL_TIME, SERVERLESS, Kind

RAW_PREFIX = "raw_"
SAMPLED_NUMBERS = 20_000  # numbers of each output from which the length of all is estimated
NUMBER_BYTES = 13  # the usual length of a number in JSON: `0.123456789, `
# Server or client, and the format of the responses that it receives.
RECEIVERS: dict[str, Literal["json", "proto"]] = {SERVERLESS: "json", REAL_TIME: "json", GRPC_CLIENT: "proto"}


@dataclass(frozen=True)
class ResponseBytes:
    """The size of a response to one image, as JSON and as a protobuf message, with and without the raw outputs."""

    json: int
    proto: int
    json_without_raw: int
    proto_without_raw: int

    def to_dict(self) -> dict[str, int]:
        """Returns the sizes as JSON data."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{_size(self.json)} as JSON ({_size(self.json_without_raw)} without raw outputs), "
            f"{_size(self.proto)} by gRPC ({_size(self.proto_without_raw)} without raw outputs)"
        )


def response_bytes(outputs: Mapping[str, Any]) -> ResponseBytes:
    """Returns the size of the response with these outputs of a batch, divided by the number of images."""
    arrays = {name: np.asarray(tensor) for name, tensor in outputs.items()}
    images = max(max((array.shape[0] for array in arrays.values() if array.ndim), default=1), 1)
    as_json = {name: _json_bytes(array) + len(name) + 6 for name, array in arrays.items()}
    as_proto = {name: _proto_bytes(array) + len(name) + 20 for name, array in arrays.items()}
    return _total(as_json, as_proto, images)


def expected_bytes(outputs: Mapping[str, tuple[str, tuple[int | None, ...] | None]]) -> ResponseBytes | None:
    """Estimates the size of a response to one image from the dtype and static shape of each output.

    Returns None if a dimension other than the first is not known.
    """
    as_json, as_proto = {}, {}
    for name, (dtype, shape) in outputs.items():
        sizes = None if shape is None else shape[1:]
        if sizes is None or None in sizes:
            return None
        row = [size for size in sizes if size is not None]
        values = prod(row)
        lists = sum(prod(row[:axis]) for axis in range(len(row)))
        as_json[name] = values * NUMBER_BYTES + 4 * lists + len(name) + 6
        as_proto[name] = values * (NUMBER_BYTES if dtype == "string" else np.dtype(dtype).itemsize) + len(name) + 20
    return _total(as_json, as_proto, 1)


def batch_findings(outputs: Mapping[str, Any], signature: str, images: int) -> list[str]:
    """Returns a line for each output that keeps a server from batching requests or from a row-wise JSON response."""
    findings = []
    for name, tensor in outputs.items():
        array = np.asarray(tensor)
        if array.ndim == 0:
            findings.append(f"{signature}: {name} is a scalar, which works neither with batching nor in row-wise JSON")
        elif array.shape[0] != images:
            findings.append(
                f"{signature}: {name} has {array.shape[0]} rows for {images} images, so requests cannot be batched"
            )
        if array.dtype.kind in "OSU" and name.endswith("_bytes"):
            findings.append(
                f"{signature}: {name} is text, but TensorFlow Serving returns outputs that end with _bytes as base64"
            )
    return findings


def size_findings(size: ResponseBytes) -> list[str]:
    """Returns a line for each server or client that does not accept a response of this size."""
    findings = []
    for receiver, response_format in RECEIVERS.items():
        limit = next(int(row.most) for row in LIMITS if row.platform == receiver and row.kind is Kind.RESPONSE)
        if getattr(size, response_format) <= limit:
            continue
        fits_without_raw = getattr(size, f"{response_format}_without_raw") <= limit
        advice = "with --kept-outputs, to omit the raw outputs" if fits_without_raw else "with --max-detections"
        findings.append(
            f"a response to one image is {size}; the limit of {receiver} is {_size(limit)}. Export {advice}."
        )
    return findings


def _total(as_json: Mapping[str, int], as_proto: Mapping[str, int], images: int) -> ResponseBytes:
    def total(sizes: Mapping[str, int], *, with_raw: bool) -> int:
        return sum(size for name, size in sizes.items() if with_raw or not name.startswith(RAW_PREFIX)) // images

    return ResponseBytes(
        json=total(as_json, with_raw=True),
        proto=total(as_proto, with_raw=True),
        json_without_raw=total(as_json, with_raw=False),
        proto_without_raw=total(as_proto, with_raw=False),
    )


def _json_bytes(array: np.ndarray) -> int:
    """Returns the length of an array as JSON; floats have nine digits, as TensorFlow Serving writes them."""
    if array.dtype.kind != "f":
        return len(json.dumps(array.tolist(), default=lambda text: text.decode("utf-8", "replace")))
    # Each number with a comma and a space; each list with brackets, a comma and a space.
    sample = array.ravel()[:: max(array.size // SAMPLED_NUMBERS, 1)].tolist()
    numbers = sum(len(f"{number:.9g}") + 2 + 2 * float(number).is_integer() for number in sample)
    lists = sum(int(np.prod(array.shape[:axis])) for axis in range(array.ndim))
    return numbers * array.size // max(len(sample), 1) + 4 * lists


def _proto_bytes(array: np.ndarray) -> int:
    return sum(len(text) + 3 for text in array.ravel()) if array.dtype.kind in "OS" else array.nbytes


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f} kB"
