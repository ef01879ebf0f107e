"""The labels of versions, kept as TensorFlow Serving keeps them: a ModelServerConfig in text form, `models.config`.

Source: config/model_server_config.proto and g3doc/serving_config.md of tensorflow/serving.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from google.protobuf import text_format

from unfreeze.errors import OutputError, SavedModelError
from unfreeze.protobuf_pool import MessagePool, MessageTable, pool_of_table

FILE = "models.config"  # beside the versions; no number, so no server takes it for one
_LABEL = re.compile(r"[a-zA-Z0-9_]+", re.ASCII)  # what the paths of the REST interface take
# Only what is written here; other fields are an error.
MESSAGES: MessageTable = {
    "Latest": [("num_versions", 1, "uint32")],
    "All": [],
    "Specific": [("versions", 1, "repeated int64")],
    "VersionPolicy": [("latest", 100, "Latest"), ("all", 101, "All"), ("specific", 102, "Specific")],
    "Label": [("key", 1, "string"), ("value", 2, "int64")],
    "ModelConfig": [
        ("name", 1, "string"),
        ("base_path", 2, "string"),
        ("model_platform", 4, "string"),
        ("model_version_policy", 7, "VersionPolicy"),
        ("version_labels", 8, "repeated Label"),
    ],
    "ModelConfigList": [("config", 1, "repeated ModelConfig")],
    "ModelServerConfig": [("model_config_list", 1, "ModelConfigList")],
}


@dataclass(frozen=True)
class ModelConfig:
    """One model of a model server: where its versions are, which of them are loaded, and what they are called.

    `versions` are loaded and no others; none: the newest.
    """

    name: str
    base_path: str
    labels: Mapping[str, int] = field(default_factory=dict)
    versions: Collection[int] = ()


def as_text(config: ModelConfig) -> str:
    """A ModelServerConfig in text form, as `--model_config_file` takes it."""
    message = _message()
    told = message.model_config_list.config.add(
        name=config.name, base_path=config.base_path, model_platform="tensorflow"
    )
    if config.versions:
        told.model_version_policy.specific.versions.extend(sorted(config.versions))
    for label, version in sorted(config.labels.items()):
        told.version_labels.add(key=label, value=version)
    return text_format.MessageToString(message)


def from_text(text: str, path: object) -> ModelConfig:
    """What `as_text` wrote.

    Raises: SavedModelError when it is something else.
    """
    message = _message()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise SavedModelError(f"{path}: not a model config of TensorFlow Serving: {error}; mend or remove it") from None
    configs = message.model_config_list.config
    if len(configs) != 1:
        raise SavedModelError(f"{path}: {len(configs)} models, but the file beside the versions is of one; mend it")
    config = configs[0]
    labels = {label.key: label.value for label in config.version_labels}
    versions = tuple(config.model_version_policy.specific.versions)
    return ModelConfig(config.name, config.base_path, labels, versions)


def label_of(text: str) -> str:
    """The same label, if TensorFlow Serving takes it."""
    if not _LABEL.fullmatch(text):
        raise OutputError(f"label {text!r}: letters, digits and _ only, since it stands in the path of requests")
    return text


def loaded(versions: Collection[int], labels: Mapping[str, int]) -> list[int]:
    """What a server has to load: the newest, and every version with a label; without a label none is named."""
    named = {*labels.values(), *([max(versions)] if versions else [])}
    return sorted(named) if labels else []


def _message() -> Any:
    return _messages().message_class("ModelServerConfig")()


@cache
def _messages() -> MessagePool:
    return pool_of_table("unfreeze.serving", MESSAGES)
