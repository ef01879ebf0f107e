"""TensorFlow Serving's REST interface, with the additions of KServe's V1 protocol.

Source: model_servers/http_rest_api_util.cc, http_rest_api_handler.cc; kserve's data-plane/v1-protocol.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from tensorflow_serving.apis import classification_pb2, model_pb2, regression_pb2

from unfreeze.server import inference, json_examples, json_tensors
from unfreeze.server.engine import Engine, Entrypoint
from unfreeze.server.loaded import DEFAULT_SIGNATURE, check_inputs
from unfreeze.server.request_log import LogField
from unfreeze.server.request_workers import RequestWorkers
from unfreeze.server.status import StatusCode, StatusError, invalid, not_found
from unfreeze.server.versions import State, Version
from unfreeze.version_folders import LARGEST_VERSION

INFERENCE_PATH = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)"
)
STATUS_PATH = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?")
CLIENT_CLOSED_REQUEST = 499
MAX_QUOTED_CHARS = 64  # characters of a path that an error quotes
HTTP_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NO_ERROR = {"error_code": "OK", "error_message": ""}


class Method(str, Enum):
    """The method of a model that a path requests."""

    PREDICT = "predict"
    CLASSIFY = "classify"
    REGRESS = "regress"
    METADATA = "metadata"
    STATUS = "status"


@dataclass(frozen=True)
class Target:
    """The model, the version and the method that a path names."""

    model: str
    version: int | None
    label: str | None
    method: Method


def rest_app(engine: Engine, extra_routes: list[BaseRoute] | None = None) -> Starlette:
    """Returns the application; `extra_routes` take precedence."""
    rest = Rest(engine)
    routes = [*(extra_routes or []), Route("/", alive)]
    if engine.settings.metrics_path:
        routes.append(Route(engine.settings.metrics_path, rest.metrics))
    routes.append(Route("/{path:path}", rest.respond, methods=HTTP_METHODS))
    # As in http_server.cc, which allows any origin too. Starlette responds to the browser's request for permission.
    cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
    return Starlette(routes=routes, middleware=[cors] if engine.settings.cors else None)


class Rest:
    """The handlers of the routes; inference runs in threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        settings = engine.settings
        timeout_s = settings.rest_api_timeout_in_ms / 1000
        self.workers = RequestWorkers(
            engine.admission, settings.max_queued_requests, settings.max_request_bytes, timeout_s
        )

    async def respond(self, request: Request) -> Response:
        """Responds to any other path, by TensorFlow Serving's patterns, which match the raw path and ignore case."""
        path = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1").partition("?")[0]
        try:
            if not path.lower().startswith("/v1/"):
                raise not_found(f"Malformed request: {request.method} {unquote(path)}")
            target = parse_path(request.method, path)
            if request.method == "POST":
                return await self._infer(request, target)
            return JSONResponse(self._describe(target))
        except StatusError as error:
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.engine.metrics.page(), media_type="text/plain; version=0.0.4")

    async def _infer(self, request: Request, target: Target) -> Response:
        with self.engine.counted(target.model, target.method.value, Entrypoint.REST):
            body = await self.workers.process(request, partial(infer, self.engine, target))
        return Response(body, media_type="application/json")

    def _describe(self, target: Target) -> dict[str, Any]:
        models = self.engine.models
        if not target.model:
            if target.method is Method.METADATA or target.version is not None or target.label is not None:
                raise invalid("Missing model name in request.")
            return {"models": sorted(models.served)}
        if target.method is Method.METADATA:
            return metadata(target.model, models.find(target.model, target.version, target.label))
        versions = models.known_versions(target.model, target.version, target.label)
        # KServe's clients read the last two.
        ready = any(version.state is State.AVAILABLE for version in versions)
        return {
            "model_version_status": [version_status(version) for version in versions],
            "name": target.model,
            "ready": ready,
        }


async def alive(request: Request) -> Response:
    """Returns KServe's liveness response."""
    return JSONResponse({"status": "alive"})


def error_response(error: StatusError) -> Response:
    """Returns the response to a request that failed; a full server adds Retry-After."""
    overloaded = error.code is StatusCode.RESOURCE_EXHAUSTED and error.http_status == 429
    # A quoted part of the request may contain a lone surrogate, such as "\ud800".
    message = error.message.encode("utf-8", "replace").decode()
    return JSONResponse({"error": message}, error.http_status, {"Retry-After": "1"} if overloaded else {})


def parse_path(http_method: str, path: str) -> Target:
    """Returns the target of a path. Raises: StatusError INVALID_ARGUMENT if TensorFlow Serving has no such path."""
    pattern = {"POST": INFERENCE_PATH, "GET": STATUS_PATH}.get(http_method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise invalid(f"Malformed request: {http_method} {unquote(path)}")
    model, version, label, method = match.groups()
    return Target(
        unquote(model or ""),
        version_number(version) if version else None,
        unquote(label) if label else None,
        Method((method or "status").lower()),
    )


def version_number(digits: str) -> int:
    """Returns the number of a version in a path. Raises: StatusError INVALID_ARGUMENT if it exceeds 64 bits."""
    significant = digits.lstrip("0") or "0"
    # The length comes first: Python's int() rejects several thousand digits.
    if len(significant) > len(str(LARGEST_VERSION)) or int(significant) > LARGEST_VERSION:
        raise invalid(f"Failed to convert version: {digits[:MAX_QUOTED_CHARS]} to numeric.")
    return int(significant)


def infer(engine: Engine, target: Target, body: bytes, deadline: float) -> bytes:
    """Returns the body of the response to an inference request. Raises: StatusError."""
    try:
        return INFERENCES[target.method](engine, target, body, deadline)
    except (StatusError, MemoryError):
        raise
    except Exception as error:  # a bug here or in the model: only this request fails
        raise StatusError(StatusCode.INTERNAL, f"{type(error).__name__}: {error}") from error


def predict(engine: Engine, target: Target, body: bytes, deadline: float) -> bytes:
    """Returns the body of the response to a predict request."""
    version = find_version(engine, target)
    model = version.loaded_model()
    document = json_tensors.read_document(body)
    may_have_booleans = b"true" in body or b"false" in body
    signature, form, inputs = json_tensors.read_predict(document, model, may_have_booleans)
    del document  # an image as nested lists is many times larger than its array
    check_inputs(model.signature_def(signature), inputs)
    outputs = engine.run(model, signature, inputs, (), name=target.model, deadline=deadline)
    response = json_tensors.write_predict(outputs, form)
    engine.request_logs.log_arrays(model_spec(target, signature), version.number, inputs, outputs)
    return response


def classify(engine: Engine, target: Target, body: bytes, deadline: float) -> bytes:
    """Returns the body of the response to a classify request."""
    request = json_examples.read_request(body, classification_pb2.ClassificationRequest())
    version = find_version(engine, target)
    response = inference.classify(version.loaded_model(), request, runner(engine, target, deadline))
    log_examples(engine, target, version, LogField.CLASSIFY, request, response)
    return json_examples.write_classes(response)


def regress(engine: Engine, target: Target, body: bytes, deadline: float) -> bytes:
    """Returns the body of the response to a regress request."""
    request = json_examples.read_request(body, regression_pb2.RegressionRequest())
    version = find_version(engine, target)
    response = inference.regress(version.loaded_model(), request, runner(engine, target, deadline))
    log_examples(engine, target, version, LogField.REGRESS, request, response)
    return json_examples.write_values(response)


INFERENCES: dict[Method, Callable[[Engine, Target, bytes, float], bytes]] = {
    Method.PREDICT: predict,
    Method.CLASSIFY: classify,
    Method.REGRESS: regress,
}


def find_version(engine: Engine, target: Target) -> Version:
    """Returns the version that a path names. Raises: StatusError if it is not loaded."""
    return engine.models.find(target.model, target.version, target.label)


def log_examples(
    engine: Engine, target: Target, version: Version, field: LogField, request: Any, response: Any
) -> None:
    """Logs a request with Examples and its response as those of gRPC, which name the model."""
    request.model_spec.CopyFrom(model_spec(target, request.model_spec.signature_name))
    inference.fill_model_spec(response, target.model, version.number)
    engine.request_logs.log_messages(field, request, response)


def model_spec(target: Target, signature: str) -> model_pb2.ModelSpec:
    """Returns what a path and its request name, as the message of gRPC requests."""
    spec = model_pb2.ModelSpec(name=target.model, signature_name=signature or DEFAULT_SIGNATURE)
    if target.version is not None:
        spec.version.value = target.version
    elif target.label is not None:
        spec.version_label = target.label
    return spec


def runner(engine: Engine, target: Target, deadline: float) -> inference.RunSignature:
    """Returns the function that runs a signature through the queue of the server, up to the deadline."""
    return lambda model, signature, inputs, outputs: engine.run(
        model, signature, inputs, outputs, name=target.model, deadline=deadline
    )


def version_status(version: Version) -> dict[str, Any]:
    """Returns a ModelVersionStatus as JSON; its 64-bit numbers are strings, as in the JSON of any proto."""
    error = version.error
    status = {"error_code": error.code.name, "error_message": error.message} if error else NO_ERROR
    return {"version": str(version.number), "state": version.state.name, "status": status}


def metadata(name: str, version: Version) -> dict[str, Any]:
    """Returns the signatures of a version as TensorFlow Serving's JSON."""
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": proto_to_dict(version.signature_def_map())},
    }


def proto_to_dict(message: Any) -> dict[str, Any]:
    """Returns a proto as a dict that includes empty fields; the option for that was renamed in protobuf 5."""
    try:
        text = json_format.MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    except TypeError:
        old_option: dict[str, Any] = {"including_default_value_fields": True}
        text = json_format.MessageToJson(message, preserving_proto_field_name=True, **old_option)
    document: dict[str, Any] = json.loads(text)
    return document
