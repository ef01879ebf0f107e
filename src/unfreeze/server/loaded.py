"""A SavedModel in memory: its signatures, the checks of a request's inputs and outputs, and the call of a signature."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import SavedModelError
from unfreeze.formatting import first_line
from unfreeze.onednn import assume_frozen_weights
from unfreeze.server.status import CODE_BY_NUMBER, StatusCode, StatusError, invalid

DEFAULT_SIGNATURE = "serving_default"
MAX_MESSAGE_CHARS = 2000
INIT_SIGNATURES = {"__saved_model_init_op", "__saved_model_train_op"}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class LoadedModel:
    """A SavedModel that is loaded and can be called."""

    folder: Path
    signature_defs: Mapping[str, Any]  # name -> SignatureDef, as in the file
    functions: Mapping[str, Callable[..., dict[str, tf.Tensor]]]
    loaded: Any  # owns the variables: without this reference they are freed

    def signature_def(self, name: str) -> Any:
        """Returns the SignatureDef of a name; an empty name means the default.

        Raises: KeyError if there is none. The callers raise an error of their own: its text differs by protocol.
        """
        return self.signature_defs[name or DEFAULT_SIGNATURE]

    def run(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Arrays:
        """Calls a signature with inputs that were checked, and returns the named outputs, by default all of them.

        Raises: StatusError with TensorFlow's code and message if the model fails.
        """
        name = signature or DEFAULT_SIGNATURE
        infos = self.signature_defs[name].inputs
        try:
            tensors = self.functions[name](
                **{key: tf.convert_to_tensor(value, dtype_of(infos[key])) for key, value in inputs.items()}
            )
            return {key: tensors[key].numpy() for key in (outputs or tensors)}
        except tf.errors.OpError as error:
            raise StatusError(
                CODE_BY_NUMBER.get(error.error_code, StatusCode.UNKNOWN), first_line(error, MAX_MESSAGE_CHARS)
            ) from error


def load(folder: str | os.PathLike[str]) -> LoadedModel:
    """Loads the SavedModel of a version.

    Raises: StatusError if it is not a SavedModel, if TensorFlow cannot load it, or if its weights depend on the request
    while oneDNN is set to keep those of the first one.
    """
    path = Path(folder)
    signature_defs = read_signature_defs(path)
    try:
        assume_frozen_weights(path)
    except SavedModelError as error:
        raise StatusError(StatusCode.FAILED_PRECONDITION, str(error)) from error
    try:
        loaded = tf.saved_model.load(os.fspath(path))
        functions = dict(loaded.signatures)
    except Exception as error:  # the loader raises OSError, ValueError, OpError and others
        raise StatusError(
            StatusCode.UNKNOWN, f"{path} cannot be loaded: {first_line(error, MAX_MESSAGE_CHARS)}"
        ) from error
    callable_defs = {name: definition for name, definition in signature_defs.items() if name in functions}
    return LoadedModel(path, callable_defs, functions, loaded)


def read_signature_defs(path: Path) -> dict[str, Any]:
    """Returns the SignatureDefs of the graph tagged `serve`, from the file: the loader drops their method names.

    Raises: StatusError, with TensorFlow's texts, if the folder is not a SavedModel with such a graph.
    """
    try:
        saved_model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    except OSError as error:
        raise StatusError(
            StatusCode.NOT_FOUND, f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
        ) from error
    except DecodeError as error:
        raise StatusError(StatusCode.DATA_LOSS, f"Can't parse {path / 'saved_model.pb'} as binary proto") from error
    for graph in saved_model.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return {name: value for name, value in graph.signature_def.items() if name not in INIT_SIGNATURES}
    raise StatusError(
        StatusCode.NOT_FOUND, f"Could not find meta graph def matching supplied tags: {{ serve }} in {path}"
    )


def dtype_of(info: Any) -> tf.DType:
    """Returns the dtype of a TensorInfo."""
    return tf.as_dtype(info.dtype)


def check_inputs(signature_def: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """Raises StatusError INVALID_ARGUMENT if the signature does not accept the inputs, with TensorFlow's texts.

    Source: servables/tensorflow/predict_util.cc, cc/saved_model/util.cc.
    """
    check_input_names(signature_def, inputs)
    check_input_arrays(signature_def, inputs)


def check_input_names(signature_def: Any, names: Collection[str]) -> None:
    """Checks the names only, which can be done before a tensor is parsed."""
    actual, expected = set(names), set(signature_def.inputs)
    if len(actual) != len(expected):
        raise invalid(
            f"input size does not match signature: {len(actual)}!={len(expected)} len({braces(actual)}) != "
            f"len({braces(expected)}). Sent extra: {braces(actual - expected)}. "
            f"Missing but required: {braces(expected - actual)}."
        )
    for name in sorted(actual - expected):
        raise invalid(
            f"input tensor alias not found in signature: {name}. Inputs expected to be in the set {braces(expected)}."
        )


def check_input_arrays(signature_def: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """Checks dtypes and shapes of inputs whose names are right."""
    for index, name in enumerate(sorted(inputs)):
        check_input_array(index, name, signature_def.inputs[name], inputs[name])


def check_input_array(index: int, name: str, info: Any, value: np.ndarray) -> None:
    """Raises StatusError INVALID_ARGUMENT if an array does not have the dtype and shape of its input."""
    expected, actual = dtype_of(info), tf.as_dtype(value.dtype)
    if actual != expected and not (expected == tf.string and value.dtype == object):
        raise invalid(f"Expects arg[{index}] to be {expected.name} but {actual.name} is provided")
    shape = tf.TensorShape(info.tensor_shape)
    if not shape.is_compatible_with(value.shape):
        raise invalid(f"input {name} has shape {list(value.shape)}, but the signature expects {shape}")


def check_output_filter(signature_def: Any, output_filter: Sequence[str]) -> None:
    """Raises StatusError INVALID_ARGUMENT for an unknown or repeated output. Source: predict_util.cc."""
    for index, name in enumerate(output_filter):
        if name not in signature_def.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{braces(signature_def.outputs)}."
            )
        if name in output_filter[:index]:
            raise invalid(f"duplicate output tensor alias: {name}")


def braces(names: Iterable[str]) -> str:
    """Returns sorted names as TensorFlow prints a set: `{a,b}`."""
    return "{" + ",".join(sorted(names)) + "}"
