"""Starts the REST and gRPC servers, and stops them without losing a request that was accepted."""

import logging
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType

import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from unfreeze.errors import OutputError, SavedModelError
from unfreeze.server.engine import Engine
from unfreeze.server.grpc_services import add_port, grpc_server
from unfreeze.server.http_connections import connection_class
from unfreeze.server.rest import rest_app
from unfreeze.server.settings import Settings
from unfreeze.server.status import StatusError

LOG = logging.getLogger("unfreeze.server")
BACKLOG = 1024


class HttpServer:
    """An ASGI application on a port, in a thread of its own."""

    def __init__(self, host: str, port: int, port_option: str, grace_s: float) -> None:
        """Binds the port; `grace_s` bounds the head of a request, and the requests in flight at the end.

        Raises: OutputError if the port is in use.
        """
        self.grace_s = grace_s
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = socket.socket(family, socket.SOCK_STREAM)
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.listening.bind((host, port))
        except OSError as error:
            self.listening.close()
            raise cannot_listen(port_option, host, port, error) from error
        self.port: int = self.listening.getsockname()[1]
        self.server: uvicorn.Server | None = None
        self.thread: threading.Thread | None = None

    def start(self, app: Starlette) -> None:
        """Serves an application in a thread."""
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
        # In a thread that is not the main one, uvicorn installs no signal handlers.
        self.thread = threading.Thread(target=self.server.run, args=([self.listening],), name="http")
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        """Stops accepting requests, and waits for those that were accepted."""
        if self.server and self.thread:
            self.server.should_exit = True
            self.thread.join()
        self.listening.close()


class Server:
    """A REST and a gRPC server over one engine."""

    def __init__(self, settings: Settings, extra_routes: list[BaseRoute] | None = None) -> None:
        self.settings = settings
        self.engine = Engine(settings)
        self.stopping = threading.Event()
        self.http: HttpServer | None = None
        self.grpc: grpc.Server | None = None
        self.grpc_port: int | None = None
        self.extra_routes = extra_routes or []

    @property
    def rest_port(self) -> int | None:
        """The port of REST; None before `start`, or if REST is disabled."""
        return self.http.port if self.http else None

    def start(self) -> None:
        """Binds the ports, loads the models, then accepts requests.

        Raises: OutputError if a port is in use, SavedModelError if a model has versions and none of them loads.
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
        """Stops accepting requests, and returns when those that were accepted are finished."""
        self.stopping.set()
        grpc_stopped = self.grpc.stop(self._grace_s()) if self.grpc else None
        if self.http:
            self.http.stop()
        if grpc_stopped:
            grpc_stopped.wait()
        self.engine.stop()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def find_version(self, name: str, number: int | None = None) -> tuple[int, Path]:
        """Returns the number and the folder of an available version, by default of the newest.

        Raises: LookupError if there is none.
        """
        try:
            version = self.engine.models.find(name, number)
        except StatusError as error:
            raise LookupError(error.message) from error
        return version.number, version.folder

    def _grace_s(self) -> float:
        return self.settings.rest_api_timeout_in_ms / 1000

    def __str__(self) -> str:
        """Returns the models and the addresses, one on each line."""
        served = self.engine.models.served.values()
        loaded = [f"{model.name} [{', '.join(map(str, model.available()))}]" for model in served]
        lines = [f"serving {', '.join(loaded)}"]
        if self.rest_port:
            lines += [f"REST http://{self.settings.host}:{self.rest_port}/v1/models/{model.name}" for model in served]
        if self.grpc_port:
            lines.append(f"gRPC {self.settings.host}:{self.grpc_port}{' with TLS' if self.settings.ssl else ''}")
        lines += [
            f"requests of {log.model} are logged: {log.pattern}" for log in self.engine.request_logs.logs.values()
        ]
        return "\n".join(lines)

    def serving(self) -> bool:
        """Returns whether the server accepts requests and every model has an available version."""
        models = self.engine.models
        return not self.stopping.is_set() and all(models.ready(name) for name in models.served)

    def _bind_grpc(self) -> None:
        if self.settings.port is None:
            return
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self.grpc = grpc_server(self.engine, self.serving)
        try:
            self.grpc_port = add_port(self.grpc, f"{host}:{self.settings.port}", self.settings.ssl)
        except RuntimeError as error:
            raise cannot_listen("--port", self.settings.host, self.settings.port, error) from error

    def _check_loaded(self) -> None:
        """Raises SavedModelError if all versions of a model failed to load. A model may still be without versions."""
        for model in self.engine.models.served.values():
            failed = [version for version in model.versions.values() if version.error]
            if failed and not model.available():
                newest = max(failed, key=lambda version: version.number)
                raise SavedModelError(
                    f"{newest.path}: version {newest.number} of model {model.name} failed to load: "
                    f"{newest.error.message if newest.error else ''}"
                )


def cannot_listen(port_option: str, host: str, port: int, error: Exception) -> OutputError:
    """Returns the error of an address on which the server cannot listen."""
    reason = isinstance(error, OSError) and error.strerror
    return OutputError(
        f"cannot listen on {host}:{port}: {reason or 'the port is in use, or the address is not of this machine'}. "
        f"Choose another one with {port_option} or --host."
    )


def wait_for_signal() -> None:
    """Sleeps until the process receives SIGTERM or Ctrl-C."""
    received = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        received.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not received.wait(1.0):  # with a timeout: on Windows, a signal does not interrupt an endless wait
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
