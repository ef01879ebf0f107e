"""Writes and replays warm-up requests: PredictionLog records, which TensorFlow Serving runs when it loads a version.

A record that fails there makes the version fail to load, so each is replayed before a version is published.
Source: apis/prediction_log.proto, apis/predict.proto and servables/tensorflow/saved_model_warmup_util.cc of
tensorflow/serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import SavedModelError, UnsupportedError
from unfreeze.formatting import first_line
from unfreeze.protobuf_pool import MessagePool, MessageTable, pool_of_table
from unfreeze.targets.serving_responses import ResponseBytes, batch_findings, response_bytes, size_findings
from unfreeze.warmup_records import WARMUP_FILE, read_warmup_records

IMAGE_SIZE = (480, 640)  # a usual size; an image of one color takes a few bytes, whatever its size
GRAY = 127
ADVICE = "Export the model again, or remove the file."
_UNSUPPORTED_LOGS = ("classify_log", "regress_log", "multi_inference_log", "session_run_log", "predict_streamed_log")
# The part of the schema that is written and read here. A tensor is bytes, which is the same on the wire.
MESSAGES: MessageTable = {
    "ModelSpec": [("signature_name", 3, "string")],
    "PredictRequest": [("model_spec", 1, "ModelSpec"), ("inputs", 2, "map<string, bytes>")],
    "PredictLog": [("request", 1, "PredictRequest")],
    "OtherLog": [],
    "PredictionLog": [
        ("predict_log", 6, "PredictLog"),
        *((name, number, "OtherLog") for name, number in zip(_UNSUPPORTED_LOGS, (2, 3, 4, 5, 7), strict=True)),
    ],
}


@dataclass(frozen=True)
class WarmupRequest:
    """A request that a server runs when it loads a version: a signature and its inputs."""

    signature: str
    inputs: Mapping[str, tf.Tensor]

    @property
    def images(self) -> int:
        """The number of images in the request: the largest first dimension of its inputs."""
        return max(tensor.shape[0] if tensor.shape.rank else 1 for tensor in self.inputs.values())


def write_warmup(saved_model: Path, input_types: Mapping[str, str], input_name: str) -> None:
    """Writes a request with one image for each signature.

    Args:
        saved_model: the folder with saved_model.pb.
        input_types: the input type of each signature.
        input_name: the input that takes the image; other inputs get zeros.
    """
    signatures = _signatures(saved_model)
    file = saved_model / WARMUP_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, input_type in input_types.items():
            inputs = {
                key: _gray_image(input_type, info) if key == input_name else _zeros(info)
                for key, info in signatures[signature].inputs.items()
            }
            writer.write(_to_record(signature, inputs))


def check_warmup(saved_model: Path, on_warning: OnMessage = ignore) -> ResponseBytes | None:
    """Replays the warm-up requests of a SavedModel, and returns the size of the response to the first one.

    What servers and clients reject in the responses is reported as a warning, and so is a missing warm-up file.

    Raises: SavedModelError if TensorFlow Serving would not load the version because of its warm-up requests.
    """
    requests = read_warmup(saved_model)
    if not requests:
        on_warning(f"{saved_model.name} has no {WARMUP_FILE.as_posix()}, so the first request to a server will be slow")
        return None
    responses = replay(saved_model, requests)
    for request, outputs in zip(requests, responses, strict=True):
        for finding in batch_findings(outputs, request.signature, request.images):
            on_warning(finding)
    size = response_bytes(responses[0])
    for finding in size_findings(size):
        on_warning(finding)
    return size


def read_warmup(saved_model: Path) -> list[WarmupRequest]:
    """Returns the warm-up requests of a SavedModel; none if it has no warm-up file.

    Raises: SavedModelError if TensorFlow Serving would not load the version because of them.
    """
    file = saved_model / WARMUP_FILE
    return [_to_request(record, f"{file}, record {number}") for number, record in read_warmup_records(saved_model)]


def replay(saved_model: Path, requests: Sequence[WarmupRequest]) -> list[dict[str, tf.Tensor]]:
    """Returns the outputs of a SavedModel for each request.

    Raises: SavedModelError if a request fails.
    """
    model = tf.saved_model.load(str(saved_model))  # the signatures need it: its tables are deleted with it
    signatures = model.signatures
    responses = []
    for number, request in enumerate(requests, start=1):
        where = f"{saved_model / WARMUP_FILE}, record {number} ({request.signature})"
        if request.signature not in signatures:
            raise SavedModelError(
                f"{where}: no such signature (existing signatures: {', '.join(signatures)}). {ADVICE}"
            )
        try:
            responses.append(signatures[request.signature](**request.inputs))
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise SavedModelError(
                f"{where}: the request fails ({first_line(error)}), so TensorFlow Serving would not load this version. "
                f"{ADVICE}"
            ) from None
    return responses


def _to_request(record: bytes, where: str) -> WarmupRequest:
    message = _new_message()
    try:
        message.ParseFromString(record)
        log = next((name for name in _UNSUPPORTED_LOGS if message.HasField(name)), None)
        if log is not None:
            raise UnsupportedError(f"not supported: {where} is a {log}. Use predict_log records only.")
        request = message.predict_log.request
        inputs = {
            key: tf.constant(tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor)))
            for key, tensor in request.inputs.items()
        }
    except (DecodeError, TypeError, ValueError) as error:
        raise SavedModelError(f"{where}: is not a PredictionLog ({first_line(error)}). {ADVICE}") from None
    if not inputs:
        raise SavedModelError(f"{where}: the request has no inputs. {ADVICE}")
    return WarmupRequest(request.model_spec.signature_name or "serving_default", inputs)


def _to_record(signature: str, inputs: Mapping[str, tensor_pb2.TensorProto]) -> bytes:
    message = _new_message()
    request = message.predict_log.request
    request.model_spec.signature_name = signature
    for key, tensor in inputs.items():
        request.inputs[key] = tensor.SerializeToString()
    record: bytes = message.SerializeToString(deterministic=True)
    return record


def _gray_image(input_type: str, info: Any) -> tensor_pb2.TensorProto:
    """Returns a gray image as the signature takes it; one value stands for all its pixels."""
    sizes = [dim.size for dim in info.tensor_shape.dim]
    dtype = tf.as_dtype(info.dtype)
    if dtype == tf.string:
        return tf.make_tensor_proto([_encoded_image(input_type)] * max(sizes[0], 1), dtype)
    shape = [size if size > 0 else default for size, default in zip(sizes, (1, *IMAGE_SIZE, 3), strict=True)]
    proto = tensor_pb2.TensorProto(dtype=info.dtype, tensor_shape=tf.TensorShape(shape).as_proto())
    (proto.int_val if dtype == tf.uint8 else proto.float_val).append(GRAY)
    return proto


def _zeros(info: Any) -> tensor_pb2.TensorProto:
    """Returns the smallest tensor that an input takes; one zero stands for all its values."""
    shape = [max(dim.size, 1) for dim in info.tensor_shape.dim]
    dtype = tf.as_dtype(info.dtype)
    return tf.make_tensor_proto(b"" if dtype == tf.string else 0, dtype, shape)


def _encoded_image(input_type: str) -> bytes:
    png: bytes = tf.io.encode_png(tf.fill([*IMAGE_SIZE, 3], tf.constant(GRAY, tf.uint8))).numpy()
    if input_type != "tf_example":
        return png
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    serialized: bytes = example.SerializeToString(deterministic=True)
    return serialized


def _signatures(saved_model: Path) -> Mapping[str, Any]:
    message = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    signatures: Mapping[str, Any] = message.meta_graphs[0].signature_def
    return signatures


def _new_message() -> Any:
    return _messages().message_class("PredictionLog")()


@cache
def _messages() -> MessagePool:
    return pool_of_table("unfreeze.serving", MESSAGES)
