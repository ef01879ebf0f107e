"""Server releases that a model can be deployed to: `tensorflow-serving:2.6`, `kserve`, `sagemaker:2.19`.

data/server_versions.json has for each server {TensorFlow version: tag of its container image} for x86 CPUs
("tensorflow"), NVIDIA GPUs ("gpu") and Graviton ("arm"). A server knows the operations of the TensorFlow that it was
built from.

Source: hub.docker.com/r/tensorflow/serving/tags; image_uri_config/tensorflow.json of aws/sagemaker-python-sdk
("inference" and "inference_graviton"), and for 2.20 the docs of aws/deep-learning-containers, both of August 2026;
Triton's release notes for the last image with a TensorFlow backend, 25.02. Its README says that the backend is built
from NVIDIA's TensorFlow image of the same release, whose package is nvidia-tensorflow 2.17.0+nv25.2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypedDict

from unfreeze.errors import SavedModelError, UnsupportedError
from unfreeze.targets.instance_types import Hardware


@dataclass(frozen=True)
class ServerVersion:
    """A release of a server, by the TensorFlow that it was built from, such as "2.6"; "" if it has no TensorFlow."""

    name: str
    tensorflow: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tensorflow}" if self.tensorflow else self.name

    def image(self, region: str = "", hardware: Hardware = Hardware.CPU) -> str:
        """Returns the name of the container image for a processor; SageMaker has one in each AWS region.

        Raises: UnsupportedError if this version has no image for the processor.
        """
        server = _servers()[self.name]
        tag = _tags(self.name, hardware).get(self.tensorflow) if self.tensorflow else self.tag
        if tag is None:
            raise UnsupportedError(
                f"not supported: {self} has no container image for a {hardware.value}. The versions that have one are "
                f"{', '.join(_tags(self.name, hardware)) or 'none'}; choose one with --for."
            )
        image = server["arm_image"] if hardware is Hardware.ARM else server["image"]
        if "accounts" not in server:
            return image.format(tag=tag)
        account = server["accounts"].get(region, server["accounts"][""])
        domains = server["domains"]
        domain = domains[max((prefix for prefix in domains if region.startswith(prefix)), key=len)]
        return image.format(account=account, region=region, domain=domain, tag=tag)


def parse_server_version(text: str, hardware: Hardware = Hardware.CPU) -> ServerVersion:
    """Returns the server that `NAME` or `NAME:VERSION` means; a version of 2.6.5 means 2.6.

    Without a version it is the default one, or the newest that has an image for the processor if the default has none.

    Raises: UnsupportedError if there is no such server, or its version is not known.
    """
    name, _, version = text.partition(":")
    servers = _servers()
    if name not in servers:
        raise UnsupportedError(f"not supported: --for {text}. Use {', '.join(servers)}, with or without :VERSION.")
    tags = _tags(name, Hardware.CPU)
    tensorflow = ".".join(version.split(".")[:2]) or _default_version(name, hardware)
    tag = tags.get(tensorflow)
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


def _default_version(name: str, hardware: Hardware) -> str:
    default = _servers()[name]["default"]
    available = _tags(name, hardware)
    return default if default in available or not available else list(available)[-1]


def _tags(name: str, hardware: Hardware) -> dict[str, str]:
    """Returns the tag of each TensorFlow version that a server has an image of; empty if it has none."""
    tables: dict[Hardware, Literal["tensorflow", "gpu", "arm"]] = {
        Hardware.CPU: "tensorflow",
        Hardware.GPU: "gpu",
        Hardware.ARM: "arm",
    }
    server = _servers()[name]
    tags = server.get(tables[hardware], {}) if hardware in tables else {}
    if name == "kserve":  # KServe runs images of TensorFlow Serving, and may be set to any of them
        return {**_tags("tensorflow-serving", hardware), **tags}
    return tags


class _Server(TypedDict, total=False):
    """An entry of data/server_versions.json; only SageMaker has accounts and domains, by prefixes of AWS regions."""

    tensorflow: dict[str, str]
    gpu: dict[str, str]
    arm: dict[str, str]
    image: str
    arm_image: str
    default: str
    accounts: dict[str, str]
    domains: dict[str, str]


@cache
def _servers() -> dict[str, _Server]:
    text = (files("unfreeze.targets") / "data" / "server_versions.json").read_text("utf-8")
    servers: dict[str, _Server] = json.loads(text)
    return servers
