"""Serve a folder of versions on this machine, as TensorFlow Serving would."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from unfreeze.errors import ArchiveError, ConfigError, SavedModelError, UnsupportedError
from unfreeze.server.process import Server, wait_for_signal
from unfreeze.server.rest import alive
from unfreeze.server.sagemaker import SageMakerServer
from unfreeze.server.settings import Batching, Settings, read_batching, read_metrics_path, read_models, single_model
from unfreeze.web import routes

# Refusals and small answers wait for threads that read large requests: under four times the load, with Python's own
# 5 ms a refusal takes twice as long, and a third fewer requests are answered.
SWITCH_INTERVAL_S = 0.0005


def serve(model_base_path: str | Path | None = None, **options: Any) -> None:
    """Answer requests until SIGTERM or Ctrl-C; `options` are those of `start_server`."""
    until_asked_to_end(start_server(model_base_path, **options))


def start_server(
    model_base_path: str | Path | None = None,
    *,
    model_name: str = "default",
    model_config_file: str | Path | None = None,
    batching_parameters_file: str | Path | None = None,
    enable_batching: bool = False,
    monitoring_config_file: str | Path | None = None,
    **flags: Any,
) -> Server:
    """Load the models and answer requests from threads of their own, until `stop()` of what is returned.

    It may stand in a `with`, whose end stops it; `rest_port` and `grpc_port` tell where it answers.

    Args:
        model_base_path: the folder with the numbered versions; or a SavedModel without versions, as its version 1.
        model_config_file: serves these models instead.
        flags: the other flags of tensorflow_model_server, fields of `unfreeze.server.Settings`.

    Raises: an UnfreezeError when it cannot start.
    """
    settings = Settings(models=models(model_base_path, model_name, model_config_file), **flags)
    if model_config_file:
        settings = replace(settings, model_config_file=Path(model_config_file))
    else:
        settings = replace(settings, follow_labels=True)
    settings = replace(settings, batching=batching(enable_batching, batching_parameters_file))
    if monitoring_config_file:
        settings = replace(settings, metrics_path=read_metrics_path(monitoring_config_file))
    running = Server(settings)
    running.extra_routes += routes(running.find_version, alive)
    running.start()
    return running


def start_sagemaker(
    archive: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    on_warning: Callable[[str], None] = lambda line: None,
    **flags: Any,
) -> SageMakerServer:
    """Answer /ping and /invocations as SageMaker's container does, from a model.tar.gz or what is unpacked from one.

    Its code/inference.py is run in this process, with everything that this process may do.

    Raises: an UnfreezeError when it cannot start.
    """
    if not Path(archive).exists():
        raise ArchiveError(f"{archive} does not exist; give a model.tar.gz, or a folder unpacked from one")
    running = SageMakerServer(archive, flags, host, port)
    if running.uninstalled:
        on_warning(running.uninstalled)
    running.start()
    return running


def page_address(running: Server) -> str | None:
    """Where a browser finds the page; None where REST is not served."""
    host = running.settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{running.rest_port}/" if running.rest_port else None


def addresses(running: Server | SageMakerServer) -> str:
    """Where everything answers, one line each."""
    address = page_address(running) if isinstance(running, Server) else None
    return "\n".join([str(running), *([f"page {address}"] if address else [])])


def until_asked_to_end(running: Server | SageMakerServer) -> None:
    """Wait for SIGTERM or Ctrl-C, then end in good order."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        wait_for_signal()
    finally:
        running.stop()


def models(base_path: str | Path | None, name: str, config_file: str | Path | None) -> Any:
    """The models to serve, as tensorflow_model_server's flags name them."""
    if config_file:
        if base_path:
            raise ConfigError("give MODEL_BASE_PATH or --model-config-file, not both")
        return read_models(config_file)
    if not base_path:
        raise ConfigError("give MODEL_BASE_PATH (a folder with numbered versions) or --model-config-file")
    if "://" in os.fspath(base_path):
        raise UnsupportedError(f"not supported yet: {base_path}; serve a folder of this machine")
    if not Path(base_path).is_dir():
        raise SavedModelError(f"{base_path} is not a folder; give the one that holds the numbered versions")
    return single_model(name, base_path)


def batching(enabled: bool, parameters_file: str | Path | None) -> Any:
    if parameters_file and not enabled:
        raise ConfigError("--batching-parameters-file needs --enable-batching")
    if not enabled:
        return None
    return read_batching(parameters_file) if parameters_file else Batching()
