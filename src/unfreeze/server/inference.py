"""The requests of TensorFlow Serving's protos, answered by a loaded model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, predict_pb2, regression_pb2

from unfreeze.server.failures import Code, Failure, invalid
from unfreeze.server.loaded import (
    DEFAULT_SIGNATURE,
    Arrays,
    LoadedModel,
    check_arrays,
    check_inputs,
    check_names,
    check_outputs,
)

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))
LARGEST_TENSOR_BYTES = 2**31 - 1
# Those of most outputs: asking TensorFlow costs more than the copy of a small one.
DATA_TYPES = {np.dtype(np.float32): types_pb2.DT_FLOAT, np.dtype(np.int64): types_pb2.DT_INT64}

# How a checked call is carried out: at once, or through the queue of the server.
Run = Callable[[LoadedModel, str, Mapping[str, np.ndarray], Sequence[str]], Arrays]


def run_at_once(model: LoadedModel, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> Arrays:
    return model.run(signature, inputs, outputs)


def predict(
    model: LoadedModel, request: Any, run: Run = run_at_once, max_bytes: int = LARGEST_TENSOR_BYTES
) -> predict_pb2.PredictResponse:
    """Answer a PredictRequest; the version in the response's model_spec is left to who knows it."""
    signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
    try:
        definition = model.signature_def(signature)
    except KeyError:
        raise Failure(Code.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.') from None
    check_names(definition, request.inputs)
    inputs = {name: array_of(name, tensor, max_bytes) for name, tensor in request.inputs.items()}
    check_arrays(definition, inputs)
    check_outputs(definition, list(request.output_filter))
    outputs = run(model, signature, inputs, list(request.output_filter))
    response = predict_pb2.PredictResponse()
    for name, value in outputs.items():
        fill_tensor(response.outputs[name], value)
    response.model_spec.signature_name = signature
    return response


def array_of(name: str, tensor: Any, max_bytes: int) -> np.ndarray:
    """A TensorProto, as tensor_content or as a list of values, -> an array.

    Raises: Failure when it contradicts itself, or is larger unpacked than a request may be: one value can stand for
    a tensor of any shape.
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
            raise ValueError(f"it has {count} values, more than a request may hold")
        if dtype == tf.string and len(tensor.string_val) not in (1, count):
            raise ValueError(f"it has {len(tensor.string_val)} strings for a shape of {count}")
        if dtype == tf.string and len(tensor.string_val) == count:  # make_ndarray goes through a list of copies
            strings = np.empty(count, dtype=object)
            strings[:] = tensor.string_val
            return strings.reshape(sizes)
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError, KeyError) as error:
        raise invalid(f"tensor parsing error: {name}: {str(error) or type(error).__name__}") from error


def fill_tensor(tensor: Any, value: np.ndarray) -> None:
    """Write an array into a TensorProto: its bytes as they are, or a list of strings."""
    if value.dtype == object:
        tensor.dtype = types_pb2.DT_STRING
        tensor.string_val.extend(value.ravel().tolist())
    else:
        tensor.dtype = DATA_TYPES.get(value.dtype) or tf.as_dtype(value.dtype).as_datatype_enum
        tensor.tensor_content = value.tobytes()
    dims = tensor.tensor_shape.dim
    for size in value.shape:
        dims.add(size=size)


def classify(model: LoadedModel, request: Any, run: Run = run_at_once) -> classification_pb2.ClassificationResponse:
    """Answer a ClassificationRequest. Source: servables/tensorflow/classifier.cc."""
    signature, definition = signature_of(model, request, CLASSIFY, "classification")
    outputs = run_on_examples(model, signature, definition, request.input, run)
    count = len(serialized_examples(request.input))
    labels, scores = outputs.get("classes"), outputs.get("scores")
    if labels is None and scores is None:
        raise invalid("Expected classification signature outputs to contain at least one of classes, scores.")
    response = classification_pb2.ClassificationResponse()
    for row in range(count):
        classes = response.result.classifications.add().classes
        for index in range((labels if scores is None else scores).shape[1]):  # type: ignore[union-attr]
            one = classes.add()
            if labels is not None:
                one.label = labels[row, index].decode("utf-8", "replace")
            if scores is not None:
                one.score = scores[row, index]
    response.model_spec.signature_name = signature
    return response


def regress(model: LoadedModel, request: Any, run: Run = run_at_once) -> regression_pb2.RegressionResponse:
    """Answer a RegressionRequest. Source: servables/tensorflow/regressor.cc."""
    signature, definition = signature_of(model, request, REGRESS, "regression")
    outputs = run_on_examples(model, signature, definition, request.input, run)
    values = outputs.get("outputs")
    if values is None:
        raise Failure(Code.FAILED_PRECONDITION, f"No regression outputs found in SignatureDef: {signature}")
    count = len(serialized_examples(request.input))
    if values.ndim not in (1, 2) or values.size != count:
        raise invalid(f"Expected output batch size to be {count}.  Got: {values.size}")
    response = regression_pb2.RegressionResponse()
    for value in values.ravel():
        response.result.regressions.add(value=value)
    response.model_spec.signature_name = signature
    return response


def signature_of(model: LoadedModel, request: Any, method: str, told: str) -> tuple[str, Any]:
    signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
    try:
        definition = model.signature_def(signature)
    except KeyError:
        raise invalid(f"No signature was found with the name: {signature}") from None
    if definition.method_name != method:
        raise invalid(f"Expected {told} signature method_name to be {method}. Was: {definition.method_name}")
    return signature, definition


def run_on_examples(model: LoadedModel, signature: str, definition: Any, given: input_pb2.Input, run: Run) -> Arrays:
    if list(definition.inputs) != ["inputs"]:
        raise invalid("Expected one input Tensor.")
    examples = serialized_examples(given)
    if not examples:
        raise invalid("Input is empty.")
    inputs = {"inputs": np.array(examples, dtype=object)}
    check_inputs(definition, inputs)
    return run(model, signature, inputs, ())


def serialized_examples(given: input_pb2.Input) -> list[bytes]:
    """The Examples of an Input, each with the features of the context that all share."""
    if given.WhichOneof("kind") != "example_list_with_context":
        return [example.SerializeToString() for example in given.example_list.examples]
    context = given.example_list_with_context.context.SerializeToString()
    # Serialized messages that are put one after the other merge; of a map the later key wins.
    return [context + example.SerializeToString() for example in given.example_list_with_context.examples]
