"""The JSON of classify and regress. Source: util/json_tensor.cc."""

import binascii
from typing import Any

import numpy as np
import orjson
import tensorflow as tf

from unfreeze.server.failures import invalid
from unfreeze.server.json_tensors import (
    is_base64,
    read_body,
    read_signature,
    shown,
    string,
    wrong_document,
)

KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def read(body: bytes, request: Any, input_class: Any) -> Any:
    """Fill a ClassificationRequest or RegressionRequest."""
    document = read_body(body)
    request.model_spec.signature_name = read_signature(document)
    given = input_class()
    examples = given.example_list
    if "context" in document:
        examples = given.example_list_with_context
        fill_example(document["context"], examples.context)
    if "examples" not in document:
        raise wrong_document(document, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(document["examples"], list):
        raise wrong_document(document, "Expecting 'examples' value to be an list/array")
    if not document["examples"]:
        raise wrong_document(document, "'examples' value is an empty array")
    for value in document["examples"]:
        fill_example(value, examples.examples.add())
    request.input.CopyFrom(given)
    return request


def fill_example(value: Any, example: tf.train.Example) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {kind_of(value)}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            add(name, item, feature)


def add(name: str, value: Any, feature: Any) -> None:
    """One value; the first decides the type of its feature."""
    stored: Any
    if isinstance(value, str) or is_base64(value):
        kind, stored = "bytes_list", string(value)
    elif isinstance(value, bool | int):
        kind, stored = "int64_list", int(value)
        if stored > 2**63 - 1:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
    elif isinstance(value, float):
        kind, stored = "float_list", value
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {kind_of(value)}")
    before = feature.WhichOneof("kind")
    if before not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {KINDS[before]}")
    try:
        getattr(feature, kind).value.append(stored)
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise invalid(
            f"Cannot convert JSON value: {shown(value)} to {KINDS[kind]} without loss of precision."
        ) from None


def kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return {type(None): "Null", str: "String", dict: "Object", list: "Array"}.get(type(value), "Number")


def write_classes(response: Any) -> bytes:
    """[[[label, score], …] for each example]."""
    rows = [
        [[one.label, orjson.Fragment(number(one.score))] for one in classes.classes]
        for classes in response.result.classifications
    ]
    return orjson.dumps({"results": rows})


def write_values(response: Any) -> bytes:
    return orjson.dumps({"results": [orjson.Fragment(number(one.value)) for one in response.result.regressions]})


def number(value: float) -> bytes:
    """A float32 with the fewest digits that give it back; NaN and Infinity bare."""
    single = np.float32(value)
    if np.isfinite(single):
        return orjson.dumps(single, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"NaN" if np.isnan(single) else b"Infinity" if single > 0 else b"-Infinity"
