"""Packages a model for KServe: an InferenceService that loads the versions at a storage URI."""

from __future__ import annotations

import re
from pathlib import Path

from unfreeze.errors import OutputError
from unfreeze.staging import staged
from unfreeze.targets.kubernetes import render_manifest, require_kubernetes_name, require_memory
from unfreeze.targets.packaged import Packaged, read_served_model

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
    overwrite: bool = False,
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
        overwrite: whether to replace existing files.

    Raises:
        UnsupportedError, SavedModelError: the version of the server is not known, or it cannot load the model.
        OutputError: an argument is not valid, or the output exists or cannot be written.
    """
    require_kubernetes_name(name)
    require_memory(memory)
    storage_uri = require_storage_uri(storage_uri or f"pvc://{name}-models/models/{name}")
    model = read_served_model(saved_model, server, target=TARGET)
    text = render_manifest(
        MANIFEST,
        model.environment,
        name=name,
        storage_uri=storage_uri,
        tag=model.server.tag,
        cpus=cpus,
        memory=memory,
    )
    with staged(Path(output_directory), (MANIFEST,), overwrite=overwrite) as folder:
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    return Packaged(Path(output_directory), (MANIFEST,), model.server.image(), model)


def require_storage_uri(uri: str) -> str:
    """Returns the URI if KServe can load models from it.

    Raises: OutputError if it cannot.
    """
    if not _URI.fullmatch(uri):
        raise OutputError(f"--storage-uri {uri}: must be a URL such as s3://bucket/models/NAME or pvc://claim/path")
    return uri
