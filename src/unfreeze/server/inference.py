"""Predict, classify and regress: TensorFlow Serving's request protos -> response protos of a loaded model."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, predict_pb2, regression_pb2

from unfreeze.server.loaded import (
    DEFAULT_SIGNATURE,
    Arrays,
    LoadedModel,
    check_input_arrays,
    check_input_names,
    check_inputs,
    check_output_filter,
)
from unfreeze.server.status import StatusCode, StatusError, invalid

MAX_TENSOR_BYTES = 2**31 - 1
# The dtypes of most outputs: a lookup in TensorFlow takes longer than copying a small array.
DATA_TYPES = {np.dtype(np.float32): types_pb2.DT_FLOAT, np.dtype(np.int64): types_pb2.DT_INT64}

# Runs a signature of a model with inputs that were checked: at once, or through the queue of the server.
RunSignature = Callable[[LoadedModel, str, Mapping[str, np.ndarray], Sequence[str]], Arrays]


class Method(Enum):
    """A method of signatures that take Examples: its name in the SignatureDef."""

    CLASSIFICATION = "tensorflow/serving/classify"
    REGRESSION = "tensorflow/serving/regress"


def run_at_once(model: LoadedModel, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Arrays:
    """Runs a signature at once, without the queue of the server."""
    return model.run(signature, inputs, outputs)


def predict(
    model: LoadedModel, request: Any, run: RunSignature = run_at_once, max_bytes: int = MAX_TENSOR_BYTES
) -> predict_pb2.PredictResponse:
    """Returns the response to a PredictRequest; the caller fills in name and version of its model_spec.

    Raises: StatusError.
    """
    signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
    try:
        definition = model.signature_def(signature)
    except KeyError:
        raise StatusError(StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.') from None
    check_input_names(definition, request.inputs)
    inputs = {name: to_array(name, tensor, max_bytes) for name, tensor in request.inputs.items()}
    check_input_arrays(definition, inputs)
    output_filter = list(request.output_filter)
    check_output_filter(definition, output_filter)
    outputs = run(model, signature, inputs, output_filter)
    response = predict_pb2.PredictResponse()
    for name, value in outputs.items():
        fill_tensor(response.outputs[name], value)
    response.model_spec.signature_name = signature
    return response


def to_array(name: str, tensor: Any, max_bytes: int) -> np.ndarray:
    """Returns a TensorProto as an array.

    Raises: StatusError if the proto contradicts itself, or if the array is larger than a request may be: in a proto one
    value can stand for a tensor of any shape.
    """
    try:
        dtype = tf.as_dtype(tensor.dtype)
        sizes = [dim.size for dim in tensor.tensor_shape.dim]
        if tensor.tensor_shape.unknown_rank or any(size < 0 for size in sizes):
            raise ValueError("its shape is not complete")
        count = 1
        for size in sizes:
            count *= size
        if count * max(1, dtype.size) > max_bytes:
            raise ValueError(f"its {count} values exceed the size limit of a request")
        if dtype == tf.string and len(tensor.string_val) not in (1, count):
            raise ValueError(f"it has {len(tensor.string_val)} strings for a shape of {count}")
        if dtype == tf.string and len(tensor.string_val) == count:  # make_ndarray would copy them into a list first
            strings = np.empty(count, dtype=object)
            strings[:] = tensor.string_val
            return strings.reshape(sizes)
        wrap_values(tensor, dtype)
        array: np.ndarray = tf.make_ndarray(tensor)
        return array
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise invalid(f"tensor parsing error: {name}: {str(error) or type(error).__name__}") from error


def wrap_values(tensor: Any, dtype: tf.DType) -> None:
    """Cuts values of a TensorProto to the size of its dtype, as TensorFlow Serving does (tensor.cc, FromProtoField).

    Fields of 32 bits store the values of narrower dtypes; `make_ndarray` fails on those that do not fit.
    """
    for values, narrow in ((tensor.int_val, dtype.is_integer), (tensor.half_val, dtype.is_floating)):
        if narrow and values and dtype.size < 4:
            stored = np.uint16 if dtype.is_floating else dtype.as_numpy_dtype
            values[:] = np.array(values, np.int32).astype(stored).tolist()


def fill_tensor(tensor: Any, value: np.ndarray) -> None:
    """Writes an array into a TensorProto: numbers as bytes, strings as a list."""
    if value.dtype == object:
        tensor.dtype = types_pb2.DT_STRING
        tensor.string_val.extend(value.ravel().tolist())
    else:
        tensor.dtype = DATA_TYPES.get(value.dtype) or tf.as_dtype(value.dtype).as_datatype_enum
        tensor.tensor_content = value.tobytes()
    dims = tensor.tensor_shape.dim
    for size in value.shape:
        dims.add(size=size)


def classify(
    model: LoadedModel, request: Any, run: RunSignature = run_at_once
) -> classification_pb2.ClassificationResponse:
    """Returns the response to a ClassificationRequest. Source: servables/tensorflow/classifier.cc."""
    signature, definition = find_signature(model, request, Method.CLASSIFICATION)
    outputs = run_on_examples(model, signature, definition, request.input, run)
    count = len(serialized_examples(request.input))
    labels, scores = outputs.get("classes"), outputs.get("scores")
    if labels is None and scores is None:
        raise invalid("Expected classification signature outputs to contain at least one of classes, scores.")
    response = classification_pb2.ClassificationResponse()
    for row in range(count):
        classes = response.result.classifications.add().classes
        for index in range((labels if scores is None else scores).shape[1]):  # type: ignore[union-attr]
            entry = classes.add()
            if labels is not None:
                entry.label = labels[row, index].decode("utf-8", "replace")
            if scores is not None:
                entry.score = scores[row, index]
    response.model_spec.signature_name = signature
    return response


def regress(model: LoadedModel, request: Any, run: RunSignature = run_at_once) -> regression_pb2.RegressionResponse:
    """Returns the response to a RegressionRequest. Source: servables/tensorflow/regressor.cc."""
    signature, definition = find_signature(model, request, Method.REGRESSION)
    outputs = run_on_examples(model, signature, definition, request.input, run)
    values = outputs.get("outputs")
    if values is None:
        raise StatusError(StatusCode.FAILED_PRECONDITION, f"No regression outputs found in SignatureDef: {signature}")
    count = len(serialized_examples(request.input))
    if values.ndim not in (1, 2) or values.size != count:
        raise invalid(f"Expected output batch size to be {count}.  Got: {values.size}")
    response = regression_pb2.RegressionResponse()
    for value in values.ravel():
        response.result.regressions.add(value=value)
    response.model_spec.signature_name = signature
    return response


def fill_model_spec(response: Any, name: str, version: int) -> None:
    """Writes the name and version of the model that responds."""
    response.model_spec.name = name
    response.model_spec.version.value = version


def find_signature(model: LoadedModel, request: Any, method: Method) -> tuple[str, Any]:
    """Returns the name and the SignatureDef that a request names. Raises: StatusError if its method is another one."""
    signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
    try:
        definition = model.signature_def(signature)
    except KeyError:
        raise invalid(f"No signature was found with the name: {signature}") from None
    if definition.method_name != method.value:
        raise invalid(
            f"Expected {method.name.lower()} signature method_name to be {method.value}. Was: {definition.method_name}"
        )
    return signature, definition


def run_on_examples(
    model: LoadedModel, signature: str, definition: Any, request_input: input_pb2.Input, run: RunSignature
) -> Arrays:
    """Runs a signature on the Examples of a request. Raises: StatusError if it does not take them."""
    if list(definition.inputs) != ["inputs"]:
        raise invalid("Expected one input Tensor.")
    examples = serialized_examples(request_input)
    if not examples:
        raise invalid("Input is empty.")
    inputs = {"inputs": np.array(examples, dtype=object)}
    check_inputs(definition, inputs)
    return run(model, signature, inputs, ())


def serialized_examples(request_input: input_pb2.Input) -> list[bytes]:
    """Returns the Examples of an Input, each with the features of their common context."""
    if request_input.WhichOneof("kind") != "example_list_with_context":
        return [example.SerializeToString() for example in request_input.example_list.examples]
    context = request_input.example_list_with_context.context.SerializeToString()
    # Serialized messages merge when they are concatenated; in a map, the later value of a key is used.
    return [context + example.SerializeToString() for example in request_input.example_list_with_context.examples]
