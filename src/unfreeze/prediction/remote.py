"""Models behind an address: TensorFlow Serving's REST and gRPC, and SageMaker endpoints.

A picture goes as the bytes of its file where the model takes them, and only the outputs that are needed are asked for.
"""

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from unfreeze.errors import ConfigError, MissingExtraError, RemoteError, SavedModelError, UnsupportedError
from unfreeze.images import encode_image

ADDRESSES = "http://HOST:8501/v1/models/NAME, grpc://HOST:8500/NAME or sagemaker://ENDPOINT"
TIMEOUT_S = 300.0
NEEDED = ("detection_boxes", "detection_scores", "detection_classes")
USEFUL = ("num_detections", "detection_masks", "detection_keypoints", "detection_keypoint_scores")
# Encoded pictures first: a photograph is a hundredth of its pixels as JSON.
PREFERRED = ("encoded_image_string_tensor", "serving_default", "image_tensor", "float_image_tensor")
SENT_AS_THEY_ARE = ("JPEG", "PNG", "GIF", "BMP")  # what every TensorFlow decodes
UNSUPPORTED_MEDIA_TYPE = 415
SHOWN = 300  # characters of a body that is no JSON

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class RemoteModel:
    """A model somewhere else; `ask` has every needed output for one picture, without the batch dimension.

    It takes the picture's file too, if there is one on this machine.
    """

    address: str
    ask: Callable[[Path | None, Image.Image], Outputs]


@dataclass(frozen=True)
class Signature:
    """What is asked of it: its input, how a picture is put into it, and the outputs that are asked for."""

    name: str
    input_name: str
    takes: str  # string, uint8 or float32
    size: tuple[int, int]  # (height, width) that it takes; -1: any
    outputs: tuple[str, ...]


def is_address(model: str | Path) -> bool:
    return "://" in str(model)


def connect(address: str, min_score: float = 0.0) -> RemoteModel:
    """Find the model behind an address, and how to ask it; one that leaves out weak detections is told `min_score`.

    Raises: UnsupportedError for another kind of address, RemoteError when nobody answers there, SavedModelError when
    it is no detector.
    """
    scheme = urlsplit(address).scheme
    if scheme in ("http", "https"):
        return over_rest(address)
    if scheme == "grpc":
        return over_grpc(address)
    if scheme == "sagemaker":
        return over_sagemaker(address, min_score)
    raise UnsupportedError(f"not supported yet: {address}; give a SavedModel folder, {ADDRESSES}")


def over_rest(address: str) -> RemoteModel:
    url = rest_url(address.rstrip("/"))
    metadata = rest_json(f"{url}/metadata")
    try:
        definitions = metadata["metadata"]["signature_def"]["signature_def"]
        infos = {name: rest_infos(definition) for name, definition in definitions.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(f"{url}/metadata does not answer as TensorFlow Serving does: lacks {error}") from error
    signature = chosen(infos, address)

    def ask(path: Path | None, picture: Image.Image) -> Outputs:
        value = picture_value(path, picture, signature)
        sent = [{"b64": base64.b64encode(value).decode()}] if isinstance(value, bytes) else value.tolist()
        body = {"signature_name": signature.name, "inputs": sent}
        answered = rest_json(f"{url}:predict", json.dumps(body).encode())
        outputs = answered.get("outputs") if isinstance(answered, dict) else None
        return arrays(outputs, address)

    return RemoteModel(address, ask)


def rest_url(address: str) -> str:
    """`http://HOST:8501/v1/models/NAME[/versions/V|/labels/L]`; of a lone model the name may be left out."""
    address = re.sub(r":predict$", "", address)
    if "/v1/models/" in address:
        return address
    if urlsplit(address).path not in ("", "/v1", "/v1/models"):
        raise ConfigError(f"{address} is not the address of a model; give {ADDRESSES}")
    root = re.sub(r"/v1(/models)?$", "", address)
    try:
        names = rest_json(f"{root}/v1/models").get("models", [])
    except RemoteError as error:
        raise RemoteError(f"{error}; say which model: {root}/v1/models/NAME") from error
    if len(names) != 1:
        raise ConfigError(f"{address} has the models {', '.join(names) or 'none'}: say which, {root}/v1/models/NAME")
    return f"{root}/v1/models/{names[0]}"


def rest_json(url: str, body: bytes | None = None) -> Any:
    """The JSON of an answer; an error is told in the server's words, whether or not they are JSON."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise RemoteError(f"{url} answered {error.code}: {told(error.read())}") from error
    except (OSError, ValueError) as error:  # nobody listens, a name that is no host, a body that is no JSON
        raise RemoteError(f"{url} cannot be asked: {getattr(error, 'reason', error)}") from error


def told(body: bytes) -> str:
    """The `error` of a body; older servers write JSON that is none."""
    text = body.decode("utf-8", "replace").strip()
    with suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["error"])
    return " ".join(text.split())[:SHOWN]


Info = tuple[str, tuple[int, ...]]  # dtype and shape of an input or output


def rest_infos(definition: Mapping[str, Any]) -> tuple[dict[str, Info], tuple[str, ...]]:
    inputs = {
        name: (
            info["dtype"].removeprefix("DT_").lower().replace("float", "float32"),
            tuple(int(dim["size"]) for dim in info["tensor_shape"].get("dim", [])),
        )
        for name, info in definition["inputs"].items()
    }
    return inputs, tuple(definition["outputs"])


def chosen(infos: Mapping[str, tuple[dict[str, Info], tuple[str, ...]]], address: str) -> Signature:
    """The signature to ask. Raises: SavedModelError when none takes a picture and gives detections."""
    for name in PREFERRED:
        inputs, outputs = infos.get(name, ({}, ()))
        if len(inputs) != 1 or not set(NEEDED) <= set(outputs):
            continue
        [(input_name, (dtype, shape))] = inputs.items()
        takes_pixels = dtype in ("uint8", "float32") and len(shape) == 4
        if not takes_pixels and dtype != "string":
            continue
        size = (shape[1], shape[2]) if takes_pixels else (-1, -1)
        wanted = tuple(output for output in (*NEEDED, *USEFUL) if output in outputs)
        return Signature(name, input_name, dtype, size, wanted)
    raise SavedModelError(
        f"{address} is no detector that takes pictures: it has the signatures {', '.join(sorted(infos)) or 'none'}; "
        f"one of {', '.join(PREFERRED)} must answer {', '.join(NEEDED)}"
    )


def over_grpc(address: str) -> RemoteModel:
    try:
        import grpc
        from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{address} needs {error.name}: pip install 'unfreeze[serve]'") from error
    import tensorflow as tf

    host, spec = grpc_spec(address)
    # The client's default would refuse an answer above 4 MB, which one with masks is.
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
            raise RemoteError(f"{address} answered {error.code().name}: {error.details()}") from error

    metadata = call(
        stub.GetModelMetadata, get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    )
    definitions = get_model_metadata_pb2.SignatureDefMap()
    metadata.metadata["signature_def"].Unpack(definitions)
    signature = chosen(
        {name: grpc_infos(definition) for name, definition in definitions.signature_def.items()}, address
    )

    def ask(path: Path | None, picture: Image.Image) -> Outputs:
        value = picture_value(path, picture, signature)
        request = predict_pb2.PredictRequest(output_filter=signature.outputs)
        request.model_spec.signature_name = signature.name
        sent = tf.make_tensor_proto([value]) if isinstance(value, bytes) else tf.make_tensor_proto(value)
        request.inputs[signature.input_name].CopyFrom(sent)
        response = call(stub.Predict, request)
        return {name: tf.make_ndarray(tensor)[0] for name, tensor in response.outputs.items()}

    return RemoteModel(address, ask)


def grpc_spec(address: str) -> tuple[str, dict[str, str]]:
    """`grpc://HOST:8500/NAME[/versions/V|/labels/L]` -> (host and port, parts of the model_spec)."""
    parts = urlsplit(address)
    match = re.fullmatch(r"/([^/]+)(?:/(versions)/(\d+)|/(labels)/([^/]+))?/?", parts.path)
    if not parts.netloc or match is None:
        raise ConfigError(f"{address} is not the address of a model; give grpc://HOST:8500/NAME")
    name, versions, version, labels, label = match.groups()
    return parts.netloc, {
        "name": name,
        **({versions: version} if versions else {}),
        **({labels: label} if labels else {}),
    }


def grpc_infos(definition: Any) -> tuple[dict[str, Info], tuple[str, ...]]:
    import tensorflow as tf

    inputs = {
        name: (tf.as_dtype(info.dtype).name, tuple(dim.size for dim in info.tensor_shape.dim))
        for name, info in definition.inputs.items()
    }
    return inputs, tuple(definition.outputs)


def over_sagemaker(address: str, min_score: float) -> RemoteModel:
    """`sagemaker://ENDPOINT`, in the region and with the credentials that boto3 finds."""
    try:
        import boto3
        import botocore.exceptions
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{address} needs {error.name}: pip install 'unfreeze[sagemaker]'") from error
    endpoint = urlsplit(address).netloc
    if not endpoint or urlsplit(address).path not in ("", "/"):
        raise ConfigError(f"{address} is not the address of an endpoint; give sagemaker://ENDPOINT")
    try:
        runtime = boto3.client("sagemaker-runtime")
    except botocore.exceptions.BotoCoreError as error:
        raise RemoteError(f"{address} cannot be asked: {error}") from error

    def invoke(body: bytes, content_type: str) -> Any:
        response = runtime.invoke_endpoint(
            EndpointName=endpoint,
            Body=body,
            ContentType=content_type,
            Accept="application/json",
            CustomAttributes=f"min_score={min_score}",  # for the script that `unfreeze package sagemaker` writes
        )
        return json.loads(response["Body"].read())

    def ask(path: Path | None, picture: Image.Image) -> Outputs:
        encoded = encoded_picture(path, picture)
        try:
            try:
                answered = invoke(encoded, "application/x-image")
            except botocore.exceptions.ClientError as error:
                answer = error.response
                behind = answer.get("OriginalStatusCode") or answer["ResponseMetadata"].get("HTTPStatusCode")
                if behind != UNSUPPORTED_MEDIA_TYPE:
                    raise
                # No code/inference.py there: TensorFlow Serving itself is asked, whose default takes pixels.
                answered = invoke(json.dumps({"inputs": [np.asarray(picture).tolist()]}).encode(), "application/json")
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, ValueError) as error:
            raise RemoteError(f"{address} cannot be asked: {' '.join(str(error).split())[:SHOWN]}") from error
        return endpoint_arrays(answered, address)

    return RemoteModel(address, ask)


def endpoint_arrays(answered: Any, address: str) -> Outputs:
    """What an endpoint answers to one picture: TensorFlow Serving's columns or rows, or a list of detections."""
    if isinstance(answered, dict) and "outputs" in answered:
        return arrays(answered["outputs"], address)
    rows = answered.get("predictions", answered) if isinstance(answered, dict) else answered
    row = rows[0] if isinstance(rows, list) and len(rows) == 1 and not is_detection(rows[0]) else rows
    if isinstance(row, dict) and isinstance(row.get("detections"), list):
        row = row["detections"]
    if isinstance(row, list) and all(map(is_detection, row)):
        return listed_detections(row)
    if isinstance(row, dict):
        return arrays({name: [value] for name, value in row.items()}, address)
    raise RemoteError(f"{address} does not answer with detections: {json.dumps(answered)[:SHOWN]}")


def is_detection(value: Any) -> bool:
    return isinstance(value, dict) and {"box", "score"} <= set(value)


def listed_detections(found: list[dict[str, Any]]) -> Outputs:
    """`[{"box": [ymin, xmin, ymax, xmax], "score": …, "class_id": …, "class_name": …}, …]` -> arrays."""
    return {
        "detection_boxes": np.array([one["box"] for one in found], np.float32).reshape(-1, 4),
        "detection_scores": np.array([one["score"] for one in found], np.float32),
        "detection_classes": np.array([one.get("class_id", one.get("class", 0)) for one in found], np.float32),
        "detection_class_names": np.array([str(one.get("class_name", one.get("name", ""))) for one in found], object),
    } | {
        f"detection_{name}": np.array([one[name] for one in found], np.float32)
        for name in ("masks", "keypoints", "keypoint_scores")
        if found and all(name in one for one in found)
    }


def arrays(outputs: Any, address: str) -> Outputs:
    """Columns of one picture -> arrays without the batch dimension. Raises: RemoteError when some are missing."""
    missing = [name for name in NEEDED if not isinstance(outputs, dict) or name not in outputs]
    if missing:
        raise RemoteError(f"{address} does not answer with {', '.join(missing)}")
    kept = (*NEEDED, *USEFUL, "detection_class_names")
    return {name: np.asarray(outputs[name])[0] for name in kept if name in outputs}


def picture_value(path: Path | None, picture: Image.Image, signature: Signature) -> bytes | np.ndarray:
    """What a signature takes: a file's bytes, or pixels [1, H, W, 3] of the size it wants."""
    if signature.takes == "string":
        return encoded_picture(path, picture)
    height, width = (want if want > 0 else have for want, have in zip(signature.size, picture.size[::-1], strict=True))
    fitted = picture.resize((width, height), Image.Resampling.BILINEAR) if picture.size != (width, height) else picture
    return np.asarray(fitted)[np.newaxis].astype(signature.takes)


def encoded_picture(path: Path | None, picture: Image.Image) -> bytes:
    """The file itself where every decoder sees the same in it; else the upright picture as PNG."""
    if path is None:
        return encode_image(picture, ".png")
    with Image.open(path) as opened:
        one_frame = getattr(opened, "n_frames", 1) == 1
        upright = opened.getexif().get(0x0112, 1) == 1  # TensorFlow does not turn a picture as its EXIF says
        if opened.format in SENT_AS_THEY_ARE and opened.mode in ("RGB", "L") and upright and one_frame:
            return path.read_bytes()
    return encode_image(picture, ".png")
