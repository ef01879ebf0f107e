"""The warm-up that TensorFlow Serving replays when it loads a version: PredictionLog records in a TFRecord file.

Source: apis/prediction_log.proto, apis/predict.proto and servables/tensorflow/saved_model_warmup_util.cc of
tensorflow/serving. A record that fails there makes the version fail to load, so each is replayed before publishing.
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

from unfreeze.errors import SavedModelError, UnsupportedError
from unfreeze.protobuf_pool import MessagePool, MessageTable, pool_of_table
from unfreeze.warmup_records import WARMUP_FILE, read_warmup_records

PICTURE = (480, 640)  # what a camera gives; a uniform picture takes a few bytes, whatever its size
GRAY = 127
_LOGS = ("classify_log", "regress_log", "multi_inference_log", "session_run_log", "predict_streamed_log")
# What is written and read here; a tensor stays bytes, which on the wire is the same.
MESSAGES: MessageTable = {
    "ModelSpec": [("signature_name", 3, "string")],
    "PredictRequest": [("model_spec", 1, "ModelSpec"), ("inputs", 2, "map<string, bytes>")],
    "PredictLog": [("request", 1, "PredictRequest")],
    "OtherLog": [],
    "PredictionLog": [
        ("predict_log", 6, "PredictLog"),
        *((name, number, "OtherLog") for name, number in zip(_LOGS, (2, 3, 4, 5, 7), strict=True)),
    ],
}


@dataclass(frozen=True)
class Request:
    """One request of the warm-up: the signature, and what goes into it."""

    signature: str
    inputs: Mapping[str, tf.Tensor]


def write_warmup(saved_model: Path, input_types: Mapping[str, str], input_name: str) -> None:
    """Writes a request of one picture for each signature: {signature: its input type}.

    `input_name` is the input that takes the picture; whatever else a signature takes is given zeros.
    """
    signatures = _signatures(saved_model)
    file = saved_model / WARMUP_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for name, input_type in input_types.items():
            inputs = signatures[name].inputs
            given = {
                key: _picture(input_type, info) if key == input_name else _zeros(info) for key, info in inputs.items()
            }
            writer.write(_record(name, given))


def read_warmup(saved_model: Path) -> list[Request]:
    """The requests of a SavedModel, none where it has no warm-up.

    Raises: SavedModelError where TensorFlow Serving would not load the version because of them.
    """
    file = saved_model / WARMUP_FILE
    return [_request(record, f"{file}, record {number}") for number, record in read_warmup_records(saved_model)]


def replay(saved_model: Path, requests: Sequence[Request]) -> list[dict[str, tf.Tensor]]:
    """What a SavedModel answers to each request.

    Raises: SavedModelError when it fails on one.
    """
    if not requests:
        return []
    model = tf.saved_model.load(str(saved_model))  # held, since tables of a model go with it
    signatures = model.signatures
    answers = []
    for number, request in enumerate(requests, start=1):
        where = f"{saved_model / WARMUP_FILE}, record {number} ({request.signature})"
        if request.signature not in signatures:
            raise SavedModelError(f"{where}: no such signature; there is {', '.join(signatures)}")
        try:
            answers.append(signatures[request.signature](**request.inputs))
        except (tf.errors.OpError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise SavedModelError(f"{where} fails: {reason}; TensorFlow Serving would not load this version") from None
    return answers


def _request(record: bytes, where: str) -> Request:
    message = _message()
    try:
        message.ParseFromString(record)
        other = next((name for name in _LOGS if message.HasField(name)), None)
        if other is not None:
            raise UnsupportedError(f"not supported yet: {where}: a {other}; only predict_log is replayed")
        request = message.predict_log.request
        inputs = {
            key: tf.constant(tf.make_ndarray(tensor_pb2.TensorProto.FromString(tensor)))
            for key, tensor in request.inputs.items()
        }
    except (DecodeError, TypeError, ValueError) as error:
        raise SavedModelError(f"{where}: not a PredictionLog: {error}") from None
    if not inputs:
        raise SavedModelError(f"{where}: a request without inputs")
    return Request(request.model_spec.signature_name or "serving_default", inputs)


def _record(signature: str, inputs: Mapping[str, tensor_pb2.TensorProto]) -> bytes:
    message = _message()
    request = message.predict_log.request
    request.model_spec.signature_name = signature
    for key, tensor in inputs.items():
        request.inputs[key] = tensor.SerializeToString()
    return message.SerializeToString(deterministic=True)


def _picture(input_type: str, info: Any) -> tensor_pb2.TensorProto:
    """A gray picture as the signature takes it; one value stands for all its pixels."""
    sizes = [dim.size for dim in info.tensor_shape.dim]
    dtype = tf.as_dtype(info.dtype)
    if dtype == tf.string:
        return tf.make_tensor_proto([_encoded(input_type)] * max(sizes[0], 1), dtype)
    shape = [size if size > 0 else default for size, default in zip(sizes, (1, *PICTURE, 3), strict=True)]
    proto = tensor_pb2.TensorProto(dtype=info.dtype, tensor_shape=tf.TensorShape(shape).as_proto())
    (proto.int_val if dtype == tf.uint8 else proto.float_val).append(GRAY)
    return proto


def _zeros(info: Any) -> tensor_pb2.TensorProto:
    """What a side input takes: the smallest tensor of its shape; one value stands for all."""
    shape = [max(dim.size, 1) for dim in info.tensor_shape.dim]
    dtype = tf.as_dtype(info.dtype)
    return tf.make_tensor_proto(b"" if dtype == tf.string else 0, dtype, shape)


def _encoded(input_type: str) -> bytes:
    png = tf.io.encode_png(tf.fill([*PICTURE, 3], tf.constant(GRAY, tf.uint8))).numpy()
    if input_type != "tf_example":
        return png
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    return tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature})).SerializeToString(
        deterministic=True
    )


def _signatures(saved_model: Path) -> Mapping[str, Any]:
    message = saved_model_pb2.SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    return message.meta_graphs[0].signature_def


def _message() -> Any:
    return _messages().message_class("PredictionLog")()


@cache
def _messages() -> MessagePool:
    return pool_of_table("unfreeze.serving", MESSAGES)
