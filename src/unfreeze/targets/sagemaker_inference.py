"""Pictures in, detections out: the script that SageMaker's TensorFlow Serving container runs, as code/inference.py.

It takes application/x-image (a JPEG, PNG, GIF or BMP file), application/json and application/jsonlines, and gives what
scores at least `min_score`, with class names. Standard library and requests only: the container has no TensorFlow and
no Pillow. Old containers have Python 3.6. What it knows of the model stands in model.json beside it.

JSON: {"instances": [{"b64": "..."}, ...]} or {"b64": "..."}. Pixels, as nested lists [[[r, g, b], ...], ...], may
stand in place of {"b64": ...}. JSON lines: one picture a line.
"""

import base64
import binascii
import json
import os
from typing import Any

import requests

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.json"), encoding="utf-8") as _file:
    MODEL = json.load(_file)

IMAGE, JSON, JSON_LINES = "application/x-image", "application/json", "application/jsonlines"
TIMEOUT_S = 60  # what SageMaker waits


def handler(data: Any, context: Any) -> tuple:
    """One request: to TensorFlow Serving's form, to TensorFlow Serving, and back. Whatever is raised is told."""
    request = input_handler(data, context)
    timeout = getattr(context, "timeout", None) or TIMEOUT_S
    return output_handler(requests.post(context.rest_uri, data=request, timeout=timeout), context)


def input_handler(data: Any, context: Any) -> str:
    """The body of a request to TensorFlow Serving."""
    body = data.read() if hasattr(data, "read") else data
    if isinstance(body, str):
        body = body.encode("utf-8")
    content_type = _content_type(context)
    if not body:
        raise ValueError("400: empty body: send a picture")
    if content_type == IMAGE or content_type in ("image/jpeg", "image/png", "application/octet-stream"):
        return _request([{"b64": base64.b64encode(body).decode("ascii")}])
    if content_type in (JSON_LINES, "application/jsons"):
        lines = [line for line in _text(body).splitlines() if line.strip()]
        return _request([_instance(_parsed(line, f"line {number}")) for number, line in enumerate(lines, start=1)])
    if content_type == JSON:
        return _request(_instances(_parsed(_text(body), "the body")))
    raise ValueError(f"415: Unsupported Media Type: {content_type}; send {IMAGE}, {JSON} or {JSON_LINES}")


def output_handler(response: Any, context: Any) -> tuple:
    """The detections of an answer of TensorFlow Serving, and their content type."""
    if response.status_code != 200:
        raise ValueError(f"{response.status_code}: {_told(response)}")
    found = [{"detections": _detections(outputs, _min_score(context))} for outputs in response.json()["predictions"]]
    content_type = _content_type(context)
    if content_type in (JSON_LINES, "application/jsons"):
        return "".join(json.dumps(each) + "\n" for each in found), JSON_LINES
    return json.dumps({"predictions": found} if content_type == JSON else found[0]), JSON


def _request(instances: list) -> str:
    """Rows for the signature that takes them: encoded pictures, or pixels."""
    encoded = [isinstance(instance, dict) for instance in instances]
    if not instances or len(set(encoded)) != 1:
        raise ValueError('400: give pictures, all as {"b64": "..."} or all as pixels')
    signature = MODEL["encoded_signature"] if encoded[0] else MODEL["pixel_signature"]
    if signature is None:
        what = "encoded pictures" if encoded[0] else "pixels"
        raise ValueError(f"400: this model takes no {what}")
    return json.dumps({"signature_name": signature, "instances": instances})


def _instances(document: Any) -> list:
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
        raise ValueError('400: "instances" is not a list of pictures')
    return [_instance(row) for row in rows]


def _instance(row: Any) -> Any:
    """One picture: {"b64": ...}, perhaps under the name of the input, or nested lists of numbers."""
    if isinstance(row, dict) and "b64" not in row and len(row) == 1:
        row = next(iter(row.values()))
    if isinstance(row, dict):
        text: Any = row.get("b64")
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError('400: "b64" is not base64 of the standard alphabet') from None
        return {"b64": text}
    if isinstance(row, list) and row and isinstance(row[0], list):
        return row
    raise ValueError('400: a picture is {"b64": "..."} or a nested list [height][width][3] of 0 to 255')


def _detections(outputs: dict, min_score: float) -> list:
    """The rows of one picture that score enough; boxes are (ymin, xmin, ymax, xmax), from 0 to 1."""
    scores = outputs["detection_scores"]
    count = int(outputs.get("num_detections", len(scores)))
    found = []
    for row in range(min(count, len(scores))):
        if not scores[row] >= min_score:
            continue
        number = int(outputs["detection_classes"][row])
        detection = {
            "box": outputs["detection_boxes"][row],
            "class_id": number,
            "class_name": MODEL["labels"].get(str(number), str(number)),
            "score": scores[row],
        }
        for name in ("detection_keypoints", "detection_keypoint_scores", "detection_masks"):
            if name in outputs:
                detection[name.replace("detection_", "")] = outputs[name][row]
        found.append(detection)
    return found


def _min_score(context: Any) -> float:
    """The threshold of the package, or of a request: X-Amzn-SageMaker-Custom-Attributes: min_score=0.3."""
    for attribute in (getattr(context, "custom_attributes", None) or "").split(","):
        name, _, value = attribute.partition("=")
        if name.strip() == "min_score":
            try:
                return float(value)
            except ValueError:
                raise ValueError(f"400: min_score={value} is not a number") from None
    return MODEL["min_score"]


def _content_type(context: Any) -> str:
    return (getattr(context, "request_content_type", None) or JSON).split(";")[0].strip().lower()


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"400: the body is not UTF-8 text; send a picture as {IMAGE}") from None


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"400: {where} is not JSON: {error}") from None


def _told(response: Any) -> str:
    """The error in an answer; old servers write JSON that is none."""
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return str(getattr(response, "text", ""))[:1000]
