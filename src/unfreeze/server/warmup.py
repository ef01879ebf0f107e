"""Replays the requests that a version carries along, so that the first user does not wait for TensorFlow to warm up."""

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from unfreeze.server import inference
from unfreeze.server.failures import Code, Failure
from unfreeze.server.loaded import LoadedModel

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS = 1000


def warm_up(model: LoadedModel) -> int:
    """Replay every record of the warm-up file -> how many there were; none is no error.

    Raises: Failure when a record cannot be read or fails, with which the version fails to load.
    Source: servables/tensorflow/saved_model_warmup_util.cc.
    """
    path = model.folder / WARMUP_FILE
    if not path.exists():
        return 0
    number = 0
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), start=1):
            if number > MAX_RECORDS:
                raise Failure(
                    Code.INVALID_ARGUMENT, f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                )
            replay(model, prediction_log_pb2.PredictionLog.FromString(record))
    except DecodeError as error:
        raise Failure(Code.INVALID_ARGUMENT, f"Failed to parse warmup record {number} of {path}: {error}") from error
    except tf.errors.OpError as error:
        raise Failure(Code.DATA_LOSS, f"{path} cannot be read after record {number}: {error.message}") from error
    except Failure as failure:
        raise Failure(failure.code, f"Warmup record {number} of {path} failed: {failure.message}") from failure
    return number


def replay(model: LoadedModel, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        inference.predict(model, log.predict_log.request)
    elif kind == "classify_log":
        inference.classify(model, log.classify_log.request)
    elif kind == "regress_log":
        inference.regress(model, log.regress_log.request)
    else:
        raise Failure(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
