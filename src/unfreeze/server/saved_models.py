"""SavedModels of the server, which TensorFlow runs."""

import os
from collections.abc import Callable, Mapping, Sequence
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
from unfreeze.server.loaded import DEFAULT_SIGNATURE, MAX_MESSAGE_CHARS, Arrays, LoadedModel, dtype_of
from unfreeze.server.status import CODE_BY_NUMBER, StatusCode, StatusError

SAVED_MODEL = "saved_model.pb"
INIT_SIGNATURES = {"__saved_model_init_op", "__saved_model_train_op"}


@dataclass(frozen=True)
class SavedModel(LoadedModel):
    """A SavedModel, with its signatures as in the file."""

    functions: Mapping[str, Callable[..., dict[str, tf.Tensor]]]
    loaded: Any  # owns the variables: without this reference they are freed

    def run(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Arrays:
        """Calls a signature.

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


def load_saved_model(folder: Path) -> SavedModel:
    """Loads the SavedModel of a version.

    Raises: StatusError if it is not a SavedModel, if TensorFlow cannot load it, or if its weights depend on the request
    while oneDNN is set to keep those of the first one.
    """
    signature_defs = read_signature_defs(folder)
    try:
        assume_frozen_weights(folder)
    except SavedModelError as error:
        raise StatusError(StatusCode.FAILED_PRECONDITION, str(error)) from error
    try:
        loaded = tf.saved_model.load(os.fspath(folder))
        functions = dict(loaded.signatures)
    except Exception as error:  # the loader raises OSError, ValueError, OpError and others
        no_memory = isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError))
        raise StatusError(
            StatusCode.RESOURCE_EXHAUSTED if no_memory else StatusCode.UNKNOWN,
            f"{folder} cannot be loaded: {first_line(error, MAX_MESSAGE_CHARS)}",
        ) from error
    callable_defs = {name: definition for name, definition in signature_defs.items() if name in functions}
    return SavedModel(folder, "TF2", callable_defs, functions, loaded)


def read_signature_defs(folder: Path) -> dict[str, Any]:
    """Returns the SignatureDefs of the graph tagged `serve`, from the file: the loader drops their method names.

    Raises: StatusError, with TensorFlow's texts, if the folder is not a SavedModel with such a graph.
    """
    try:
        saved_model = saved_model_pb2.SavedModel.FromString((folder / SAVED_MODEL).read_bytes())
    except OSError as error:
        raise StatusError(
            StatusCode.NOT_FOUND, f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {folder}"
        ) from error
    except DecodeError as error:
        raise StatusError(StatusCode.DATA_LOSS, f"Can't parse {folder / SAVED_MODEL} as binary proto") from error
    for graph in saved_model.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return {name: value for name, value in graph.signature_def.items() if name not in INIT_SIGNATURES}
    raise StatusError(
        StatusCode.NOT_FOUND, f"Could not find meta graph def matching supplied tags: {{ serve }} in {folder}"
    )
