"""Models behind an address: TensorFlow Serving's REST and gRPC, and SageMaker endpoints.

An image is sent as the bytes of its file if the model takes them, and only the outputs that are needed are requested.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import requests
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from unfreeze.errors import ConfigError, MissingExtraError, RemoteError, SavedModelError, UnsupportedError
from unfreeze.formatting import first_line
from unfreeze.images import encode_image
from unfreeze.prediction.addresses import ADDRESSES
from unfreeze.runtimes.model import OPTIONAL_OUTPUTS, REQUIRED_OUTPUTS, Outputs

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

TIMEOUT_S = 300.0
# Encoded images first: as JSON, the pixels of a photograph are a hundred times as large as its file.
SIGNATURES = ("encoded_image_string_tensor", "serving_default", "image_tensor", "float_image_tensor")
SENT_AS_FILES = ("JPEG", "PNG", "GIF", "BMP")  # formats that every TensorFlow decodes
EXIF_ORIENTATION = 0x0112
UNSUPPORTED_MEDIA_TYPE = 415
MAX_SHOWN = 300  # characters of a response body in an error message

POOL_SIZE = 8  # connections to a server
BUSY_RETRIES = 5  # after responses 413, 429 and 503 with Retry-After
MAX_RETRY_AFTER_S = 60.0  # the longest wait, even if a server requests a longer one
DEFAULT_BACKOFF_S = 0.5  # if Retry-After cannot be parsed; doubles with each retry


@dataclass(frozen=True)
class RemoteModel:
    """A model on a server.

    `predict` takes an image, and its file if there is one on this machine; outputs have no batch dimension.
    """

    address: str
    predict: Callable[[Path | None, Image.Image], Outputs]


@dataclass(frozen=True)
class Signature:
    """The signature that is called: its input, and the outputs to request."""

    name: str
    input_name: str
    dtype: str  # string, uint8 or float32
    size: tuple[int, int]  # (height, width) that it takes; -1: any
    outputs: tuple[str, ...]


def connect(address: str, min_score: float = 0.0) -> RemoteModel:
    """Returns the model behind an address; `min_score` is sent to servers that can drop weak detections themselves.

    Raises: UnsupportedError if the address has another scheme, RemoteError if no server responds, SavedModelError if
    the model is not a detector.
    """
    scheme = urlsplit(address).scheme
    if scheme in ("http", "https"):
        return connect_rest(address)
    if scheme == "grpc":
        return connect_grpc(address)
    if scheme == "sagemaker":
        return connect_sagemaker(address, min_score)
    raise UnsupportedError(f"not supported yet: {address}. Pass a model on this machine, {ADDRESSES}.")


def connect_rest(address: str) -> RemoteModel:
    """Returns a model behind TensorFlow Serving's REST API."""
    session = http_session()
    url = model_url(session, address.rstrip("/"))
    metadata = request_json(session, f"{url}/metadata")
    try:
        definitions = metadata["metadata"]["signature_def"]["signature_def"]
        signatures = {name: parse_json_signature(definition) for name, definition in definitions.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(
            f"{url}/metadata: not a response of TensorFlow Serving: it lacks {error}. Pass {ADDRESSES}."
        ) from error
    signature = choose_signature(signatures, address)

    def predict(path: Path | None, image: Image.Image) -> Outputs:
        value = input_value(path, image, signature)
        inputs = [{"b64": base64.b64encode(value).decode()}] if isinstance(value, bytes) else value.tolist()
        response = request_json(session, f"{url}:predict", {"signature_name": signature.name, "inputs": inputs})
        return parse_columns(response.get("outputs") if isinstance(response, dict) else None, address)

    return RemoteModel(address, predict)


def model_url(session: requests.Session, address: str) -> str:
    """Returns `http://HOST:8501/v1/models/NAME[/versions/V|/labels/L]`; NAME is looked up if there is one model."""
    address = re.sub(r":predict$", "", address)
    if "/v1/models/" in address:
        return address
    if urlsplit(address).path not in ("", "/v1", "/v1/models"):
        raise ConfigError(f"{address} is not the address of a model. Pass {ADDRESSES}.")
    root = re.sub(r"/v1(/models)?$", "", address)
    try:
        names = request_json(session, f"{root}/v1/models").get("models", [])
    except RemoteError as error:
        raise RemoteError(f"{error} To name the model, pass {root}/v1/models/NAME.") from error
    if len(names) != 1:
        models = ", ".join(names) or "none"
        raise ConfigError(f"{address} has several models or none ({models}). Pass {root}/v1/models/NAME.")
    return f"{root}/v1/models/{names[0]}"


class BusyRetry(Retry):
    """Repeats a request that a busy server rejects with `Retry-After`, after that time or MAX_RETRY_AFTER_S."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Returns the seconds to wait; None if the header is missing or cannot be parsed, for the default backoff."""
        try:
            seconds = super().get_retry_after(response)
        except InvalidHeader:
            return None
        return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def http_session() -> requests.Session:
    """Returns a session that keeps connections and retries what a busy server rejects.

    Other failures are not retried: a prediction that made a server fail once would make it fail again.
    """
    retry = BusyRetry(
        total=BUSY_RETRIES, connect=0, read=0, other=0, redirect=0, backoff_factor=DEFAULT_BACKOFF_S,
        allowed_methods=None, raise_on_status=False,
    )  # fmt: skip
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=POOL_SIZE))
    return session


def request_json(session: requests.Session, url: str, body: Mapping[str, Any] | None = None) -> Any:
    """Returns the JSON of a response to GET, or to POST if there is a body.

    Raises: RemoteError with the server's own message.
    """
    try:
        response = session.request("GET" if body is None else "POST", url, json=body, timeout=TIMEOUT_S)
        if response.ok:
            return response.json()
    except (requests.RequestException, ValueError) as error:  # no server, an invalid host, a body that is not JSON
        raise RemoteError(
            f"{url}: the request failed: {first_line(error)}. Check the address and the server."
        ) from error
    raise RemoteError(f"{url}: the server responded {response.status_code}: {error_message(response.content)}")


def error_message(body: bytes) -> str:
    """Returns the `error` of a response body, or the body: older servers write JSON that is not valid."""
    text = body.decode("utf-8", "replace").strip()
    with suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"])
    return " ".join(text.split())[:MAX_SHOWN]


TensorSpec = tuple[str, tuple[int, ...]]  # dtype and shape
SignatureSpec = tuple[dict[str, TensorSpec], tuple[str, ...]]  # inputs, and the names of outputs


def parse_json_signature(definition: Mapping[str, Any]) -> SignatureSpec:
    """Returns the inputs and outputs of a SignatureDef in JSON."""
    inputs = {
        name: (
            info["dtype"].removeprefix("DT_").lower().replace("float", "float32"),
            tuple(int(dim["size"]) for dim in info["tensor_shape"].get("dim", [])),
        )
        for name, info in definition["inputs"].items()
    }
    return inputs, tuple(definition["outputs"])


def choose_signature(signatures: Mapping[str, SignatureSpec], address: str) -> Signature:
    """Returns the signature to call. Raises: SavedModelError if none takes images and returns detections."""
    for name in SIGNATURES:
        inputs, outputs = signatures.get(name, ({}, ()))
        if len(inputs) != 1 or not set(REQUIRED_OUTPUTS) <= set(outputs):
            continue
        [(input_name, (dtype, shape))] = inputs.items()
        takes_pixels = dtype in ("uint8", "float32") and len(shape) == 4
        if not takes_pixels and dtype != "string":
            continue
        size = (shape[1], shape[2]) if takes_pixels else (-1, -1)
        wanted = tuple(output for output in (*REQUIRED_OUTPUTS, *OPTIONAL_OUTPUTS) if output in outputs)
        return Signature(name, input_name, dtype, size, wanted)
    raise SavedModelError(
        f"{address} is not a detector that takes images: it has the signatures "
        f"{', '.join(sorted(signatures)) or 'none'}; one of {', '.join(SIGNATURES)} must return "
        f"{', '.join(REQUIRED_OUTPUTS)}"
    )


def connect_grpc(address: str) -> RemoteModel:
    """Returns a model behind TensorFlow Serving's gRPC API."""
    try:
        import grpc
        from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{address} needs {error.name}: pip install 'unfreeze[serve]'") from error
    import tensorflow as tf

    host, spec = parse_grpc_address(address)
    # The client's default would reject a response above 4 MB, which one with masks can be.
    channel = grpc.insecure_channel(
        host, [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    )
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def call(method: Any, request: Any) -> Any:
        request.model_spec.name = spec["name"]
        if spec.get("versions"):
            request.model_spec.version.value = int(spec["versions"])
        if spec.get("labels"):
            request.model_spec.version_label = spec["labels"]
        try:
            return method(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise RemoteError(f"{address}: the server responded {error.code().name}: {error.details()}") from error

    metadata = call(
        stub.GetModelMetadata, get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    )
    definitions = get_model_metadata_pb2.SignatureDefMap()
    metadata.metadata["signature_def"].Unpack(definitions)
    signature = choose_signature(
        {name: parse_proto_signature(definition) for name, definition in definitions.signature_def.items()}, address
    )

    def predict(path: Path | None, image: Image.Image) -> Outputs:
        value = input_value(path, image, signature)
        request = predict_pb2.PredictRequest(output_filter=signature.outputs)
        request.model_spec.signature_name = signature.name
        tensor = tf.make_tensor_proto([value]) if isinstance(value, bytes) else tf.make_tensor_proto(value)
        request.inputs[signature.input_name].CopyFrom(tensor)
        response = call(stub.Predict, request)
        return {name: tf.make_ndarray(tensor)[0] for name, tensor in response.outputs.items()}

    return RemoteModel(address, predict)


def parse_grpc_address(address: str) -> tuple[str, dict[str, str]]:
    """Returns the host with its port, and the model_spec, of `grpc://HOST:8500/NAME[/versions/V|/labels/L]`."""
    parts = urlsplit(address)
    match = re.fullmatch(r"/([^/]+)(?:/(versions)/(\d+)|/(labels)/([^/]+))?/?", parts.path)
    if not parts.netloc or match is None:
        raise ConfigError(f"{address} is not the address of a model. Pass grpc://HOST:8500/NAME.")
    name, versions, version, labels, label = match.groups()
    return parts.netloc, {
        "name": name,
        **({versions: version} if versions else {}),
        **({labels: label} if labels else {}),
    }


def parse_proto_signature(definition: Any) -> SignatureSpec:
    """Returns the inputs and outputs of a SignatureDef."""
    import tensorflow as tf

    inputs = {
        name: (tf.as_dtype(info.dtype).name, tuple(dim.size for dim in info.tensor_shape.dim))
        for name, info in definition.inputs.items()
    }
    return inputs, tuple(definition.outputs)


def connect_sagemaker(address: str, min_score: float) -> RemoteModel:
    """Returns a model behind `sagemaker://ENDPOINT`, in the region and with the credentials that boto3 finds."""
    try:
        import boto3
        import botocore.exceptions
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{address} needs {error.name}: pip install 'unfreeze[sagemaker]'") from error
    endpoint = urlsplit(address).netloc
    if not endpoint or urlsplit(address).path not in ("", "/"):
        raise ConfigError(f"{address} is not the address of an endpoint. Pass sagemaker://ENDPOINT.")
    try:
        runtime = boto3.client("sagemaker-runtime")
    except botocore.exceptions.BotoCoreError as error:
        raise RemoteError(f"{address}: the request failed: {first_line(error)}") from error

    def invoke(body: bytes, content_type: str) -> Any:
        response = runtime.invoke_endpoint(
            EndpointName=endpoint,
            Body=body,
            ContentType=content_type,
            Accept="application/json",
            CustomAttributes=f"min_score={min_score}",  # for the script that `unfreeze package sagemaker` writes
        )
        return json.loads(response["Body"].read())

    def predict(path: Path | None, image: Image.Image) -> Outputs:
        try:
            try:
                response = invoke(encoded_image(path, image), "application/x-image")
            except botocore.exceptions.ClientError as error:
                status = error.response.get("OriginalStatusCode")
                if (status or error.response["ResponseMetadata"].get("HTTPStatusCode")) != UNSUPPORTED_MEDIA_TYPE:
                    raise
                # Without code/inference.py TensorFlow Serving gets the request; its default signature takes pixels.
                response = invoke(json.dumps({"inputs": [np.asarray(image).tolist()]}).encode(), "application/json")
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, ValueError) as error:
            raise RemoteError(f"{address}: the request failed: {first_line(error)}") from error
        return parse_endpoint_response(response, address)

    return RemoteModel(address, predict)


def parse_endpoint_response(response: Any, address: str) -> Outputs:
    """Returns the outputs for one image from TensorFlow Serving's columns or rows, or from a list of detections."""
    if isinstance(response, dict) and "outputs" in response:
        return parse_columns(response["outputs"], address)
    rows = response.get("predictions", response) if isinstance(response, dict) else response
    row = rows[0] if isinstance(rows, list) and len(rows) == 1 and not is_detection(rows[0]) else rows
    if isinstance(row, dict) and isinstance(row.get("detections"), list):
        row = row["detections"]
    if isinstance(row, list) and all(map(is_detection, row)):
        return parse_detection_list(row)
    if isinstance(row, dict):
        return parse_columns({name: [value] for name, value in row.items()}, address)
    raise RemoteError(
        f"{address}: the response has no detections: {json.dumps(response)[:MAX_SHOWN]}. Serve a detector."
    )


def is_detection(value: Any) -> bool:
    """Returns whether a JSON value is a detection with a box and a score."""
    return isinstance(value, dict) and {"box", "score"} <= set(value)


def parse_detection_list(detections: list[dict[str, Any]]) -> Outputs:
    """Returns `[{"box": [ymin, xmin, ymax, xmax], "score": …, "class_id": …, "class_name": …}, …]` as arrays."""
    class_ids = [detection.get("class_id", detection.get("class", 0)) for detection in detections]
    names = [str(detection.get("class_name", detection.get("name", ""))) for detection in detections]
    outputs = {
        "detection_boxes": np.array([detection["box"] for detection in detections], np.float32).reshape(-1, 4),
        "detection_scores": np.array([detection["score"] for detection in detections], np.float32),
        "detection_classes": np.array(class_ids, np.float32),
        "detection_class_names": np.array(names, object),
    }
    for name in ("masks", "keypoints", "keypoint_scores"):
        if detections and all(name in detection for detection in detections):
            outputs[f"detection_{name}"] = np.array([detection[name] for detection in detections], np.float32)
    return outputs


def parse_columns(outputs: Any, address: str) -> Outputs:
    """Returns the outputs of one image without the batch dimension. Raises: RemoteError if an output is missing."""
    missing = [name for name in REQUIRED_OUTPUTS if not isinstance(outputs, dict) or name not in outputs]
    if missing:
        raise RemoteError(
            f"{address}: the response lacks {', '.join(missing)}. Serve a model that returns these outputs."
        )
    names = (*REQUIRED_OUTPUTS, *OPTIONAL_OUTPUTS, "detection_class_names")
    return {name: np.asarray(outputs[name])[0] for name in names if name in outputs}


def input_value(path: Path | None, image: Image.Image, signature: Signature) -> bytes | np.ndarray:
    """Returns an image as a signature takes it: a file's bytes, or pixels `[1, H, W, 3]` of the size it takes."""
    if signature.dtype == "string":
        return encoded_image(path, image)
    height, width = signature.size
    size = (width if width > 0 else image.width, height if height > 0 else image.height)
    resized = image.resize(size, Image.Resampling.BILINEAR) if image.size != size else image
    return np.asarray(resized)[np.newaxis].astype(signature.dtype)


def encoded_image(path: Path | None, image: Image.Image) -> bytes:
    """Returns the file itself if every decoder reads the same image from it; else the upright image as PNG."""
    if path is None:
        return encode_image(image, ".png")
    with Image.open(path) as opened:
        is_one_frame = getattr(opened, "n_frames", 1) == 1
        is_upright = opened.getexif().get(EXIF_ORIENTATION, 1) == 1  # TensorFlow ignores EXIF
        if opened.format in SENT_AS_FILES and opened.mode in ("RGB", "L") and is_upright and is_one_frame:
            return path.read_bytes()
    return encode_image(image, ".png")
