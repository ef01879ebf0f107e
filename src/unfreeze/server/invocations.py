"""Responds to invocations as SageMaker's TensorFlow Serving container: with inference.py, or by its rules without one.

Source: aws/deep-learning-containers scripts/docker/tensorflow/inference/sagemaker: python_service.py, tfs_utils.py,
tensorflowServing.js; the behavior is that of the image for TensorFlow 2.20.
"""

import importlib.util
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import grpc
import requests
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from unfreeze.errors import ArchiveError
from unfreeze.server.admission import AdmissionControl
from unfreeze.server.engine import IN_FLIGHT_REQUESTS, Engine, Entrypoint
from unfreeze.server.process import Server
from unfreeze.server.request_workers import RequestWorkers
from unfreeze.server.rest import CLIENT_CLOSED_REQUEST, INFERENCES, Method, Target, infer
from unfreeze.server.settings import Settings
from unfreeze.server.status import StatusCode, StatusError, invalid

LOG = logging.getLogger("unfreeze.server")

JSON = "application/json"
JSON_TYPES = (JSON, "application/jsonlines", "application/jsons")
CSV = "text/csv"
MAX_QUOTED_LINES = MAX_QUOTED_CHARS = 40  # lines of a requirements.txt, and characters of each, in a warning
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
ATTRIBUTE_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
MODEL_NAME, MODEL_VERSION, METHOD = "tfs-model-name", "tfs-model-version", "tfs-method"


class Context(NamedTuple):
    """The second argument of inference.py's handlers; its fields and their order are the container's."""

    model_name: str | None
    model_version: str | None
    method: str | None
    rest_uri: str
    grpc_port: str
    channel: grpc.Channel | None
    custom_attributes: str | None
    request_content_type: str
    accept_header: str
    content_length: int | None
    timeout: float


class Reply(NamedTuple):
    """The response to an invocation."""

    status: int
    body: bytes
    content_type: str


Handler = Callable[[BinaryIO, Context], tuple[Any, str]]  # body, context -> body of the response, content type


def import_handler(folder: Path) -> Handler | None:
    """Returns the handler of code/inference.py, None without that file.

    It is the function `handler`, or `input_handler` and `output_handler` around a request to TensorFlow Serving.

    Raises: ArchiveError if it has neither, or cannot be imported.
    """
    script = folder / "code" / "inference.py"
    if not script.is_file():
        return None
    for path in (folder / "code", folder / "code" / "lib"):
        if path.is_dir() and str(path) not in sys.path:
            sys.path.append(str(path))
    spec = importlib.util.spec_from_file_location("inference", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        requirements = missing_requirements(folder) if isinstance(error, ImportError) else ""
        reason = f"code/inference.py cannot be imported: {type(error).__name__}: {error}"
        raise ArchiveError(f"{reason}. {requirements}" if requirements else reason) from error
    if hasattr(module, "handler"):
        handler: Handler = module.handler
        return handler
    if hasattr(module, "input_handler") and hasattr(module, "output_handler"):
        return handler_of_pair(module.input_handler, module.output_handler)
    raise ArchiveError("code/inference.py: Handlers are not implemented correctly in user script.")


def missing_requirements(folder: Path) -> str:
    """Returns a warning that lists what the container installs for code/inference.py; "" if it installs nothing.

    This server installs nothing.
    """
    code = folder / "code"
    if not (code / "requirements.txt").is_file() or (code / "lib").exists() or not (code / "inference.py").is_file():
        return ""
    lines = (code / "requirements.txt").read_text("utf-8", "replace").splitlines()
    requirements = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not requirements:
        return ""
    listed = ", ".join(line[:MAX_QUOTED_CHARS] for line in requirements[:MAX_QUOTED_LINES])
    return f"code/requirements.txt is not installed here, unlike in the container. Install {listed} beside unfreeze."


def handler_of_pair(
    input_handler: Callable[[BinaryIO, Context], Any], output_handler: Callable[[requests.Response, Context], Any]
) -> Handler:
    """Returns a handler of the two functions; since 2.20, `output_handler` does not receive errors."""

    def handler(data: BinaryIO, context: Context) -> tuple[Any, str]:
        response = requests.post(context.rest_uri, data=input_handler(data, context), timeout=context.timeout)
        response.raise_for_status()
        body, content_type = output_handler(response, context)
        return body, content_type

    return handler


class Front:
    """The part of the container in front of TensorFlow Serving: its nginx and its Python service."""

    def __init__(
        self,
        server: Server,
        default_model: str,
        handler: Handler | None,
        channel: grpc.Channel | None,
        workers: RequestWorkers,
    ) -> None:
        self.server = server
        self.engine: Engine = server.engine
        self.default_model = default_model
        self.handler = handler
        self.channel = channel
        self.workers = workers

    async def ping(self, request: Request) -> Response:
        """Returns 200 if the default model is available, 502 if not."""
        return Response(status_code=200 if self.engine.models.ready(self.default_model) else 502)

    async def invocations(self, request: Request) -> Response:
        headers = dict(request.headers)
        try:
            target = self._target(headers.get(CUSTOM_ATTRIBUTES.lower(), ""))
            if self.handler is None:
                self._check_content_type(headers.get("content-type"))
            respond = self._with_script if self.handler else self._without_script
            reply = await self.workers.process(request, lambda body, deadline: respond(target, headers, body, deadline))
        except StatusError as error:
            reply = error_reply(error)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(reply.body, reply.status, {"Content-Type": reply.content_type})

    def _check_content_type(self, content_type: str | None) -> None:
        """Raises StatusError, as HTTP 415, for a type that is not converted without a script."""
        if content_type not in (*JSON_TYPES, CSV):
            raise unsupported_media_type(content_type)

    def _target(self, custom_attributes: str) -> Target:
        """Returns the model, version and method in the custom attributes of a request. Raises: StatusError."""
        attributes = parse_attributes(custom_attributes)
        for key in (MODEL_NAME, MODEL_VERSION, METHOD):
            if key in attributes and not ATTRIBUTE_VALUE.fullmatch(attributes[key]):
                raise invalid(f"Invalid value for {key}")
        version, name = attributes.get(MODEL_VERSION), attributes.get(METHOD, Method.PREDICT.value)
        if version is not None and not version.isdecimal():
            raise invalid(f"Failed to convert version: {version} to numeric.")
        method = next((method for method in INFERENCES if method.value == name), None)
        if method is None:
            raise invalid(f"Malformed request: POST :{name}")
        model = attributes.get(MODEL_NAME, self.default_model)
        return Target(model, int(version) if version else None, None, method)

    def _without_script(self, target: Target, headers: Mapping[str, str], body: bytes, deadline: float) -> Reply:
        """Responds to JSON, JSON lines and CSV, which it converts to a request of TensorFlow Serving."""
        text = body.decode("utf-8", "surrogateescape")
        document = csv_request(text) if headers["content-type"] == CSV else json_request(text)
        try:
            with self.engine.counted(target.model, target.method.value, Entrypoint.REST):
                response = infer(self.engine, target, document.encode("utf-8", "surrogateescape"), deadline)
        except StatusError as error:
            return error_reply(error)
        return Reply(200, response, accepted_type(headers.get("accept")))

    def _with_script(self, target: Target, headers: Mapping[str, str], body: bytes, deadline: float) -> Reply:
        """Responds with inference.py. Any exception of it becomes an error 500 with its text, as in the container."""
        assert self.handler is not None
        try:
            response, content_type = self.handler(io.BytesIO(body), self._context(target, headers))
            return Reply(200, response.encode() if isinstance(response, str) else bytes(response), content_type)
        except Exception as error:
            LOG.exception("exception handling request: %s", error)
            return Reply(500, json.dumps({"error": str(error)}).encode(), JSON)

    def _context(self, target: Target, headers: Mapping[str, str]) -> Context:
        custom_attributes = headers.get(CUSTOM_ATTRIBUTES.lower())
        attributes = parse_attributes(custom_attributes or "")
        version = f"/versions/{target.version}" if target.version is not None else ""
        length = headers.get("content-length")
        address = f"http://localhost:{self.server.rest_port}"
        return Context(
            model_name=attributes.get(MODEL_NAME),
            model_version=attributes.get(MODEL_VERSION),
            method=attributes.get(METHOD),
            rest_uri=f"{address}/v1/models/{target.model}{version}:{target.method.value}",
            grpc_port=str(self.server.grpc_port),
            channel=self.channel,
            custom_attributes=custom_attributes,
            request_content_type=headers.get("content-type") or JSON,
            accept_header=headers.get("accept") or JSON,
            content_length=int(length) if length else None,
            timeout=self.workers.timeout_s,
        )


def request_workers(settings: Settings, timeout_s: float) -> RequestWorkers:
    """Returns the threads for invocations.

    They have an admission control of their own: a handler's request to the server behind must not wait for its own
    slot.
    """
    admission = AdmissionControl(settings.max_queued_requests, IN_FLIGHT_REQUESTS * settings.max_request_bytes)
    return RequestWorkers(admission, settings.max_queued_requests, settings.max_request_bytes, timeout_s)


def unsupported_media_type(content_type: str | None) -> StatusError:
    """Returns the error of a request whose content type needs a script."""
    return StatusError(StatusCode.INVALID_ARGUMENT, f"Unsupported Media Type: {content_type or 'Unknown'}", 415)


def parse_attributes(header: str) -> dict[str, str]:
    """Parses `tfs-model-name=a,tfs-method=predict`; parts of another form are skipped."""
    pairs = (match.split("=") for match in re.findall(r"tfs-[a-z\-]+=[^,]+", header))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def error_reply(error: StatusError) -> Reply:
    """Returns the reply to an invocation that failed."""
    return Reply(error.http_status, json.dumps({"error": error.message}).encode(), JSON)


def accepted_type(accept: str | None) -> str:
    """Returns the first type of an Accept header that contains JSON or JSON lines; otherwise JSON."""
    types = (accept or "").strip().replace(" ", "").split(",")
    return types[0] if {JSON, "application/jsonlines"} & set(types) else JSON


def json_request(text: str) -> str:
    """Returns a predict request for JSON of any shape, by the patterns of the container."""
    if re.search(r'"(instances|inputs|examples)"\s*:', text):
        return text
    if re.search(r"[}\]]\s*[\[{]", text):
        lines = [line.strip() for line in re.split(r"\r?\n", text.strip())]
        rows = ",".join(line for line in lines if line)
        return f'{{"instances":{rows}}}' if len(lines) == 1 else f'{{"instances":[{rows}]}}'
    rows = text if re.match(r"\s*\[\s*\[", text) else f"[{text}]"
    return f'{{"instances":{rows}}}'


def csv_request(text: str) -> str:
    """Returns a predict request for lines of values. As in the container, only a line's first quote and comma count."""
    needs_quotes = not re.match(r'\s*("|[\d.Ee+\-]+.*)', text)
    rows = []
    for line in (line.strip() for line in re.split(r"\r?\n", text.strip())):
        if not line:
            continue
        quoted = '"' + line.replace('"', '\\"', 1).replace(",", '","', 1) + '"' if needs_quotes else line
        rows.append(f"[{quoted}]" if "," in line else quoted)
    return f'{{"instances":[{",".join(rows)}]}}'
