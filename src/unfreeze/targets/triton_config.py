"""Writes config.pbtxt, a ModelConfig of Triton in text form: inputs, outputs, batching and where copies of a model run.

Source: protobuf/model_config.proto of triton-inference-server/common, and docs/user_guide/model_configuration.md of
triton-inference-server/server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from unfreeze.errors import UnsupportedError

DATA_TYPES = {
    "bool": "TYPE_BOOL", "string": "TYPE_STRING",
    "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32", "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64", "bfloat16": "TYPE_BF16",
}  # fmt: skip


class Backend(Enum):
    """The lines of config.pbtxt that choose Triton's backend."""

    TENSORFLOW = 'platform: "tensorflow_savedmodel"'
    ONNX_RUNTIME = 'backend: "onnxruntime"'


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model: its name, data type, and shape (None: any size of a dimension)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """The content of config.pbtxt.

    `max_batch_size` is 0 if the first dimension of the tensors is not that of a batch. `signature` is empty for the
    backend's default.
    """

    name: str
    backend: Backend
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    max_batch_size: int
    instances: int = 1
    gpu: bool = False
    signature: str = ""
    class_names: Mapping[str, str] = field(default_factory=dict)  # class id -> name


def has_batch_dimension(tensors: Sequence[Tensor]) -> bool:
    """Returns whether the first dimension of every tensor has any size, so that Triton can combine requests."""
    return all(tensor.shape and tensor.shape[0] is None for tensor in tensors)


def format_config(model: TritonModel) -> str:
    """Returns the text of config.pbtxt.

    Raises: UnsupportedError if Triton has no data type for a tensor.
    """
    return "\n".join(_lines(model)) + "\n"


def _lines(model: TritonModel) -> Iterator[str]:
    yield f"name: {_quoted(model.name)}"
    yield model.backend.value
    yield f"max_batch_size: {model.max_batch_size}"
    for heading, tensors in (("input", model.inputs), ("output", model.outputs)):
        yield f"{heading} ["
        yield ",\n".join(_tensor(tensor, batched=model.max_batch_size > 0) for tensor in tensors)
        yield "]"
    if model.max_batch_size > 1:
        yield "dynamic_batching { }"
    kind = "KIND_GPU" if model.gpu else "KIND_CPU"
    yield f"instance_group [ {{ count: {model.instances} kind: {kind} }} ]"
    for key, value in _parameters(model):
        yield f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _tensor(tensor: Tensor, *, batched: bool) -> str:
    """Returns an input or output; a batched one has its shape without the first dimension."""
    data_type = DATA_TYPES.get(tensor.dtype)
    if data_type is None:
        raise UnsupportedError(f"not supported: {tensor.name} is {tensor.dtype}, which Triton has no data type for.")
    shape = tensor.shape[1:] if batched else tensor.shape
    sizes = ", ".join("-1" if size is None else str(size) for size in shape)
    dims = f"dims: [ {sizes} ]" if shape else "dims: [ 1 ] reshape: { shape: [ ] }"  # an empty list is not allowed
    return f"  {{ name: {_quoted(tensor.name)} data_type: {data_type} {dims} }}"


def _parameters(model: TritonModel) -> Iterator[tuple[str, str]]:
    if model.signature:
        yield "TF_SIGNATURE_DEF", model.signature
    if model.class_names:  # clients read it from /v2/models/NAME/config
        yield "class_names", json.dumps(dict(model.class_names), ensure_ascii=True)


def _quoted(text: str) -> str:
    """Returns a string of protobuf's text format; JSON escapes the same characters in ASCII text."""
    return json.dumps(text)
