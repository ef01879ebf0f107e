"""Packages a model for KServe: an InferenceService that loads the versions at a storage URI."""

from __future__ import annotations

import re
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import OutputError
from unfreeze.staging import staged
from unfreeze.targets.gpus import require_gpus
from unfreeze.targets.kubernetes import memory_bytes, render_manifest, require_kubernetes_name, require_memory
from unfreeze.targets.packaged import Packaged, read_served_model
from unfreeze.targets.platform_limits import memory_findings

TARGET = "kserve"
MANIFEST = "inference-service.yaml"
_URI = re.compile(r"(pvc|s3|gs|https?|hdfs)://[^\s\"'#{}\[\],&*!|>%@`]+")  # no character that YAML would interpret


def package_kserve(
    saved_model: str | Path,
    output_directory: str | Path = TARGET,
    *,
    name: str = "detector",
    server: str = TARGET,
    storage_uri: str = "",
    cpus: int = 2,
    memory: str = "4Gi",
    gpus: int = 0,
    gpu_memory_fraction: float | None = None,
    overwrite: bool = False,
    on_warning: OnMessage = ignore,
) -> Packaged:
    """Writes an InferenceService for a model whose versions are, or will be, at `storage_uri`.

    Args:
        saved_model: the folder with saved_model.pb, or the folder of the export above it.
        output_directory: the folder to write.
        name: the name of the model and of the InferenceService.
        server: the version of TensorFlow Serving that KServe runs: `kserve` for its default, or `kserve:2.19`.
        storage_uri: a folder of versions, such as s3://bucket/models/NAME; by default a path of the volume claim
            NAME-models.
        cpus: how many CPUs each server gets.
        memory: how much memory each server gets, in the notation of Kubernetes.
        gpus: how many NVIDIA GPUs each server gets; with at least one, the server is the image for GPUs.
        gpu_memory_fraction: the part of each GPU's memory that a server may use, up to 1; by default all of it.
        overwrite: whether to replace existing files.

    Raises:
        UnsupportedError, SavedModelError: the version of the server is not known, or it cannot load the model.
        OutputError: an argument is not valid, the weights need more memory, or the output exists or cannot be written.
    """
    require_kubernetes_name(name)
    require_memory(memory)
    storage_uri = require_storage_uri(storage_uri or f"pvc://{name}-models/models/{name}")
    gpu_settings = require_gpus(gpus, gpu_memory_fraction)
    model = read_served_model(saved_model, server, target=TARGET, hardware=gpu_settings.hardware)
    image = model.server.image(hardware=gpu_settings.hardware)
    for warning in memory_findings(model.numbers, memory_bytes(memory), f"--memory {memory}"):
        on_warning(warning)
    text = render_manifest(
        MANIFEST,
        model.environment,
        gpu_settings,
        name=name,
        storage_uri=storage_uri,
        tag=image.rpartition(":")[2],
        cpus=cpus,
        memory=memory,
    )
    with staged(Path(output_directory), (MANIFEST,), overwrite=overwrite) as folder:
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return Packaged(Path(output_directory), (MANIFEST,), image, model)


def require_storage_uri(uri: str) -> str:
    """Returns the URI if KServe can load models from it.

    Raises: OutputError if it cannot.
    """
    if not _URI.fullmatch(uri):
        raise OutputError(f"--storage-uri {uri}: must be a URL such as s3://bucket/models/NAME or pvc://claim/path")
    return uri
