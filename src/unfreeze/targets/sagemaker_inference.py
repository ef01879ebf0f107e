"""Returns detections for images: SageMaker's TensorFlow Serving container runs this script as code/inference.py.

It accepts application/x-image (a JPEG, PNG, GIF or BMP file), application/json and application/jsonlines, and returns
the detections that score at least `min_score`, with class names.

JSON: {"instances": [{"b64": "..."}, ...]} or {"b64": "..."}. Pixels, as nested lists [[[r, g, b], ...], ...], may be
used instead of {"b64": ...}. JSON lines: one image in each line.

It uses the standard library and requests only, since the container has neither TensorFlow nor Pillow, and it runs with
Python 3.6, which old containers have. model.json beside it describes the model.
"""

import base64
import binascii
import json
import os
from typing import Any

import requests

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.json"), encoding="utf-8") as _file:
    MODEL = json.load(_file)

JSON, JSON_LINES = "application/json", "application/jsonlines"
IMAGE_TYPES = ("application/x-image", "image/jpeg", "image/png", "application/octet-stream")
JSON_LINES_TYPES = (JSON_LINES, "application/jsons")
TIMEOUT_S = 60  # SageMaker waits no longer


def handler(data: Any, context: Any) -> "tuple[str, str]":
    """Sends a request to TensorFlow Serving, and returns the response and its content type."""
    request = input_handler(data, context)
    timeout = getattr(context, "timeout", None) or TIMEOUT_S
    return output_handler(requests.post(context.rest_uri, data=request, timeout=timeout), context)


def input_handler(data: Any, context: Any) -> str:
    """Returns the body of the request to TensorFlow Serving.

    Raises: ValueError with an HTTP status and a message if the request is not valid.
    """
    body = data.read() if hasattr(data, "read") else data
    if isinstance(body, str):
        body = body.encode("utf-8")
    content_type = _content_type(context)
    if not body:
        raise ValueError("400: the body is empty; send an image")
    if content_type in IMAGE_TYPES:
        return _predict_request([{"b64": base64.b64encode(body).decode("ascii")}])
    if content_type in JSON_LINES_TYPES:
        lines = [line for line in _decode(body).splitlines() if line.strip()]
        return _predict_request(
            [_instance(_parse_json(line, f"line {number}")) for number, line in enumerate(lines, start=1)]
        )
    if content_type == JSON:
        return _predict_request(_instances(_parse_json(_decode(body), "the body")))
    raise ValueError(f"415: Unsupported Media Type: {content_type}; send {IMAGE_TYPES[0]}, {JSON} or {JSON_LINES}")


def output_handler(response: Any, context: Any) -> "tuple[str, str]":
    """Returns the detections in a response of TensorFlow Serving, and their content type.

    Raises: ValueError with TensorFlow Serving's status and message if it returned an error.
    """
    if response.status_code != 200:
        raise ValueError(f"{response.status_code}: {_error_message(response)}")
    min_score = _min_score(context)
    predictions = [{"detections": _detections(outputs, min_score)} for outputs in response.json()["predictions"]]
    content_type = _content_type(context)
    if content_type in JSON_LINES_TYPES:
        return "".join(json.dumps(prediction) + "\n" for prediction in predictions), JSON_LINES
    return json.dumps({"predictions": predictions} if content_type == JSON else predictions[0]), JSON


def _predict_request(instances: "list[Any]") -> str:
    """Returns a request to the signature that takes the instances: encoded images or pixels."""
    are_encoded = [isinstance(instance, dict) for instance in instances]
    if not instances or len(set(are_encoded)) != 1:
        raise ValueError('400: send at least one image; all as {"b64": "..."} or all as pixels')
    signature = MODEL["encoded_signature"] if are_encoded[0] else MODEL["pixel_signature"]
    if signature is None:
        raise ValueError(f"400: this model does not accept {'encoded images' if are_encoded[0] else 'pixels'}")
    return json.dumps({"signature_name": signature, "instances": instances})


def _instances(document: Any) -> "list[Any]":
    """Returns the images of a JSON body, in any of the forms that TensorFlow Serving and SageMaker know."""
    if not isinstance(document, dict):
        return [_instance(document)]
    rows = document.get("instances", document.get("inputs"))
    if rows is None:
        return [_instance(document)]
    if isinstance(rows, dict) and "b64" not in rows:  # {"inputs": {"inputs": [...]}}: by the name of the input
        rows = next(iter(rows.values()), [])
    if isinstance(rows, dict):
        return [_instance(rows)]
    if not isinstance(rows, list):
        raise ValueError('400: "instances" is not a list of images')
    return [_instance(row) for row in rows]


def _instance(row: Any) -> Any:
    """Returns one image: {"b64": ...}, which may be below the name of the input, or nested lists of numbers."""
    if isinstance(row, dict) and "b64" not in row and len(row) == 1:
        row = next(iter(row.values()))
    if isinstance(row, dict):
        encoded = row.get("b64")  # type: Any
        try:
            base64.b64decode(encoded, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError('400: "b64" is not base64 of the standard alphabet') from None
        return {"b64": encoded}
    if isinstance(row, list) and row and isinstance(row[0], list):
        return row
    raise ValueError('400: an image is {"b64": "..."} or a nested list [height][width][3] of 0 to 255')


def _detections(outputs: "dict[str, Any]", min_score: float) -> "list[dict[str, Any]]":
    """Returns the detections of one image with at least this score; boxes are (ymin, xmin, ymax, xmax), from 0 to 1."""
    scores = outputs["detection_scores"]
    count = int(outputs.get("num_detections", len(scores)))
    detections = []
    for row in range(min(count, len(scores))):
        if not scores[row] >= min_score:
            continue
        class_id = int(outputs["detection_classes"][row])
        detection = {
            "box": outputs["detection_boxes"][row],
            "class_id": class_id,
            "class_name": MODEL["labels"].get(str(class_id), str(class_id)),
            "score": scores[row],
        }
        for name in ("detection_keypoints", "detection_keypoint_scores", "detection_masks"):
            if name in outputs:
                detection[name.replace("detection_", "")] = outputs[name][row]
        detections.append(detection)
    return detections


def _min_score(context: Any) -> float:
    """Returns the threshold of a request (X-Amzn-SageMaker-Custom-Attributes: min_score=0.3), else of the package."""
    for attribute in (getattr(context, "custom_attributes", None) or "").split(","):
        name, _, value = attribute.partition("=")
        if name.strip() == "min_score":
            try:
                return float(value)
            except ValueError:
                raise ValueError(f"400: min_score={value} is not a number") from None
    return float(MODEL["min_score"])


def _content_type(context: Any) -> str:
    content_type = getattr(context, "request_content_type", None) or JSON
    return str(content_type).split(";")[0].strip().lower()


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"400: the body is not UTF-8 text; send an image file as {IMAGE_TYPES[0]}") from None


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"400: {where} is not JSON: {error}") from None


def _error_message(response: Any) -> str:
    """Returns the error in a response; old versions of TensorFlow Serving write it as invalid JSON."""
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return str(getattr(response, "text", ""))[:1000]
