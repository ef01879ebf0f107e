"""One SavedModel in memory: its signatures, and a call that checks what it is given before TensorFlow sees it."""

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.errors import SavedModelError
from unfreeze.onednn import assume_frozen_weights
from unfreeze.server.failures import CODES, Code, Failure, invalid

DEFAULT_SIGNATURE = "serving_default"
NOISE = ("Graph execution error", "Detected at node", "<stack traces unavailable>")
INIT_SIGNATURES = {"__saved_model_init_op", "__saved_model_train_op"}

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class LoadedModel:
    """A SavedModel that answers."""

    folder: Path
    signature_defs: Mapping[str, Any]  # name -> SignatureDef, as the file has it
    functions: Mapping[str, Callable[..., dict[str, tf.Tensor]]]
    loaded: Any  # owns the variables, which are gone with it

    def signature_def(self, name: str) -> Any:
        """The SignatureDef of a name, where an empty one means the default.

        Raises: KeyError when there is none; what to say of it differs between REST and gRPC.
        """
        return self.signature_defs[name or DEFAULT_SIGNATURE]

    def run(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Arrays:
        """Call a signature with checked inputs -> the outputs asked for (default: all).

        Raises: Failure with TensorFlow's own code and text when the model fails on it.
        """
        name = signature or DEFAULT_SIGNATURE
        feeds = {key: tf.convert_to_tensor(value, dtype_of(self.signature_defs[name].inputs[key]))
                 for key, value in inputs.items()}  # fmt: skip
        try:
            answered = self.functions[name](**feeds)
            return {key: answered[key].numpy() for key in (outputs or answered)}
        except tf.errors.OpError as error:
            code = CODES.get(error.error_code, Code.UNKNOWN)
            raise Failure(code, first_line(error)) from error


def load(folder: str | os.PathLike[str]) -> LoadedModel:
    """Load a version's folder.

    Raises: Failure when it is not a SavedModel, TensorFlow cannot load it, or its weights depend on the request where
    oneDNN keeps those of the first.
    """
    path = Path(folder)
    signature_defs = read_signature_defs(path)
    try:
        assume_frozen_weights(path)
    except SavedModelError as error:
        raise Failure(Code.FAILED_PRECONDITION, str(error)) from error
    try:
        loaded = tf.saved_model.load(os.fspath(path))
        functions = dict(loaded.signatures)
    except Exception as error:  # the loader raises all kinds: OSError, ValueError, OpError …
        raise Failure(Code.UNKNOWN, f"{path} cannot be loaded: {first_line(error)}") from error
    callable_ones = {name: definition for name, definition in signature_defs.items() if name in functions}
    return LoadedModel(path, callable_ones, functions, loaded)


def read_signature_defs(path: Path) -> dict[str, Any]:
    """The SignatureDefs of the graph tagged `serve`, as written: the loader drops their method names."""
    try:
        saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    except OSError as error:
        raise Failure(
            Code.NOT_FOUND, f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
        ) from error
    except DecodeError as error:
        raise Failure(Code.DATA_LOSS, f"Can't parse {path / 'saved_model.pb'} as binary proto") from error
    for graph in saved.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return {name: value for name, value in graph.signature_def.items() if name not in INIT_SIGNATURES}
    raise Failure(
        Code.NOT_FOUND,
        f"Could not find meta graph def matching supplied tags: {{ serve }} in {path}",
    )


def dtype_of(info: Any) -> tf.DType:
    return tf.as_dtype(info.dtype)


def check_inputs(signature_def: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """Refuse inputs which the signature does not take, in TensorFlow's words where it has some.

    Raises: Failure INVALID_ARGUMENT. Source: servables/tensorflow/predict_util.cc, cc/saved_model/util.cc.
    """
    check_names(signature_def, inputs)
    check_arrays(signature_def, inputs)


def check_names(signature_def: Any, names: Collection[str]) -> None:
    """The part of `check_inputs` that can be told before a tensor is read."""
    given, wanted = set(names), set(signature_def.inputs)
    if len(given) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} len({braced(given)}) != "
            f"len({braced(wanted)}). Sent extra: {braced(given - wanted)}. "
            f"Missing but required: {braced(wanted - given)}."
        )
    for name in sorted(given - wanted):
        raise invalid(
            f"input tensor alias not found in signature: {name}. Inputs expected to be in the set {braced(wanted)}."
        )


def check_arrays(signature_def: Any, inputs: Mapping[str, np.ndarray]) -> None:
    """The rest of `check_inputs`."""
    for index, name in enumerate(sorted(inputs)):
        check_input(index, name, signature_def.inputs[name], inputs[name])


def check_input(index: int, name: str, info: Any, value: np.ndarray) -> None:
    expected, given = dtype_of(info), tf.as_dtype(value.dtype)
    if given != expected and not (expected == tf.string and value.dtype == object):
        raise invalid(f"Expects arg[{index}] to be {expected.name} but {given.name} is provided")
    shape = tf.TensorShape(info.tensor_shape)
    if not shape.is_compatible_with(value.shape):
        raise invalid(f"input {name} has shape {list(value.shape)}, but the signature takes {shape}")


def check_outputs(signature_def: Any, output_filter: Sequence[str]) -> None:
    """Refuse an output_filter that names what is not there, or names it twice. Source: predict_util.cc."""
    for index, name in enumerate(output_filter):
        if name not in signature_def.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{braced(signature_def.outputs)}."
            )
        if name in output_filter[:index]:
            raise invalid(f"duplicate output tensor alias: {name}")


def braced(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def first_line(error: Exception) -> str:
    """What went wrong, without the stack of graph nodes that TensorFlow adds below it."""
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    lines = [line.strip() for line in str(message).strip().splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(NOISE)]
    return re.sub(r"^(\{\{\w+ [^}]*\}\}\s*)+", "", next(iter(useful or lines), type(error).__name__))
