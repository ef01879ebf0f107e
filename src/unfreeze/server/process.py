"""Starts the servers, and ends them without losing a request that was accepted."""

import logging
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any

import uvicorn
from starlette.routing import BaseRoute

from unfreeze.errors import OutputError, SavedModelError
from unfreeze.server.engine import Engine
from unfreeze.server.grpc_services import grpc_server
from unfreeze.server.rest import rest_app
from unfreeze.server.settings import Settings

LOG = logging.getLogger("unfreeze.server")
BACKLOG = 1024


class Server:
    """REST and gRPC over one engine."""

    def __init__(self, settings: Settings, extra_routes: list[BaseRoute] | None = None) -> None:
        self.settings = settings
        self.engine = Engine(settings)
        self.stopping = threading.Event()
        self.rest: uvicorn.Server | None = None
        self.rest_thread: threading.Thread | None = None
        self.grpc: Any = None
        self.rest_port: int | None = None
        self.grpc_port: int | None = None
        self.extra_routes = extra_routes or []

    def start(self) -> None:
        """Take the ports, load the models, then answer.

        Raises: OutputError when a port is taken, SavedModelError when a model has no version that loads.
        """
        listening = self._bind_rest()
        try:
            self._bind_grpc()
            self.engine.start()
            self._check_loaded()
        except BaseException:
            if listening:
                listening.close()
            raise
        if self.grpc:
            self.grpc.start()
        if listening:
            self._start_rest(listening)

    def stop(self) -> None:
        """Take no more requests, answer those that were accepted, and end."""
        self.stopping.set()
        grace_s = self.settings.rest_api_timeout_in_ms / 1000
        ended = self.grpc.stop(grace_s) if self.grpc else None
        if self.rest and self.rest_thread:
            self.rest.should_exit = True
            self.rest_thread.join()
        if ended:
            ended.wait()
        self.engine.stop()

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

    def _bind_rest(self) -> socket.socket | None:
        if self.settings.rest_api_port is None:
            return None
        family = socket.AF_INET6 if ":" in self.settings.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self.settings.host, self.settings.rest_api_port))
        except OSError as error:
            listening.close()
            raise port_taken("--rest-api-port", self.settings.host, self.settings.rest_api_port, error) from error
        self.rest_port = listening.getsockname()[1]
        return listening

    def _bind_grpc(self) -> None:
        if self.settings.port is None:
            return
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self.grpc = grpc_server(self.engine, self.serving)
        try:
            self.grpc_port = self.grpc.add_insecure_port(f"{host}:{self.settings.port}")
        except RuntimeError as error:
            raise port_taken("--port", self.settings.host, self.settings.port, error) from error

    def _start_rest(self, listening: socket.socket) -> None:
        listening.listen(BACKLOG)
        config = uvicorn.Config(
            rest_app(self.engine, self.extra_routes),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=self.settings.rest_api_timeout_in_ms // 1000 + 1,
        )
        self.rest = uvicorn.Server(config)
        # In a thread of its own, where uvicorn leaves the process's signals alone.
        self.rest_thread = threading.Thread(target=self.rest.run, args=([listening],), name="rest")
        self.rest_thread.start()
        while not self.rest.started and self.rest_thread.is_alive():
            time.sleep(0.01)

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
