"""The interface of SageMaker's TensorFlow Serving container: a model.tar.gz, or the models of a multi-model endpoint.

Source: aws/deep-learning-containers scripts/docker/tensorflow/inference/sagemaker/serve.py; the behavior is that of the
image for TensorFlow 2.20.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import grpc
from starlette.applications import Starlette
from starlette.routing import Route
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from unfreeze.errors import ArchiveError, SavedModelError
from unfreeze.server.archives import unpack
from unfreeze.server.invocations import Front, import_handler, missing_requirements, request_workers
from unfreeze.server.multi_model import MultiModelFront, multi_model_app
from unfreeze.server.process import HttpServer, Server
from unfreeze.server.settings import PLATFORM, Batching, Settings, number_in


class SageMakerServer:
    """The container's paths on one port, in front of a server on free ports of this machine."""

    def __init__(
        self,
        archive: str | os.PathLike[str] | None,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        enable_model_warmup: bool = True,
        rest_api_timeout_in_ms: int = 30_000,
        max_queued_requests: int = 64,
        max_request_bytes: int = 64 * 2**20,
        max_image_pixels: int = 64_000_000,
    ) -> None:
        """Unpacks the archive and finds its models; without an archive, this is a server for a multi-model endpoint.

        Raises: an UnfreezeError if the archive has no models, or cannot be unpacked.
        """
        self.unpacked = tempfile.TemporaryDirectory(prefix="unfreeze-sagemaker-")
        self.folder = None if archive is None else self._unpack(archive)
        self.missing_requirements = missing_requirements(self.folder) if self.folder else ""
        self.host, self.requested_port = host, port
        config = models_config(self.folder, archive or "") if self.folder else ModelServerConfig()
        self.server = Server(
            Settings(
                models=config,
                # The container lists the versions of a model when it loads it, and serves no further ones.
                file_system_poll_wait_seconds=1 if self.folder else 0,
                max_num_load_retries=0,  # the container loads every version before it responds, and retries none
                enable_model_warmup=enable_model_warmup,
                host="127.0.0.1",
                port=0,
                rest_api_port=0,
                rest_api_timeout_in_ms=rest_api_timeout_in_ms,
                batching=batching_from_environment(os.environ),
                max_queued_requests=max_queued_requests,
                max_request_bytes=max_request_bytes,
                max_image_pixels=max_image_pixels,
            )
        )
        self.default_model = os.environ.get("SAGEMAKER_TFS_DEFAULT_MODEL_NAME") or first_model(config)
        self.http: HttpServer | None = None
        self.channel: grpc.Channel | None = None

    def start(self) -> None:
        """Binds the port, loads every version, imports inference.py, then accepts requests."""
        grace_s = self.server.settings.rest_api_timeout_in_ms / 1000
        try:
            self.http = HttpServer(self.host, self.requested_port, "--sagemaker-port", grace_s)
            self.server.start()
            self.http.start(self._app(grace_s))
        except BaseException:
            self.stop()
            raise

    def _unpack(self, archive: str | os.PathLike[str]) -> Path:
        """Returns the folder of an archive, unpacked unless it is one already."""
        folder = Path(archive)
        if folder.is_dir():
            return folder
        folder = Path(self.unpacked.name)
        try:
            unpack(archive, folder)
        except ArchiveError:
            self.unpacked.cleanup()
            raise
        return folder

    def _app(self, timeout_s: float) -> Starlette:
        workers = request_workers(self.server.settings, timeout_s)
        if self.folder is None:
            return multi_model_app(MultiModelFront(self.server, workers, Path(self.unpacked.name)))
        handler = import_handler(self.folder)
        self.channel = grpc.insecure_channel(f"localhost:{self.server.grpc_port}")
        return front_app(Front(self.server, self.default_model, handler, self.channel, workers))

    def stop(self) -> None:
        """Stops accepting requests, finishes those that were accepted, and removes the unpacked files."""
        if self.http:
            self.http.stop()
        self.server.stop()
        if self.channel:
            self.channel.close()
        self.unpacked.cleanup()

    def __str__(self) -> str:
        port = self.http.port if self.http else self.requested_port
        if self.folder is None:
            return f"SageMaker http://{self.host}:{port}/models, a multi-model endpoint"
        return f"SageMaker http://{self.host}:{port}/invocations, model {self.default_model}"


def models_config(folder: Path, origin: str | os.PathLike[str]) -> ModelServerConfig:
    """Returns the config of all versions of all models below a folder, as the container finds them.

    Raises: SavedModelError if there is none.
    """
    base_paths = sorted(
        {path.parent.parent for path in folder.rglob("saved_model.pb") if re.fullmatch(r"\d+", path.parent.name)}
    )
    if not base_paths:
        raise SavedModelError(f"{origin}: no SavedModel bundles found! The archive must contain NAME/1/saved_model.pb.")
    config = ModelServerConfig()
    for base_path in base_paths:
        name = "model" if base_path == folder else base_path.name
        model = config.model_config_list.config.add(name=name, base_path=str(base_path), model_platform=PLATFORM)
        model.model_version_policy.all.SetInParent()
    return config


def first_model(config: ModelServerConfig) -> str:
    """Returns the name of the first model, which is the default; "" if there is none."""
    return next((str(model.name) for model in config.model_config_list.config), "")


def batching_from_environment(environment: Mapping[str, str]) -> Batching | None:
    """Returns the parameters of the container's variables for batching, with its defaults; None if it is off.

    Raises: ConfigError if one is not a number.
    """
    if environment.get("SAGEMAKER_TFS_ENABLE_BATCHING", "false").lower() != "true":
        return None
    cpus = os.cpu_count() or 1

    def number(name: str, default: int) -> int:
        return number_in(environment, f"SAGEMAKER_TFS_{name}", default)

    return Batching(
        max_batch_size=number("MAX_BATCH_SIZE", 8),
        batch_timeout_micros=number("BATCH_TIMEOUT_MICROS", 1000),
        num_batch_threads=number("NUM_BATCH_THREADS", cpus),
        max_enqueued_batches=number("MAX_ENQUEUED_BATCHES", cpus),
    )


def front_app(front: "Front") -> Starlette:
    """Returns the application with the container's routes."""
    paths = ("/invocations", "/endpoints/{name}/invocations")  # boto3 requests the second one
    invocations = [Route(path, front.invocations, methods=["POST"]) for path in paths]
    return Starlette(routes=[Route("/ping", front.ping), *invocations])
