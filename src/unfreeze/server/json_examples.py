"""JSON bodies of classify and regress requests and responses. Source: util/json_tensor.cc."""

import binascii
from typing import Any

import numpy as np
import orjson
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from unfreeze.server.json_tensors import (
    is_base64,
    quote,
    read_document,
    read_signature,
    string_bytes,
    wrong_document,
)
from unfreeze.server.status import invalid

FEATURE_TYPES = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def read_request(body: bytes, request: Any) -> Any:
    """Fills a ClassificationRequest or RegressionRequest from JSON and returns it. Raises: StatusError."""
    document = read_document(body)
    request.model_spec.signature_name = read_signature(document)
    request_input = input_pb2.Input()
    examples = request_input.example_list
    if "context" in document:
        examples = request_input.example_list_with_context
        fill_example(document["context"], examples.context)
    if "examples" not in document:
        raise wrong_document(document, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(document["examples"], list):
        raise wrong_document(document, "Expecting 'examples' value to be an list/array")
    if not document["examples"]:
        raise wrong_document(document, "'examples' value is an empty array")
    for value in document["examples"]:
        fill_example(value, examples.examples.add())
    request.input.CopyFrom(request_input)
    return request


def fill_example(value: Any, example: tf.train.Example) -> None:
    """Fills an Example from a JSON object. Raises: StatusError."""
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(value)}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            append_value(name, item, feature)


def append_value(name: str, value: Any, feature: Any) -> None:
    """Appends a value to a feature; the first value decides the type of the feature. Raises: StatusError."""
    stored: Any
    if isinstance(value, str) or is_base64(value):
        kind, stored = "bytes_list", string_bytes(value)
    elif isinstance(value, bool | int):
        kind, stored = "int64_list", int(value)
        if stored > 2**63 - 1:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
    elif isinstance(value, float):
        kind, stored = "float_list", value
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    before = feature.WhichOneof("kind")
    if before not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {FEATURE_TYPES[before]}")
    try:
        getattr(feature, kind).value.append(stored)
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise invalid(
            f"Cannot convert JSON value: {quote(value)} to {FEATURE_TYPES[kind]} without loss of precision."
        ) from None


def json_type(value: Any) -> str:
    """Returns rapidjson's name of a value's type; `True` or `False` for booleans."""
    if isinstance(value, bool):
        return str(value)
    return {type(None): "Null", str: "String", dict: "Object", list: "Array"}.get(type(value), "Number")


def write_classes(response: Any) -> bytes:
    """Returns the JSON of a ClassificationResponse: a list of [label, score] pairs for each example."""
    rows = [
        [[entry.label, orjson.Fragment(float32_json(entry.score))] for entry in classes.classes]
        for classes in response.result.classifications
    ]
    return orjson.dumps({"results": rows})


def write_values(response: Any) -> bytes:
    """Returns the JSON of a RegressionResponse: one number for each example."""
    values = [orjson.Fragment(float32_json(entry.value)) for entry in response.result.regressions]
    return orjson.dumps({"results": values})


def float32_json(value: float) -> bytes:
    """Returns a float32 with the fewest digits that identify it; NaN and Infinity bare, as TensorFlow Serving does."""
    single = np.float32(value)
    if np.isfinite(single):
        return orjson.dumps(single, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"NaN" if np.isnan(single) else b"Infinity" if single > 0 else b"-Infinity"
