"""Starts the servers, and ends them without losing a request that was accepted."""

import logging
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.routing import BaseRoute

from unfreeze.errors import OutputError, SavedModelError
from unfreeze.server.connections import connection_class
from unfreeze.server.engine import Engine
from unfreeze.server.failures import Failure
from unfreeze.server.grpc_services import grpc_server
from unfreeze.server.rest import rest_app
from unfreeze.server.settings import Settings

LOG = logging.getLogger("unfreeze.server")
BACKLOG = 1024


class HttpServer:
    """An application on a port, in a thread of its own."""

    def __init__(self, host: str, port: int, flag: str, grace_s: float) -> None:
        """Take the port. Raises: OutputError when it is taken already."""
        self.grace_s = grace_s
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = socket.socket(family, socket.SOCK_STREAM)
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.listening.bind((host, port))
        except OSError as error:
            self.listening.close()
            raise port_taken(flag, host, port, error) from error
        self.port: int = self.listening.getsockname()[1]
        self.server: uvicorn.Server | None = None
        self.thread: threading.Thread | None = None

    def start(self, app: Any) -> None:
        self.listening.listen(BACKLOG)
        config = uvicorn.Config(
            app,
            http=connection_class(self.grace_s),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=int(self.grace_s) + 1,
        )
        self.server = uvicorn.Server(config)
        # In a thread, uvicorn leaves the process's signals alone.
        self.thread = threading.Thread(target=self.server.run, args=([self.listening],), name="http")
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        """Take no more requests, and wait for those that were taken."""
        if self.server and self.thread:
            self.server.should_exit = True
            self.thread.join()
        self.listening.close()


class Server:
    """REST and gRPC over one engine."""

    def __init__(self, settings: Settings, extra_routes: list[BaseRoute] | None = None) -> None:
        self.settings = settings
        self.engine = Engine(settings)
        self.stopping = threading.Event()
        self.http: HttpServer | None = None
        self.grpc: Any = None
        self.grpc_port: int | None = None
        self.extra_routes = extra_routes or []

    @property
    def rest_port(self) -> int | None:
        return self.http.port if self.http else None

    def start(self) -> None:
        """Take the ports, load the models, then answer.

        Raises: OutputError when a port is taken, SavedModelError when a model has no version that loads.
        """
        settings = self.settings
        if settings.rest_api_port is not None:
            self.http = HttpServer(settings.host, settings.rest_api_port, "--rest-api-port", self._grace_s())
        try:
            self._bind_grpc()
            self.engine.start()
            self._check_loaded()
        except BaseException:
            self.stop()
            raise
        if self.grpc:
            self.grpc.start()
        if self.http:
            self.http.start(rest_app(self.engine, self.extra_routes))

    def stop(self) -> None:
        """Take no more requests, answer those that were accepted, and end."""
        self.stopping.set()
        ended = self.grpc.stop(self._grace_s()) if self.grpc else None
        if self.http:
            self.http.stop()
        if ended:
            ended.wait()
        self.engine.stop()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def find_version(self, name: str, number: int | None = None) -> tuple[int, Path]:
        """The number and the folder of a version that answers: the one asked for, or the newest.

        Raises: LookupError.
        """
        try:
            version = self.engine.models.find(name, number)
        except Failure as failure:
            raise LookupError(failure.message) from failure
        return version.number, version.folder

    def _grace_s(self) -> float:
        return self.settings.rest_api_timeout_in_ms / 1000

    def __str__(self) -> str:
        """Where it answers, one line each."""
        served = self.engine.models.served.values()
        loaded = [f"{model.name} {[version.number for version in model.available()]}" for model in served]
        lines = [f"serving {', '.join(loaded)}"]
        if self.rest_port:
            lines += [f"REST http://{self.settings.host}:{self.rest_port}/v1/models/{model.name}" for model in served]
        if self.grpc_port:
            lines.append(f"gRPC {self.settings.host}:{self.grpc_port}")
        return "\n".join(lines)

    def serving(self) -> bool:
        """Whether every model has a version that answers."""
        models = self.engine.models
        return not self.stopping.is_set() and all(models.ready(name) for name in models.served)

    def _bind_grpc(self) -> None:
        if self.settings.port is None:
            return
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self.grpc = grpc_server(self.engine, self.serving)
        try:
            self.grpc_port = self.grpc.add_insecure_port(f"{host}:{self.settings.port}")
        except RuntimeError as error:
            raise port_taken("--port", self.settings.host, self.settings.port, error) from error

    def _check_loaded(self) -> None:
        """A model whose versions all failed is a wrong folder; one without any may get its first one later."""
        for model in self.engine.models.served.values():
            failed = [version for version in model.versions.values() if version.failure]
            if failed and not model.available():
                newest = max(failed, key=lambda version: version.number)
                raise SavedModelError(
                    f"{newest.folder}: version {newest.number} of model {model.name} failed to load: "
                    f"{newest.failure.message if newest.failure else ''}"
                )


def port_taken(flag: str, host: str, port: int, error: Exception) -> OutputError:
    told = (
        error.strerror
        if isinstance(error, OSError) and error.strerror
        else "the address is taken or not of this machine"
    )
    return OutputError(f"cannot listen on {host}:{port}: {told}; choose another with {flag} or --host")


def wait_for_signal() -> None:
    """Sleep until the process is asked to end: SIGTERM, or Ctrl-C."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not asked.wait(1.0):  # not for ever: on Windows a signal does not wake an endless wait
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
