"""What SageMaker's TensorFlow Serving container answers: /ping and /invocations, from an unpacked model.tar.gz.

Source: aws/deep-learning-containers scripts/docker/tensorflow/inference/sagemaker: serve.py, python_service.py,
tfs_utils.py, tensorflowServing.js; the behaviour is that of its image for TensorFlow 2.20.
"""

import importlib.util
import io
import json
import logging
import os
import re
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import requests
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from unfreeze.errors import ArchiveError, SavedModelError
from unfreeze.server.admission import Gate
from unfreeze.server.archives import unpack
from unfreeze.server.bodies import Workers
from unfreeze.server.engine import IN_FLIGHT, Engine
from unfreeze.server.failures import Failure, invalid
from unfreeze.server.process import HttpServer, Server
from unfreeze.server.rest import Target, infer
from unfreeze.server.settings import Batching, ModelServerConfig, Settings

LOG = logging.getLogger("unfreeze.server")

JSON_TYPES = ("application/json", "application/jsonlines", "application/jsons")
SHOWN = 40  # lines of a requirements.txt, and characters of each
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
METHODS = ("predict", "classify", "regress")

# What inference.py is given; the fields and their order are the container's.
Context = namedtuple(
    "Context",
    "model_name, model_version, method, rest_uri, grpc_port, channel, custom_attributes, request_content_type, "
    "accept_header, content_length, timeout",
)
Handler = Callable[[Any, Any], tuple[Any, str]]
Answer = tuple[int, bytes, str]  # status, body, content type


class SageMakerServer:
    """The container's front on one port, over a server of its own on free ports of this machine."""

    def __init__(self, archive: str | os.PathLike[str], settings: Mapping[str, Any], host: str, port: int) -> None:
        self.unpacked = tempfile.TemporaryDirectory(prefix="unfreeze-sagemaker-")
        folder = Path(archive)
        if not folder.is_dir():
            folder = Path(self.unpacked.name)
            try:
                unpack(archive, folder)
            except ArchiveError:
                self.unpacked.cleanup()
                raise
        self.folder = folder
        self.uninstalled = uninstalled(folder)
        self.host, self.port_wanted = host, port
        given = {"batching": batching_of(os.environ), **settings}
        config = models_config(folder, archive)
        self.inner = Server(settings_of(config, given))
        self.default_model = os.environ.get("SAGEMAKER_TFS_DEFAULT_MODEL_NAME") or first_model(config)
        self.http: HttpServer | None = None
        self.channel: grpc.Channel | None = None

    def start(self) -> None:
        """Take the port, load every version, import inference.py, then answer."""
        grace_s = self.inner.settings.rest_api_timeout_in_ms / 1000
        try:
            self.http = HttpServer(self.host, self.port_wanted, "--sagemaker-port", grace_s)
            self.inner.start()
            handler = import_handler(self.folder)
            self.channel = grpc.insecure_channel(f"localhost:{self.inner.grpc_port}")
            self.http.start(front_app(Front(self.inner, self.default_model, handler, self.channel)))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self.http:
            self.http.stop()
        self.inner.stop()
        if self.channel:
            self.channel.close()
        self.unpacked.cleanup()

    def __str__(self) -> str:
        port = self.http.port if self.http else self.port_wanted
        return f"SageMaker http://{self.host}:{port}/invocations, model {self.default_model}"


def settings_of(config: Any, given: Mapping[str, Any]) -> Any:
    # The container loads every version before it answers, and retries none.
    return Settings(models=config, host="127.0.0.1", port=0, rest_api_port=0, **{"max_num_load_retries": 0, **given})


def models_config(folder: Path, origin: str | os.PathLike[str]) -> Any:
    """A ModelServerConfig of all versions of all models below a folder, as the container finds them."""
    bases = sorted(
        {path.parent.parent for path in folder.rglob("saved_model.pb") if re.fullmatch(r"\d+", path.parent.name)}
    )
    if not bases:
        raise SavedModelError(f"{origin}: no SavedModel bundles found! It must hold NAME/1/saved_model.pb")
    config = ModelServerConfig()
    for base in bases:
        name = "model" if base == folder else base.name
        model = config.model_config_list.config.add(name=name, base_path=str(base), model_platform="tensorflow")
        model.model_version_policy.all.SetInParent()
    return config


def first_model(config: Any) -> str:
    return config.model_config_list.config[0].name


def batching_of(environment: Mapping[str, str]) -> Batching | None:
    """The container's variables for batching, with its defaults."""
    if environment.get("SAGEMAKER_TFS_ENABLE_BATCHING", "false").lower() != "true":
        return None
    cpus = os.cpu_count() or 1

    def number(name: str, default: int) -> int:
        return int(environment.get(f"SAGEMAKER_TFS_{name}", default))

    return Batching(
        max_batch_size=number("MAX_BATCH_SIZE", 8),
        batch_timeout_micros=number("BATCH_TIMEOUT_MICROS", 1000),
        num_batch_threads=number("NUM_BATCH_THREADS", cpus),
        max_enqueued_batches=number("MAX_ENQUEUED_BATCHES", cpus),
    )


def import_handler(folder: Path) -> Handler | None:
    """The handler of code/inference.py: `handler`, or `input_handler` and `output_handler` around a request.

    Raises: ArchiveError when it has neither, or cannot be imported.
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
        told = uninstalled(folder) if isinstance(error, ImportError) else ""
        reason = f"code/inference.py cannot be imported: {type(error).__name__}: {error}"
        raise ArchiveError(f"{reason}; {told}" if told else reason) from error
    if hasattr(module, "handler"):
        return module.handler
    if hasattr(module, "input_handler") and hasattr(module, "output_handler"):
        return paired(module.input_handler, module.output_handler)
    raise ArchiveError("code/inference.py: Handlers are not implemented correctly in user script.")


def uninstalled(folder: Path) -> str:
    """What the container would install before it runs code/inference.py, and this server does not; else ""."""
    code = folder / "code"
    if not (code / "requirements.txt").is_file() or (code / "lib").exists() or not (code / "inference.py").is_file():
        return ""
    lines = (code / "requirements.txt").read_text("utf-8", "replace").splitlines()
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not named:
        return ""
    listed = ", ".join(line[:SHOWN] for line in named[:SHOWN])
    return f"code/requirements.txt is not installed here, as the container does: install {listed} beside unfreeze"


def paired(input_handler: Callable[[Any, Any], Any], output_handler: Handler) -> Handler:
    """The two functions around a request to TensorFlow Serving; since 2.20, an error of that is not handed over."""

    def handler(data: Any, context: Any) -> tuple[Any, str]:
        response = requests.post(context.rest_uri, data=input_handler(data, context), timeout=context.timeout)
        response.raise_for_status()
        return output_handler(response, context)

    return handler


def front_app(front: "Front") -> Starlette:
    paths = ("/invocations", "/endpoints/{name}/invocations")  # the latter is what boto3 asks for
    invocations = [Route(path, front.invocations, methods=["POST"]) for path in paths]
    return Starlette(routes=[Route("/ping", front.ping), *invocations])


class Front:
    """The container's nginx and Python service."""

    def __init__(self, inner: Server, default_model: str, handler: Handler | None, channel: grpc.Channel) -> None:
        self.inner = inner
        self.engine: Engine = inner.engine
        self.default_model = default_model
        self.handler = handler
        self.channel = channel
        settings = inner.settings
        self.timeout_s = settings.rest_api_timeout_in_ms / 1000
        # A gate of its own: a handler's request to the server behind must not wait for its own place.
        gate = Gate(settings.max_queued_requests, IN_FLIGHT * settings.max_request_bytes)
        self.workers = Workers(gate, settings.max_queued_requests, settings.max_request_bytes, self.timeout_s)

    async def ping(self, request: Request) -> Response:
        """200 when the default model answers, 502 when it does not."""
        return Response(status_code=200 if self.engine.models.ready(self.default_model) else 502)

    async def invocations(self, request: Request) -> Response:
        headers = dict(request.headers)
        try:
            target = self._target(headers.get(CUSTOM_ATTRIBUTES.lower(), ""))
            content_type = headers.get("content-type")
            if self.handler is None and content_type not in (*JSON_TYPES, "text/csv"):
                raise Failure(invalid("").code, f"Unsupported Media Type: {content_type or 'Unknown'}", 415)
            work = self._by_script if self.handler else self._by_rules
            status, body, answered_type = await self.workers.answer(
                request, lambda body, deadline: work(target, headers, body, deadline)
            )
        except Failure as failure:
            status, body, answered_type = told(failure)
        except ClientDisconnect:
            return Response(status_code=499)
        return Response(body, status, {"Content-Type": answered_type})

    def _target(self, custom_attributes: str) -> Target:
        """The model, version and method that the request's custom attributes name."""
        given = attributes_of(custom_attributes)
        for key in ("tfs-model-name", "tfs-model-version", "tfs-method"):
            if key in given and not NAME.fullmatch(given[key]):
                raise invalid(f"Invalid value for {key}")
        version, method = given.get("tfs-model-version"), given.get("tfs-method", "predict")
        if version is not None and not version.isdecimal():
            raise invalid(f"Failed to convert version: {version} to numeric.")
        if method not in METHODS:
            raise invalid(f"Malformed request: POST :{method}")
        return Target(given.get("tfs-model-name", self.default_model), int(version) if version else None, None, method)

    def _by_rules(self, target: Target, headers: Mapping[str, str], body: bytes, deadline: float) -> Answer:
        """Without inference.py: JSON, JSON lines and CSV, put into the form of TensorFlow Serving."""
        text = body.decode("utf-8", "surrogateescape")
        document = csv_request(text) if headers["content-type"] == "text/csv" else json_request(text)
        try:
            with self.engine.counted(target.model, target.method, "REST"):
                answered = infer(self.engine, target, document.encode("utf-8", "surrogateescape"), deadline)
        except Failure as failure:
            return told(failure)
        return 200, answered, accepted_type(headers.get("accept"))

    def _by_script(self, target: Target, headers: Mapping[str, str], body: bytes, deadline: float) -> Answer:
        """By inference.py. Whatever it raises is an error 500 with its text, as in the container."""
        assert self.handler is not None
        try:
            answered, content_type = self.handler(io.BytesIO(body), self._context(target, headers))
            raw = answered.encode() if isinstance(answered, str) else bytes(answered)
            return 200, raw, content_type
        except Exception as error:
            LOG.exception("exception handling request: %s", error)
            return 500, json.dumps({"error": str(error)}).encode(), "application/json"

    def _context(self, target: Target, headers: Mapping[str, str]) -> Any:
        custom = headers.get(CUSTOM_ATTRIBUTES.lower())
        given = attributes_of(custom or "")
        version = f"/versions/{target.version}" if target.version is not None else ""
        length = headers.get("content-length")
        return Context(
            model_name=given.get("tfs-model-name"),
            model_version=given.get("tfs-model-version"),
            method=given.get("tfs-method"),
            rest_uri=f"http://localhost:{self.inner.rest_port}/v1/models/{target.model}{version}:{target.method}",
            grpc_port=str(self.inner.grpc_port),
            channel=self.channel,
            custom_attributes=custom,
            request_content_type=headers.get("content-type") or "application/json",
            accept_header=headers.get("accept") or "application/json",
            content_length=int(length) if length else None,
            timeout=self.timeout_s,
        )


def attributes_of(header: str) -> dict[str, str]:
    """`tfs-model-name=a,tfs-method=predict` -> a dict; what looks otherwise is passed over."""
    found = (match.split("=") for match in re.findall(r"tfs-[a-z\-]+=[^,]+", header))
    return {pair[0]: pair[1].strip() for pair in found if len(pair) == 2}


def told(failure: Failure) -> Answer:
    return failure.http_status, json.dumps({"error": failure.message}).encode(), "application/json"


def accepted_type(accept: str | None) -> str:
    """The first type of the Accept header, where JSON is among them."""
    types = (accept or "").strip().replace(" ", "").split(",")
    return types[0] if {"application/json", "application/jsonlines"} & set(types) else "application/json"


def json_request(text: str) -> str:
    """JSON of any shape -> a predict request, by the container's patterns."""
    if re.search(r'"(instances|inputs|examples)"\s*:', text):
        return text
    if re.search(r"[}\]]\s*[\[{]", text):
        lines = [line.strip() for line in re.split(r"\r?\n", text.strip())]
        rows = ",".join(line for line in lines if line)
        return f'{{"instances":{rows}}}' if len(lines) == 1 else f'{{"instances":[{rows}]}}'
    rows = text if re.match(r"\s*\[\s*\[", text) else f"[{text}]"
    return f'{{"instances":{rows}}}'


def csv_request(text: str) -> str:
    """Lines of values -> a predict request. As in the container, only the first quote and comma of a line count."""
    needs_quotes = not re.match(r'\s*("|[\d.Ee+\-]+.*)', text)
    rows = []
    for line in (line.strip() for line in re.split(r"\r?\n", text.strip())):
        if not line:
            continue
        quoted = '"' + line.replace('"', '\\"', 1).replace(",", '","', 1) + '"' if needs_quotes else line
        rows.append(f"[{quoted}]" if "," in line else quoted)
    return f'{{"instances":[{",".join(rows)}]}}'
