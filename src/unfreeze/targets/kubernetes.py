"""The parts that manifests for Kubernetes share: allowed names and amounts of memory, templates, comments on oneDNN.

The templates are data/*.yaml.jinja.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from unfreeze.errors import OutputError
from unfreeze.onednn import ASSUME_FROZEN_WEIGHTS
from unfreeze.targets.gpus import ALLOW_GROWTH, Gpus

_NAME = re.compile(r"[a-z0-9](-*[a-z0-9]){0,49}", re.ASCII)
_MEMORY = re.compile(r"\d+(\.\d+)?([KMGT]i?)?", re.ASCII)


def require_kubernetes_name(name: str) -> str:
    """Returns the name if Kubernetes accepts it.

    Raises: OutputError if it does not.
    """
    if not _NAME.fullmatch(name):
        raise OutputError(
            f"--name {name}: Kubernetes accepts lower-case letters, digits and - between them, at most 50 characters"
        )
    return name


def require_memory(memory: str) -> str:
    """Returns the amount of memory if it is in the notation of Kubernetes.

    Raises: OutputError if it is not.
    """
    if not _MEMORY.fullmatch(memory):
        raise OutputError(f"--memory {memory}: must be an amount in the notation of Kubernetes, such as 4Gi")
    return memory


def memory_bytes(memory: str) -> int:
    """Returns the bytes of an amount of memory in the notation of Kubernetes, such as 4Gi or 500M."""
    number, suffix = re.fullmatch(r"([\d.]+)(.*)", memory).groups()  # type: ignore[union-attr]  # require_memory
    base = 1024 if suffix.endswith("i") else 1000
    return int(float(number) * base ** ("KMGT".index(suffix[0]) + 1 if suffix else 0))


def render_manifest(manifest: str, environment: Mapping[str, str], gpus: Gpus, **values: object) -> str:
    """Returns the text of data/MANIFEST.jinja with these values, the server's environment variables and its GPUs.

    Values are not escaped: they must have been checked.
    """
    template = (files("unfreeze.targets") / "data" / f"{manifest}.jinja").read_text("utf-8")
    jinja = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return jinja.from_string(template).render(
        environment=environment,
        environment_comment=environment_comment(environment) + gpu_comment(environment),
        gpus=gpus.count,
        gpu_flags=gpus.flags,
        **values,
    )


def environment_comment(environment: Mapping[str, str]) -> list[str]:
    """Returns the comment lines above the environment variables for oneDNN; none if there are no variables."""
    if not environment:
        return []
    if ASSUME_FROZEN_WEIGHTS in environment:
        return [
            "oneDNN keeps reordered weights for each version of the model, so a new version needs no restart.",
            f"Remove {ASSUME_FROZEN_WEIGHTS} before you serve a model whose weights depend on the request;",
            "`unfreeze package` omits it for such a model.",
        ]
    return [f"{ASSUME_FROZEN_WEIGHTS} is not set, since weights of this model depend on the request."]


def gpu_comment(environment: Mapping[str, str]) -> list[str]:
    """Returns the comment line above the environment variable for GPUs; none without GPUs."""
    if ALLOW_GROWTH not in environment:
        return []
    return [f"{ALLOW_GROWTH}: the server allocates GPU memory when it needs it, not all of it at the start."]
