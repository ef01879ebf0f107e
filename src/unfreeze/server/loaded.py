"""A model in memory: its signatures, and the checks of a request's inputs and outputs."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.server.status import invalid

DEFAULT_SIGNATURE = "serving_default"
MAX_MESSAGE_CHARS = 2000

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class LoadedModel(ABC):
    """A model that is loaded and can be called: a SavedModel, or a file of another runtime."""

    folder: Path  # of the version
    runtime: str  # a label of the metrics
    signature_defs: Mapping[str, Any]  # name -> SignatureDef

    def signature_def(self, name: str) -> Any:
        """Returns the SignatureDef of a name; an empty name means the default.

        Raises: KeyError if there is none. The callers raise an error of their own: its text differs by protocol.
        """
        return self.signature_defs[name or DEFAULT_SIGNATURE]

    def has_fixed_batch_size(self, signature: str) -> bool:
        """Returns whether a signature takes one number of rows only, so that requests cannot run in one call."""
        shapes = [info.tensor_shape for info in self.signature_def(signature).inputs.values()]
        return any(shape.dim and shape.dim[0].size >= 0 for shape in shapes)

    @abstractmethod
    def run(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Arrays:
        """Calls a signature with inputs that were checked, and returns the named outputs, by default all of them.

        Raises: StatusError if the model fails.
        """


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
