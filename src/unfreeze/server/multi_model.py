"""SageMaker's interface for multi-model endpoints: models are loaded, listed, called and unloaded by requests.

The status codes are those of the contract for containers (409 if a model is loaded already, 404 if it is not, 507 if
memory is short), and the texts those of the TensorFlow container. Source: aws/deep-learning-containers
scripts/docker/tensorflow/inference/sagemaker/python_service.py; "Custom Containers Contract for Multi-Model Endpoints".
"""

import errno
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from unfreeze.errors import ArchiveError
from unfreeze.formatting import megabytes
from unfreeze.server.archives import unpack
from unfreeze.server.engine import Entrypoint
from unfreeze.server.invocations import (
    CSV,
    JSON,
    JSON_TYPES,
    Context,
    Front,
    Handler,
    Reply,
    import_handler,
    unsupported_media_type,
)
from unfreeze.server.process import Server
from unfreeze.server.request_workers import RequestWorkers
from unfreeze.server.rest import CLIENT_CLOSED_REQUEST, Target, error_response, infer, version_status
from unfreeze.server.settings import PLATFORM, number_in
from unfreeze.server.status import StatusCode, StatusError, invalid, not_found
from unfreeze.version_folders import version_folders

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
TARGET_MODEL = "X-Amzn-SageMaker-Target-Model"
LOAD_TIMEOUT = "SAGEMAKER_TFS_WAIT_TIME_SECONDS"
DEFAULT_LOAD_TIMEOUT_S = 60
MEMORY_PER_FILE_BYTE = 2  # of a model: its weights, and a copy of them while they are read
NO_MEMORY = "Memory exhausted: not enough memory to load the model"
TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar")

Handle = Callable[[Request], Awaitable[Response]]


class ModelFront(Front):
    """The invocations of one model. Without a script, the body is passed to TensorFlow Serving as it is."""

    def __init__(self, server: Server, name: str, url: str, handler: Handler | None, workers: RequestWorkers) -> None:
        super().__init__(server, name, handler, None, workers)  # the container passes no channel to these scripts
        self.url = url

    def _check_content_type(self, content_type: str | None) -> None:
        kind = (content_type or "").split(";")[0].strip().lower()
        if kind and kind not in (*JSON_TYPES, CSV):
            raise unsupported_media_type(kind)

    def _target(self, custom_attributes: str) -> Target:
        return replace(super()._target(custom_attributes), model=self.default_model)

    def _context(self, target: Target, headers: Mapping[str, str]) -> Context:
        return super()._context(target, headers)._replace(model_name=self.default_model)

    def _without_script(self, target: Target, headers: Mapping[str, str], body: bytes, deadline: float) -> Reply:
        try:
            with self.engine.counted(target.model, target.method.value, Entrypoint.REST):
                response = infer(self.engine, target, body, deadline)
        except StatusError as error:
            title = f"{error.http_status} {HTTPStatus(error.http_status).phrase}"
            description = json.dumps({"error": error.message})
            return Reply(error.http_status, json.dumps({"title": title, "description": description}).encode(), JSON)
        return Reply(200, response, headers.get("accept") or JSON)


class MultiModelFront:
    """The models of the endpoint, and the handlers of its paths."""

    def __init__(self, server: Server, workers: RequestWorkers, folder: Path) -> None:
        """Unpacks archives in `folder`, if a model is loaded from one."""
        self.server = server
        self.engine = server.engine
        self.folder = folder
        self.workers = workers
        load_timeout_s = number_in(os.environ, LOAD_TIMEOUT, DEFAULT_LOAD_TIMEOUT_S)
        settings = server.settings
        self.loaders = RequestWorkers(workers.admission, 1, settings.max_request_bytes, load_timeout_s)
        self.config = ModelServerConfig()  # of the models that are loaded
        self.fronts: dict[str, ModelFront] = {}
        self.unpacked: dict[str, Path] = {}
        self.changing = threading.Lock()

    async def ping(self, request: Request) -> Response:
        return Response()

    async def load(self, request: Request) -> Response:
        """Loads a model: `{"model_name": NAME, "url": FOLDER}`."""
        try:
            return JSONResponse({"success": await self.loaders.process(request, self._load)})
        except StatusError as error:
            if error.code is StatusCode.DEADLINE_EXCEEDED:
                message = f"Timed out after {self.loaders.timeout_s:g} seconds"
                raise StatusError(error.code, message, HTTPStatus.REQUEST_TIMEOUT) from error
            raise

    async def describe_all(self, request: Request) -> Response:
        """Lists the models, as the contract and, under their names, as the TensorFlow container does."""
        fronts = dict(self.fronts)
        listed = [contract_entry(front) for front in fronts.values()]
        return JSONResponse({**{name: self._status(name) for name in fronts}, "models": listed})

    async def describe(self, request: Request) -> Response:
        name = checked_name(request.path_params["name"])
        entry = contract_entry(self._front(name))
        return JSONResponse({"model": self._status(name), **entry})

    async def unload(self, request: Request) -> Response:
        """Unloads a model. Calls of the model that have begun are finished; requests that still wait fail."""
        name = checked_name(request.path_params["name"])
        return JSONResponse({"success": await self.loaders.process(request, lambda body, deadline: self._unload(name))})

    async def invoke(self, request: Request) -> Response:
        return await self._front(request.path_params["name"]).invocations(request)

    async def invoke_target(self, request: Request) -> Response:
        """Calls the model of the request's header, as SageMaker does for its clients."""
        return await self._front(request.headers.get(TARGET_MODEL, "")).invocations(request)

    async def reject_invocation(self, request: Request) -> Response:
        raise invalid("Invocation request does not contain model name.")

    def _front(self, name: str) -> ModelFront:
        """Returns the front of a model. Raises: StatusError NOT_FOUND if it is not loaded."""
        front = self.fronts.get(name)
        if front is None:
            raise not_found(f"Model {name} is not loaded yet.")
        return front

    def _load(self, body: bytes, deadline: float) -> str:
        name, url = load_request(body)
        with self.changing:
            if name in self.fronts:
                raise StatusError(StatusCode.ALREADY_EXISTS, f"Model {name} is already loaded.")
            try:
                folder = self._folder_of(name, url)
                versions = version_numbers(folder, name)
                require_memory(folder)
                handler = import_handler(folder)
                self._serve(name, folder, versions)
                if time.monotonic() > deadline:
                    raise StatusError(StatusCode.DEADLINE_EXCEEDED, "too late")
            except Exception as error:  # of the files, the model or its script: nothing of the model stays loaded
                self._forget(name)
                raise load_error(error) from error
            self.fronts[name] = ModelFront(self.server, name, url, handler, self.workers)
        ports = f"rest port {self.server.rest_port} and grpc port {self.server.grpc_port}"
        return f"Successfully loaded model {name}, listening on {ports}."

    def _unload(self, name: str) -> str:
        with self.changing:
            if name not in self.fronts:
                raise not_found(f"Model {name} is not loaded yet")
            del self.fronts[name]
            self._forget(name)
        return f"Successfully unloaded model {name}."

    def _folder_of(self, name: str, url: str) -> Path:
        """Returns the folder of a model; an archive, which SageMaker would unpack, is unpacked."""
        path = Path(url)
        if not path.is_file() or not path.name.endswith(TAR_SUFFIXES):
            return path
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.unpacked[name] = folder
        unpack(path, folder)
        return folder

    def _serve(self, name: str, folder: Path, versions: list[int]) -> None:
        """Loads the versions of a model. Raises: StatusError if one of them does not load."""
        config = self._config_without(name)
        model = config.model_config_list.config.add(name=name, base_path=str(folder), model_platform=PLATFORM)
        model.model_version_policy.specific.versions.extend(versions)
        self._apply(config)
        for version in self.engine.models.known_versions(name):
            if version.error:
                raise version.error

    def _forget(self, name: str) -> None:
        """Unloads a model, if it is loaded, and removes what was unpacked for it."""
        config = self._config_without(name)
        self._apply(config)
        folder = self.unpacked.pop(name, None)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)

    def _apply(self, config: ModelServerConfig) -> None:
        self.config = config
        self.engine.apply(config)

    def _config_without(self, name: str) -> ModelServerConfig:
        config = ModelServerConfig()
        for model in self.config.model_config_list.config:
            if model.name != name:
                config.model_config_list.config.append(model)
        return config

    def _status(self, name: str) -> dict[str, Any]:
        """Returns the status of a model as TensorFlow Serving does."""
        return {"model_version_status": [version_status(each) for each in self.engine.models.known_versions(name)]}


def multi_model_app(front: MultiModelFront) -> Starlette:
    """Returns the application with the container's paths for multi-model endpoints."""
    routes: list[tuple[str, str, Handle]] = [
        ("GET", "/ping", front.ping),
        ("POST", "/models", front.load),
        ("GET", "/models", front.describe_all),
        ("GET", "/models/{name}", front.describe),
        ("DELETE", "/models/{name}", front.unload),
        ("POST", "/models/{name}/invoke", front.invoke),
        ("POST", "/invocations", front.reject_invocation),
        ("POST", "/endpoints/{endpoint}/invocations", front.invoke_target),  # boto3 requests this one
    ]
    return Starlette(
        routes=[Route(path, reporting_errors(handle), methods=[method]) for method, path, handle in routes]
    )


def reporting_errors(handle: Handle) -> Handle:
    """Returns a handler that responds to a StatusError with its HTTP status and message."""

    async def respond(request: Request) -> Response:
        try:
            return await handle(request)
        except StatusError as error:
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    return respond


def contract_entry(front: ModelFront) -> dict[str, str]:
    """Returns a model as an entry of the contract's list."""
    return {"modelName": front.default_model, "modelUrl": front.url}


def checked_name(name: object) -> str:
    """Returns the name of a model. Raises: StatusError if it is not valid."""
    if not isinstance(name, str) or not MODEL_NAME.fullmatch(name):
        raise invalid(f"invalid model_name: {name!r}")
    return name


def load_request(body: bytes) -> tuple[str, str]:
    """Returns the name and the URL in the body of a load request. Raises: StatusError."""
    try:
        document = json.loads(body)
        name, url = document["model_name"], document["url"]
    except (ValueError, KeyError, TypeError):
        raise invalid('The body must be {"model_name": NAME, "url": FOLDER}.') from None
    if not isinstance(url, str) or not url or "\0" in url:
        raise invalid(f"invalid url: {url!r}")
    return checked_name(name), url


def version_numbers(folder: Path, name: str) -> list[int]:
    """Returns the versions of a model. Raises: StatusError NOT_FOUND if it has none at the root of its folder."""
    if not folder.is_dir():
        raise not_found(f"Could not find valid base path {folder} for servable {name}")
    versions = version_folders(path.name for path in folder.iterdir() if path.is_dir())
    if not versions:
        raise not_found(
            f"Could not find valid base path {folder} for servable {name}. The archive of a multi-model endpoint must "
            "have a version folder such as 1/ at its root."
        )
    return list(versions)


def require_memory(folder: Path) -> None:
    """Raises StatusError, as HTTP 507, if the memory of this machine is too short for the files of a model."""
    needed = MEMORY_PER_FILE_BYTE * sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    available = available_memory_bytes()
    if available is not None and needed > available:
        message = f"{megabytes(needed)} needed, {megabytes(available)} available"
        raise StatusError(StatusCode.RESOURCE_EXHAUSTED, message)


def available_memory_bytes() -> int | None:
    """Returns the memory that a program could take without swapping; None where /proc/meminfo does not exist."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def no_memory(reason: str = "") -> StatusError:
    """Returns the error on which SageMaker unloads other models, and tries again."""
    message = f"{NO_MEMORY}: {reason}" if reason else NO_MEMORY
    return StatusError(StatusCode.RESOURCE_EXHAUSTED, message, HTTPStatus.INSUFFICIENT_STORAGE)


def load_error(error: Exception) -> StatusError:
    """Returns the error of a model that cannot be loaded, with the HTTP status of the container."""
    out_of_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if out_of_memory:
        return no_memory()
    if not isinstance(error, StatusError):
        known = isinstance(error, (ArchiveError, OSError))
        return StatusError(StatusCode.INTERNAL, str(error) if known else f"{type(error).__name__}: {error}")
    if error.code is StatusCode.RESOURCE_EXHAUSTED:
        return no_memory(error.message)
    if error.code in (StatusCode.NOT_FOUND, StatusCode.DEADLINE_EXCEEDED):
        return StatusError(error.code, error.message)
    return StatusError(StatusCode.INTERNAL, str(error))
