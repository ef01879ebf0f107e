"""Starts a server for folders of versions, or for a SageMaker archive.

Faults of the arguments and of the files that they name are reported before TensorFlow is imported, which takes seconds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import ArchiveError, ConfigError, SavedModelError, UnsupportedError
from unfreeze.runtimes import FILE_RUNTIMES, find_model_file
from unfreeze.server.runtime_options import RuntimeOptions
from unfreeze.server.settings import (
    METRICS_PATH,
    Batching,
    Settings,
    read_batching,
    read_metrics_path,
    read_models,
    read_ssl,
    single_model,
)

if TYPE_CHECKING:
    from unfreeze.server.process import Server
    from unfreeze.server.sagemaker import SageMakerServer

# How often Python switches threads. Rejections and small responses wait for threads that parse large requests: at four
# times the possible load, Python's default of 5 ms doubles the time of a rejection and costs a third of the responses.
SWITCH_INTERVAL_S = 0.0005
SUFFIXES = " or ".join(runtime.suffix for runtime in FILE_RUNTIMES)


def serve(
    model_base_path: str | Path | None = None,
    *,
    model_name: str = "default",
    model_config_file: str | Path | None = None,
    model_config_file_poll_wait_seconds: float = 0,
    file_system_poll_wait_seconds: float = 1,
    max_num_load_retries: int = 5,
    load_retry_interval_micros: int = 60_000_000,
    enable_model_warmup: bool = True,
    allow_version_labels_for_unavailable_models: bool = False,
    host: str = "127.0.0.1",
    port: int | None = 8500,
    rest_api_port: int | None = 8501,
    rest_api_timeout_in_ms: int = 30_000,
    enable_batching: bool = False,
    batching_parameters_file: str | Path | None = None,
    monitoring_config_file: str | Path | None = None,
    ssl_config_file: str | Path | None = None,
    rest_api_enable_cors_support: bool = False,
    tensorflow_intra_op_parallelism: int = 0,
    tensorflow_inter_op_parallelism: int = 0,
    per_process_gpu_memory_fraction: float = 0.0,
    gpu_memory_growth: bool = False,
    max_queued_requests: int = 64,
    max_request_bytes: int = 64 * 2**20,
    max_image_pixels: int = 64_000_000,
) -> None:
    """Serves models until the process receives SIGTERM or Ctrl-C; the arguments are those of `start_server`."""
    arguments = locals()  # before any other variable: exactly the arguments of start_server
    wait_until_stopped(start_server(**arguments))


def start_server(
    model_base_path: str | Path | None = None,
    *,
    model_name: str = "default",
    model_config_file: str | Path | None = None,
    model_config_file_poll_wait_seconds: float = 0,
    file_system_poll_wait_seconds: float = 1,
    max_num_load_retries: int = 5,
    load_retry_interval_micros: int = 60_000_000,
    enable_model_warmup: bool = True,
    allow_version_labels_for_unavailable_models: bool = False,
    host: str = "127.0.0.1",
    port: int | None = 8500,
    rest_api_port: int | None = 8501,
    rest_api_timeout_in_ms: int = 30_000,
    enable_batching: bool = False,
    batching_parameters_file: str | Path | None = None,
    monitoring_config_file: str | Path | None = None,
    ssl_config_file: str | Path | None = None,
    rest_api_enable_cors_support: bool = False,
    tensorflow_intra_op_parallelism: int = 0,
    tensorflow_inter_op_parallelism: int = 0,
    per_process_gpu_memory_fraction: float = 0.0,
    gpu_memory_growth: bool = False,
    max_queued_requests: int = 64,
    max_request_bytes: int = 64 * 2**20,
    max_image_pixels: int = 64_000_000,
) -> Server:
    """Loads the models, serves them from threads, and returns the server. Its `stop()`, or a `with` block, ends it.

    Args:
        model_base_path: the folder with the numbered versions; or a model without versions, as its version 1: a
            SavedModel, the folder of an export, or a .onnx, .xml (OpenVINO) or .tflite file.
        model_name: the name of the model in requests.
        model_config_file: a ModelServerConfig in text format with the models to serve, instead of `model_base_path`.
        model_config_file_poll_wait_seconds: the time until that file is read again; 0 reads it only at the start.
        file_system_poll_wait_seconds: the time between two looks for new versions; 0 looks only at the start.
        max_num_load_retries: how many times to retry a version that failed to load.
        load_retry_interval_micros: the time between two attempts to load a version, in microseconds.
        enable_model_warmup: whether to replay the warm-up requests of a version before it is available.
        allow_version_labels_for_unavailable_models: whether a label may name a version that is not loaded yet.
        host: the address to listen on.
        port: the port of gRPC; None disables gRPC, 0 means any free port, which is the `grpc_port` of the server.
        rest_api_port: the port of REST; None disables REST, 0 means any free port, which is its `rest_port`.
        rest_api_timeout_in_ms: the deadline of a REST request, in milliseconds.
        enable_batching: whether to answer requests that wait at the same time with one call of the model.
        batching_parameters_file: a BatchingParameters message in text format.
        monitoring_config_file: a MonitoringConfig message in text format: the path of the metrics, if any.
        ssl_config_file: an SSLConfig message in text format, with the key and certificate for gRPC with TLS.
        rest_api_enable_cors_support: whether pages of other origins may send REST requests from a browser.
        tensorflow_intra_op_parallelism: the number of threads of one TensorFlow operation; 0 leaves it to TensorFlow.
        tensorflow_inter_op_parallelism: the number of TensorFlow operations that run at the same time; 0 as above.
        per_process_gpu_memory_fraction: the part of a GPU's memory that TensorFlow may take, up to 1; 0 means all.
        gpu_memory_growth: whether TensorFlow takes the memory of a GPU as needed, rather than all of it at the start.
        max_queued_requests: how many requests may be in flight; further ones are rejected.
        max_request_bytes: the size of the largest request that is accepted, in bytes.
        max_image_pixels: the size of the largest encoded image that is accepted, in pixels.

    Raises: an UnfreezeError if the server cannot start.
    """
    if ssl_config_file and port is None:
        raise ConfigError("--ssl-config-file has no effect without gRPC. Pass --port.")
    if rest_api_enable_cors_support and rest_api_port is None:
        raise ConfigError("--rest-api-enable-cors-support has no effect without REST. Pass --rest-api-port.")
    settings = Settings(
        models=models_to_serve(model_base_path, model_name, model_config_file),
        model_config_file=Path(model_config_file) if model_config_file else None,
        model_config_file_poll_wait_seconds=model_config_file_poll_wait_seconds,
        follow_labels=not model_config_file,
        file_system_poll_wait_seconds=file_system_poll_wait_seconds,
        max_num_load_retries=max_num_load_retries,
        load_retry_interval_micros=load_retry_interval_micros,
        enable_model_warmup=enable_model_warmup,
        allow_version_labels_for_unavailable_models=allow_version_labels_for_unavailable_models,
        host=host,
        port=port,
        rest_api_port=rest_api_port,
        rest_api_timeout_in_ms=rest_api_timeout_in_ms,
        batching=batching_parameters(enable_batching, batching_parameters_file),
        metrics_path=read_metrics_path(monitoring_config_file) if monitoring_config_file else METRICS_PATH,
        ssl=read_ssl(ssl_config_file) if ssl_config_file else None,
        cors=rest_api_enable_cors_support,
        max_queued_requests=max_queued_requests,
        max_request_bytes=max_request_bytes,
        max_image_pixels=max_image_pixels,
    )
    runtime = RuntimeOptions(
        intra_op_threads=tensorflow_intra_op_parallelism,
        inter_op_threads=tensorflow_inter_op_parallelism,
        gpu_memory_fraction=per_process_gpu_memory_fraction,
        gpu_memory_growth=gpu_memory_growth,
    )
    runtime.apply()
    from unfreeze.server.process import Server  # imports TensorFlow
    from unfreeze.server.rest import alive
    from unfreeze.web import routes

    server = Server(settings)
    server.extra_routes += routes(server.find_version, alive)
    server.start()
    return server


def start_sagemaker(
    archive: str | Path | None = None,
    *,
    multi_model: bool = False,
    host: str = "127.0.0.1",
    port: int = 8080,
    enable_model_warmup: bool = True,
    rest_api_timeout_in_ms: int = 30_000,
    max_queued_requests: int = 64,
    max_request_bytes: int = 64 * 2**20,
    max_image_pixels: int = 64_000_000,
    on_warning: OnMessage = ignore,
) -> SageMakerServer:
    """Serves a model.tar.gz, or a folder unpacked from one, as SageMaker's TensorFlow Serving container does.

    Its code/inference.py runs in this process, with all permissions of this process.

    Args:
        archive: the model.tar.gz, or the folder.
        multi_model: whether to serve a multi-model endpoint, without an archive: `POST /models` loads the models.
        host: the address to listen on.
        port: the port of /ping, /invocations and /models; 0 means any free port.
        enable_model_warmup: whether to replay the warm-up requests of each version before it is available.
        rest_api_timeout_in_ms: the deadline of a request.
        max_queued_requests: how many requests may be in flight; further ones are rejected.
        max_request_bytes: the size of the largest request that is accepted, in bytes.
        max_image_pixels: the size of the largest encoded image that is accepted, in pixels.
        on_warning: receives what the container would install for code/inference.py and this server does not.

    Raises: an UnfreezeError if the server cannot start.
    """
    if multi_model and archive:
        raise ConfigError("--multi-model takes no archive. POST /models loads the models.")
    if not multi_model and not archive:
        raise ConfigError("there is no archive to serve. Pass a model.tar.gz, or --multi-model.")
    if archive and not Path(archive).exists():
        raise ArchiveError(f"{archive} does not exist. Pass a model.tar.gz, or a folder unpacked from one.")
    from unfreeze.server.sagemaker import SageMakerServer  # imports TensorFlow

    server = SageMakerServer(
        archive,
        host=host,
        port=port,
        enable_model_warmup=enable_model_warmup,
        rest_api_timeout_in_ms=rest_api_timeout_in_ms,
        max_queued_requests=max_queued_requests,
        max_request_bytes=max_request_bytes,
        max_image_pixels=max_image_pixels,
    )
    if server.missing_requirements:
        on_warning(server.missing_requirements)
    server.start()
    return server


def page_address(server: Server) -> str | None:
    """Returns the address of the page for browsers; None if REST is disabled."""
    host = server.settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{server.rest_port}/" if server.rest_port else None


def addresses(server: Server | SageMakerServer) -> str:
    """Returns the addresses of a server, one on each line."""
    from unfreeze.server.process import Server

    address = page_address(server) if isinstance(server, Server) else None
    return "\n".join([str(server), *([f"page {address}"] if address else [])])


def wait_until_stopped(server: Server | SageMakerServer) -> None:
    """Waits for SIGTERM or Ctrl-C, then stops the server."""
    from unfreeze.server.process import wait_for_signal

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        wait_for_signal()
    finally:
        server.stop()


def models_to_serve(base_path: str | Path | None, name: str, config_file: str | Path | None) -> ModelServerConfig:
    """Returns the config of one model, or that of a file. Raises: an UnfreezeError if neither or both are given."""
    if config_file:
        if base_path:
            raise ConfigError("MODEL_BASE_PATH and --model-config-file exclude each other. Pass one of them.")
        return read_models(config_file)
    if not base_path:
        raise ConfigError(
            "there is no model to serve. Pass MODEL_BASE_PATH (a folder with numbered versions) or --model-config-file."
        )
    if "://" in os.fspath(base_path):
        raise UnsupportedError(f"not supported yet: serving from {base_path}. Copy the versions to a local folder.")
    path = Path(base_path)
    if not path.is_dir() and find_model_file(path) is None:
        problem = "is neither a folder nor a file that can be served" if path.exists() else "does not exist"
        raise SavedModelError(f"{path} {problem}. Pass the folder with the numbered versions, or a {SUFFIXES} file.")
    return single_model(name, base_path)


def batching_parameters(enabled: bool, parameters_file: str | Path | None) -> Batching | None:
    if parameters_file and not enabled:
        raise ConfigError("--batching-parameters-file has no effect without --enable-batching. Pass that too.")
    if not enabled:
        return None
    return read_batching(parameters_file) if parameters_file else Batching()
