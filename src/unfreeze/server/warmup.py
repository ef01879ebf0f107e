"""Replays the warm-up requests of a version, so that its first user does not wait while TensorFlow warms up."""

from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from unfreeze.errors import SavedModelError
from unfreeze.server import inference
from unfreeze.server.loaded import LoadedModel
from unfreeze.server.status import StatusCode, StatusError, invalid
from unfreeze.warmup_records import WARMUP_FILE, read_warmup_records


def warm_up(model: LoadedModel) -> int:
    """Replays every record of the model's warm-up file, if it has one, and returns how many there were.

    Raises: StatusError if a record cannot be read or fails; the version then fails to load, as in TensorFlow Serving.
    Source: servables/tensorflow/saved_model_warmup_util.cc.
    """
    replayed = 0
    try:
        for number, record in read_warmup_records(model.folder):
            replay(model, record, f"{number} of {model.folder / WARMUP_FILE}")
            replayed = number
    except SavedModelError as error:
        raise StatusError(StatusCode.DATA_LOSS, str(error)) from error
    return replayed


def replay(model: LoadedModel, record: bytes, number_and_path: str) -> None:
    """Sends one logged request to the model. Raises: StatusError if it fails, or is of a kind that is not replayed."""
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
        kind = log.WhichOneof("log_type")
        if kind == "predict_log":
            inference.predict(model, log.predict_log.request)
        elif kind == "classify_log":
            inference.classify(model, log.classify_log.request)
        elif kind == "regress_log":
            inference.regress(model, log.regress_log.request)
        else:
            raise StatusError(StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
    except DecodeError as error:
        raise invalid(f"Failed to parse warmup record {number_and_path}: {error}") from error
    except StatusError as failure:
        raise StatusError(failure.code, f"Warmup record {number_and_path} failed: {failure.message}") from failure
