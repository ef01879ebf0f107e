"""TensorFlow Serving in containers: its configs, a compose file, a Kubernetes manifest; KServe's InferenceService.

Source: g3doc/serving_config.md and the batching guide of tensorflow/serving. The manifests' templates are data/*.yaml.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from string import Template
from textwrap import indent

from unfreeze.errors import OutputError
from unfreeze.onednn import ASSUME_FROZEN_WEIGHTS
from unfreeze.targets.model_config import ModelConfig, format_model_config
from unfreeze.targets.server_versions import ServerVersion

MONITORING = """prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""
# Beside the variables of oneDNN, by whether the weights are assumed to be frozen.
ONEDNN_COMMENTS = {
    True: "oneDNN keeps the weights that it has reordered, for each version its own: a new version needs no restart.\n"
    "Remove TF_ONEDNN_ASSUME_FROZEN_WEIGHTS before you serve a model whose weights depend on the request;\n"
    "`unfreeze package` leaves it out for such a model.",
    False: "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS is left out: weights of this model depend on the request.",
}
_NAME = re.compile(r"[a-z0-9](-*[a-z0-9]){0,49}", re.ASCII)
_URI = re.compile(r"(pvc|s3|gs|https?|hdfs)://[^\s\"'#{}\[\],&*!|>%@`]+")


@dataclass(frozen=True)
class Options:
    """How much one server gets; `batching` joins requests into batches, which have to be of one size."""

    name: str
    version: int = 1
    cpus: int = 2
    memory: str = "4Gi"
    batching: bool = True
    storage_uri: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def name_of(name: str) -> str:
    """The same name, if Kubernetes takes it.

    Raises: OutputError when it does not.
    """
    if not _NAME.fullmatch(name):
        raise OutputError(f"--name {name}: small letters, digits and - between them, at most 50, for Kubernetes")
    return name


def write_tensorflow_serving(folder: Path, saved_model: Path, runtime: ServerVersion, options: Options) -> list[str]:
    """Writes the model, TensorFlow Serving's configs, compose.yaml and kubernetes.yaml; returns the names."""
    shutil.copytree(saved_model, folder / "models" / options.name / str(options.version))
    configs = {
        "models.config": format_model_config(ModelConfig(options.name, f"/models/{options.name}")),
        "batching_parameters.txt": batching_parameters(options.cpus),
        "monitoring.config": MONITORING,
    }
    for name, text in configs.items():
        (folder / name).write_text(text, encoding="utf-8")
    told = {
        "name": options.name,
        "image": runtime.image(),
        "cpus": options.cpus,
        "memory": options.memory,
        "storage": "10Gi",
        **{name.replace(".", "_"): indent(text.rstrip(), " " * 4) for name, text in configs.items()},
    }
    for name, spaces in (("compose.yaml", 6), ("kubernetes.yaml", 12)):
        flags = "\n".join(f'{" " * spaces}- "{flag}"' for flag in server_flags(options))
        environment = environment_lines(options.environment, spaces, as_list=name == "kubernetes.yaml")
        text = _template(name).substitute(told, flags=flags, environment=environment)
        (folder / name).write_text(text, encoding="utf-8")
    return sorted(path.name for path in folder.iterdir())


def write_kserve(folder: Path, runtime: ServerVersion, options: Options) -> list[str]:
    """Writes inference-service.yaml; returns the names."""
    uri = options.storage_uri or f"pvc://{options.name}-models/models/{options.name}"
    if not _URI.fullmatch(uri):
        raise OutputError(f"--storage-uri {uri}: a URL such as s3://bucket/models/{options.name} or pvc://claim/path")
    told = {
        "name": options.name,
        "storage_uri": uri,
        "tag": runtime.tag,
        "cpus": options.cpus,
        "memory": options.memory,
        "environment": environment_lines(options.environment, 8, as_list=True),
    }
    text = _template("inference-service.yaml").substitute(told)
    (folder / "inference-service.yaml").write_text(text, encoding="utf-8")
    return ["inference-service.yaml"]


def environment_lines(environment: Mapping[str, str], spaces: int, *, as_list: bool) -> str:
    """The variables of a server as YAML, below a comment: a list of names and values, or for compose a mapping."""
    comments = ONEDNN_COMMENTS[ASSUME_FROZEN_WEIGHTS in environment].splitlines()
    variables = [
        f'- {{name: {name}, value: "{value}"}}' if as_list else f'{name}: "{value}"'
        for name, value in environment.items()
    ]
    return indent("\n".join([*(f"# {line}" for line in comments), *variables]), " " * spaces)


def batching_parameters(cpus: int) -> str:
    """On processors: as many threads as there are, and no waiting for a batch to fill."""
    return (
        "max_batch_size { value: 8 }\n"
        "batch_timeout_micros { value: 0 }\n"
        f"num_batch_threads {{ value: {cpus} }}\n"
        "max_enqueued_batches { value: 100 }\n"
    )


def server_flags(options: Options) -> list[str]:
    """The flags of tensorflow_model_server."""
    batching = [
        "--enable_batching=true",
        "--batching_parameters_file=/config/batching_parameters.txt",
    ]
    return [
        "--port=8500",
        "--rest_api_port=8501",
        "--rest_api_timeout_in_ms=60000",
        "--model_config_file=/config/models.config",
        "--model_config_file_poll_wait_seconds=60",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file=/config/monitoring.config",
        *(batching if options.batching else ()),
    ]


def _template(name: str) -> Template:
    return Template((files("unfreeze.targets") / "data" / name).read_text("utf-8"))
