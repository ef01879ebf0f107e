"""TensorFlow Serving's REST, and what KServe's V1 protocol adds to it.

Source: model_servers/http_rest_api_util.cc, http_rest_api_handler.cc; kserve's data-plane/v1-protocol.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, input_pb2, regression_pb2

from unfreeze.server import inference, json_examples, json_tensors
from unfreeze.server.bodies import Workers
from unfreeze.server.engine import Engine
from unfreeze.server.failures import Code, Failure, invalid, not_found
from unfreeze.server.loaded import check_inputs
from unfreeze.server.versions import State, Version
from unfreeze.version_folders import LARGEST_VERSION

PREDICTION = re.compile(
    r"(?i)/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)"
)
STATUS = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?")


@dataclass(frozen=True)
class Target:
    """What a path names."""

    model: str
    version: int | None
    label: str | None
    method: str  # predict, classify, regress, metadata or status


def rest_app(engine: Engine, extra_routes: list[BaseRoute] | None = None) -> Starlette:
    """The application; `extra_routes` come first."""
    rest = Rest(engine)
    routes = [*(extra_routes or []), Route("/", alive)]
    if engine.settings.metrics_path:
        routes.append(Route(engine.settings.metrics_path, rest.metrics))
    routes.append(Route("/{path:path}", rest.answer, methods=METHODS))
    return Starlette(routes=routes)


SHOWN = 64  # characters of a path that an error quotes
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Rest:
    """Answers requests: what takes time, in threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        settings = engine.settings
        timeout_s = settings.rest_api_timeout_in_ms / 1000
        self.workers = Workers(engine.gate, settings.max_queued_requests, settings.max_request_bytes, timeout_s)

    async def answer(self, request: Request) -> Response:
        """Any other request; TensorFlow Serving's patterns ignore case, and see the path as it was sent."""
        path = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1").partition("?")[0]
        try:
            if not path.lower().startswith("/v1/"):
                raise not_found(f"Malformed request: {request.method} {unquote(path)}")
            target = read_path(request.method, path)
            if request.method == "POST":
                return await self._answer_inference(request, target)
            return JSONResponse(self._describe(target))
        except Failure as failure:
            return error_response(failure)
        except ClientDisconnect:
            return Response(status_code=499)

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.engine.metrics.page(), media_type="text/plain; version=0.0.4")

    async def _answer_inference(self, request: Request, target: Target) -> Response:
        with self.engine.counted(target.model, target.method, "REST"):
            answered = await self.workers.answer(request, partial(infer, self.engine, target))
        return Response(answered, media_type="application/json")

    def _describe(self, target: Target) -> dict[str, Any]:
        models = self.engine.models
        if not target.model:
            if target.method == "metadata" or target.version is not None or target.label is not None:
                raise invalid("Missing model name in request.")
            return {"models": sorted(models.served)}
        if target.method == "metadata":
            return metadata(target.model, models.find(target.model, target.version, target.label))
        versions = models.states(target.model, target.version, target.label)
        # The last two are what KServe's clients look for.
        ready = any(version.state is State.AVAILABLE for version in versions)
        return {"model_version_status": [status(version) for version in versions], "name": target.model, "ready": ready}


async def alive(request: Request) -> Response:
    """KServe's liveness."""
    return JSONResponse({"status": "alive"})


def error_response(failure: Failure) -> Response:
    headers = {"Retry-After": "1"} if failure.code is Code.RESOURCE_EXHAUSTED and failure.http_status == 429 else {}
    # What is quoted from a request may hold half a character, "\ud800".
    message = failure.message.encode("utf-8", "replace").decode()
    return JSONResponse({"error": message}, failure.http_status, headers)


def read_path(method: str, path: str) -> Target:
    """Raises: Failure INVALID_ARGUMENT for a path that TensorFlow Serving does not know."""
    pattern = {"POST": PREDICTION, "GET": STATUS}.get(method)
    match = pattern.fullmatch(path) if pattern else None
    if match is None:
        raise invalid(f"Malformed request: {method} {unquote(path)}")
    model, version, label, verb = match.groups()
    return Target(
        unquote(model or ""),
        version_number(version) if version else None,
        unquote(label) if label else None,
        (verb or "status").lower(),
    )


def version_number(digits: str) -> int:
    """Raises: Failure INVALID_ARGUMENT for what has more than 64 bits, which Python may even refuse to read."""
    plain = digits.lstrip("0") or "0"
    if len(plain) > len(str(LARGEST_VERSION)) or int(plain) > LARGEST_VERSION:
        raise invalid(f"Failed to convert version: {digits[:SHOWN]} to numeric.")
    return int(plain)


def infer(engine: Engine, target: Target, body: bytes, deadline: float) -> bytes:
    """The body of the answer; blocks until it is there.

    Raises: Failure.
    """
    try:
        return INFERENCES[target.method](engine, target, body, deadline)
    except (Failure, MemoryError):
        raise
    except Exception as error:  # a defect of ours or of the model: that request fails, and no other
        raise Failure(Code.INTERNAL, f"{type(error).__name__}: {error}") from error


def predict(engine: Engine, target: Target, body: bytes, deadline: float) -> bytes:
    model = loaded(engine, target)
    document = json_tensors.read_body(body)
    may_hold_booleans = b"true" in body or b"false" in body
    signature, form, inputs = json_tensors.read_predict(document, model, may_hold_booleans)
    del document  # a picture as lists is many times the size of its array
    check_inputs(model.signature_def(signature), inputs)
    outputs = engine.run(model, signature, inputs, (), name=target.model, deadline=deadline)
    return json_tensors.write_predict(outputs, form)


def classify(engine: Engine, target: Target, body: bytes, deadline: float) -> bytes:
    request = json_examples.read(body, classification_pb2.ClassificationRequest(), input_pb2.Input)
    return json_examples.write_classes(
        inference.classify(loaded(engine, target), request, runner(engine, target, deadline))
    )


def regress(engine: Engine, target: Target, body: bytes, deadline: float) -> bytes:
    request = json_examples.read(body, regression_pb2.RegressionRequest(), input_pb2.Input)
    return json_examples.write_values(
        inference.regress(loaded(engine, target), request, runner(engine, target, deadline))
    )


INFERENCES: dict[str, Callable[[Engine, Target, bytes, float], bytes]] = {
    "predict": predict,
    "classify": classify,
    "regress": regress,
}


def loaded(engine: Engine, target: Target) -> Any:
    return engine.models.find(target.model, target.version, target.label).model


def runner(engine: Engine, target: Target, deadline: float) -> inference.Run:
    return lambda model, signature, inputs, outputs: engine.run(
        model, signature, inputs, outputs, name=target.model, deadline=deadline
    )


def status(version: Version) -> dict[str, Any]:
    """As TensorFlow Serving prints its ModelVersionStatus: numbers of 64 bits are strings in a proto's JSON."""
    failure = version.failure
    told = {"error_code": failure.code.name, "error_message": failure.message} if failure else NO_ERROR
    return {"version": str(version.number), "state": version.state.name, "status": told}


NO_ERROR = {"error_code": "OK", "error_message": ""}


def metadata(name: str, version: Version) -> dict[str, Any]:
    """The signatures of a version, as TensorFlow Serving prints them."""
    assert version.model is not None
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for key, definition in version.model.signature_defs.items():
        signatures.signature_def[key].CopyFrom(definition)
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": printed(signatures)},
    }


def printed(message: Any) -> dict[str, Any]:
    """A proto as a dict, empty fields included; the option for that has another name since protobuf 5."""
    try:
        text = json_format.MessageToJson(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    except TypeError:
        older = {"including_default_value_fields": True}
        text = json_format.MessageToJson(message, preserving_proto_field_name=True, **older)  # type: ignore[arg-type]
    return json.loads(text)
