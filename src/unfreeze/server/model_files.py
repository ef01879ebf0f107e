"""Files of ONNX, OpenVINO and TFLite of the server, which their own runtimes run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from unfreeze.errors import MissingExtraError, SavedModelError
from unfreeze.formatting import first_line
from unfreeze.runtimes import ModelFile, load_file
from unfreeze.runtimes.loaded_file import LoadedFile, TensorSpec
from unfreeze.server.loaded import DEFAULT_SIGNATURE, MAX_MESSAGE_CHARS, Arrays, LoadedModel
from unfreeze.server.status import StatusCode, StatusError, invalid

PREDICT = "tensorflow/serving/predict"


@dataclass(frozen=True)
class ServedFile(LoadedModel):
    """A model file, with its inputs and outputs as the one signature `serving_default`."""

    file: LoadedFile

    def run(self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Arrays:
        """Calls the model.

        Raises: StatusError INVALID_ARGUMENT for an input without values, which not every runtime checks, and UNKNOWN
        with the runtime's message if it fails.
        """
        for name, value in inputs.items():
            if value.size == 0:
                raise invalid(f"input {name} has no values (shape: {list(value.shape)})")
        try:
            arrays = self.file.call(inputs)
        except Exception as error:  # each runtime has its own errors
            message = f"{self.runtime}: {first_line(error, MAX_MESSAGE_CHARS)}"
            raise StatusError(StatusCode.UNKNOWN, message) from error
        return {name: arrays[name] for name in (outputs or arrays)}


def load_model_file(folder: Path, model: ModelFile) -> ServedFile:
    """Loads the file of a version.

    Raises: StatusError UNKNOWN if its runtime cannot load it, FAILED_PRECONDITION if that runtime is not installed.
    """
    try:
        file = load_file(model)
        definition = signature_def(file)
    except MissingExtraError as error:
        raise StatusError(StatusCode.FAILED_PRECONDITION, str(error)) from error
    except SavedModelError as error:
        raise StatusError(StatusCode.UNKNOWN, str(error)) from error
    return ServedFile(folder, model.runtime.library, {DEFAULT_SIGNATURE: definition}, file)


def signature_def(file: LoadedFile) -> Any:
    """Returns the inputs and outputs of a file as a SignatureDef."""
    return meta_graph_pb2.SignatureDef(
        inputs={spec.name: tensor_info(spec) for spec in file.inputs},
        outputs={spec.name: tensor_info(spec) for spec in file.outputs},
        method_name=PREDICT,
    )


def tensor_info(spec: TensorSpec) -> Any:
    """Returns the name, dtype and shape of an input or output as a TensorInfo."""
    shape = tensor_shape_pb2.TensorShapeProto(unknown_rank=spec.shape is None)
    for size in spec.shape or ():
        shape.dim.add(size=-1 if size is None else size)
    dtype = tf.as_dtype(spec.dtype).as_datatype_enum
    return meta_graph_pb2.TensorInfo(name=spec.name, dtype=dtype, tensor_shape=shape)
