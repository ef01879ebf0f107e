"""What a model is meant for: `tensorflow-serving:2.6`, `kserve`, `sagemaker:2.19`; its TensorFlow and its image.

The versions stand in data/runtimes.json: {TensorFlow of the runtime: tag of its image}. A runtime knows the operations
of the TensorFlow that it was built from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from unfreeze.errors import SavedModelError, UnsupportedError


@dataclass(frozen=True)
class Runtime:
    """A server of one version, by the TensorFlow that it was built from: "2.6"."""

    name: str
    tensorflow: str
    tag: str

    def __str__(self) -> str:
        return f"{self.name}:{self.tensorflow}"

    def image(self, region: str = "") -> str:
        """The container image, for SageMaker the one of a region."""
        runtime = _data()[self.name]
        if "accounts" not in runtime:
            return runtime["image"].format(tag=self.tag)
        account = runtime["accounts"].get(region, runtime["accounts"][""])
        domains = runtime["domains"]
        domain = domains[max((prefix for prefix in domains if region.startswith(prefix)), key=len)]
        return runtime["image"].format(account=account, region=region, domain=domain, tag=self.tag)


def runtime(text: str) -> Runtime:
    """`NAME` or `NAME:VERSION`, where 2.6.5 means 2.6.

    Raises: UnsupportedError when there is no such runtime, or nothing is known of that version.
    """
    name, _, version = text.partition(":")
    if name not in _data():
        raise UnsupportedError(
            f"not supported yet: --for {text}; there is {', '.join(_data())}, with :VERSION or without"
        )
    tags = _data()[name]["tensorflow"]
    asked = ".".join(version.split(".")[:2]) or _data()[name]["default"]
    tag = tags.get(asked)
    if tag is None and name == "kserve":  # whose runtimes are images of TensorFlow Serving
        tag = _data()["tensorflow-serving"]["tensorflow"].get(asked)
    if tag is None:
        raise UnsupportedError(f"not supported yet: --for {text}; of {name} there is {', '.join(tags)}")
    return Runtime(name, asked, tag)


def require_known(saved_model: Path, runtimes: tuple[Runtime, ...]) -> None:
    """Raises SavedModelError when one of the runtimes does not know an operation or an attribute of a SavedModel."""
    from unfreeze.targets.operations import unknown_operations

    told = [f"{each}: {line}" for each in runtimes for line in unknown_operations(saved_model, each.tensorflow)]
    if told:
        raise SavedModelError(f"the graph does not load there: {'; '.join(told)}")


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads((files("unfreeze.targets") / "data" / "runtimes.json").read_text("utf-8"))
    return data
