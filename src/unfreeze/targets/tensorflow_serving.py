"""Packages a model for TensorFlow Serving in containers: its config files, a compose file, a Kubernetes manifest.

Source: g3doc/serving_config.md and the batching guide of tensorflow/serving.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.staging import staged
from unfreeze.targets.gpus import require_gpus
from unfreeze.targets.kubernetes import memory_bytes, render_manifest, require_kubernetes_name, require_memory
from unfreeze.targets.model_config import MODELS_CONFIG, ModelConfig, format_model_config
from unfreeze.targets.packaged import Packaged, read_served_model, require_version_number
from unfreeze.targets.platform_limits import KUBERNETES, findings, memory_findings
from unfreeze.verification.meta_graph import read_meta_graph

TARGET = "tensorflow-serving"
ENTRIES = (
    "models",
    MODELS_CONFIG,
    "batching_parameters.txt",
    "monitoring.config",
    "compose.yaml",
    "kubernetes.yaml",
)
MONITORING_CONFIG = """prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""
STARTUP_ADVICE = "Raise failureThreshold of startupProbe there."


def package_tensorflow_serving(
    saved_model: str | Path,
    output_directory: str | Path = TARGET,
    *,
    name: str = "detector",
    server: str = TARGET,
    version: int = 1,
    cpus: int = 2,
    memory: str = "4Gi",
    gpus: int = 0,
    gpu_memory_fraction: float | None = None,
    batching: bool | None = None,
    overwrite: bool = False,
    on_warning: OnMessage = ignore,
) -> Packaged:
    """Writes the model with TensorFlow Serving's config files, compose.yaml and kubernetes.yaml.

    Args:
        saved_model: the folder with saved_model.pb, or the folder of the export above it.
        output_directory: the folder to write.
        name: the name of the model, and of the Kubernetes objects.
        server: the version of TensorFlow Serving, such as `tensorflow-serving:2.19`.
        version: the version number of the model.
        cpus: how many CPUs each server gets.
        memory: how much memory each server gets, in the notation of Kubernetes.
        gpus: how many NVIDIA GPUs each server gets; with at least one, the server is the image for GPUs.
        gpu_memory_fraction: the part of each GPU's memory that a server may use, up to 1; by default all of it.
        batching: whether the server runs several requests in one batch; by default if all inputs of `serving_default`
            have one size.
        overwrite: whether to replace existing files.

    Raises:
        UnsupportedError, SavedModelError: the version of the server is not known, or it cannot load the model.
        OutputError: an argument is not valid, the weights need more memory, or the output exists or cannot be written.
    """
    require_kubernetes_name(name)
    require_memory(memory)
    require_version_number(version)
    gpu_settings = require_gpus(gpus, gpu_memory_fraction)
    model = read_served_model(saved_model, server, target=TARGET, hardware=gpu_settings.hardware)
    image = model.server.image(hardware=gpu_settings.hardware)
    for warning in memory_findings(model.numbers, memory_bytes(memory), f"--memory {memory}"):
        on_warning(warning)
    for warning in findings(model.numbers, {KUBERNETES: STARTUP_ADVICE}, pixels=False):
        on_warning(warning)
    batches = inputs_have_one_size(model.folder) if batching is None else batching
    flags = server_flags(batching=batches) + gpu_settings.flags
    configs = {
        MODELS_CONFIG: format_model_config(ModelConfig(name, f"/models/{name}")),
        "batching_parameters.txt": batching_parameters(cpus),
        "monitoring.config": MONITORING_CONFIG,
    }
    with staged(Path(output_directory), ENTRIES, overwrite=overwrite) as folder:
        shutil.copytree(model.folder, folder / "models" / name / str(version))
        for file_name, text in configs.items():
            (folder / file_name).write_text(text, encoding="utf-8")
        for manifest in ("compose.yaml", "kubernetes.yaml"):
            text = render_manifest(
                manifest,
                model.environment,
                gpu_settings,
                name=name,
                image=image,
                cpus=cpus,
                memory=memory,
                flags=flags,
                configs=configs,
            )
            (folder / manifest).write_text(text, encoding="utf-8")
    return Packaged(Path(output_directory), tuple(sorted(ENTRIES)), image, model)


def inputs_have_one_size(saved_model: Path) -> bool:
    """Returns whether any two requests to serving_default fit into one batch: strings, or images of a fixed size."""
    serving_default = read_meta_graph(saved_model).signatures.get("serving_default")
    if serving_default is None:
        return False
    return all(tensor.shape is not None and None not in tensor.shape[1:] for tensor in serving_default.inputs.values())


def batching_parameters(cpus: int) -> str:
    """Returns the BatchingParameters for a CPU: as many threads as CPUs, and no waiting for a batch to fill."""
    return (
        "max_batch_size { value: 8 }\n"
        "batch_timeout_micros { value: 0 }\n"
        f"num_batch_threads {{ value: {cpus} }}\n"
        "max_enqueued_batches { value: 100 }\n"
    )


def server_flags(*, batching: bool) -> list[str]:
    """Returns the flags of tensorflow_model_server, whose config files are in /config."""
    flags = [
        "--port=8500",
        "--rest_api_port=8501",
        "--rest_api_timeout_in_ms=60000",
        f"--model_config_file=/config/{MODELS_CONFIG}",
        "--model_config_file_poll_wait_seconds=60",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file=/config/monitoring.config",
    ]
    if batching:
        flags += ["--enable_batching=true", "--batching_parameters_file=/config/batching_parameters.txt"]
    return flags
