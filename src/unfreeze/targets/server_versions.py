"""Server releases that a model can be deployed to: `tensorflow-serving:2.6`, `kserve`, `sagemaker:2.19`.

data/server_versions.json has for each server {TensorFlow version: tag of its container image}. A server knows the
operations of the TensorFlow that it was built from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TypedDict

from unfreeze.errors import SavedModelError, UnsupportedError


@dataclass(frozen=True)
class ServerVersion:
    """A release of a server, by the TensorFlow that it was built from, such as "2.6"."""

    name: str
    tensorflow: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tensorflow}"

    def image(self, region: str = "") -> str:
        """Returns the name of the container image; SageMaker has one in each AWS region."""
        server = _servers()[self.name]
        if "accounts" not in server:
            return server["image"].format(tag=self.tag)
        account = server["accounts"].get(region, server["accounts"][""])
        domains = server["domains"]
        domain = domains[max((prefix for prefix in domains if region.startswith(prefix)), key=len)]
        return server["image"].format(account=account, region=region, domain=domain, tag=self.tag)


def parse_server_version(text: str) -> ServerVersion:
    """Returns the server that `NAME` or `NAME:VERSION` means; a version of 2.6.5 means 2.6.

    Raises: UnsupportedError if there is no such server, or its version is not known.
    """
    name, _, version = text.partition(":")
    servers = _servers()
    if name not in servers:
        raise UnsupportedError(f"not supported: --for {text}. Use {', '.join(servers)}, with or without :VERSION.")
    tags = servers[name]["tensorflow"]
    tensorflow = ".".join(version.split(".")[:2]) or servers[name]["default"]
    tag = tags.get(tensorflow)
    if tag is None and name == "kserve":  # KServe runs images of TensorFlow Serving
        tag = servers["tensorflow-serving"]["tensorflow"].get(tensorflow)
    if tag is None:
        raise UnsupportedError(f"not supported: --for {text}. The known versions of {name} are {', '.join(tags)}.")
    return ServerVersion(name, tensorflow, tag)


def require_known_operations(saved_model: Path, servers: Sequence[ServerVersion]) -> None:
    """Raises SavedModelError if one of the servers does not know an operation or an attribute of a SavedModel."""
    from unfreeze.targets.serving_operations import unknown_operations

    problems = [
        f"{server} cannot load the graph. {'. '.join(unknown)}."
        for server in servers
        if (unknown := unknown_operations(saved_model, server.tensorflow))
    ]
    if problems:
        raise SavedModelError(f"{saved_model}: {' '.join(problems)}")


class _Server(TypedDict, total=False):
    """An entry of data/server_versions.json; only SageMaker has accounts and domains, by prefixes of AWS regions."""

    tensorflow: dict[str, str]
    image: str
    default: str
    accounts: dict[str, str]
    domains: dict[str, str]


@cache
def _servers() -> dict[str, _Server]:
    text = (files("unfreeze.targets") / "data" / "server_versions.json").read_text("utf-8")
    servers: dict[str, _Server] = json.loads(text)
    return servers
