"""Reads and writes TensorFlow Serving's `models.config`, a ModelServerConfig in text form, which has the labels.

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

MODELS_CONFIG = "models.config"  # beside the versions; not a number, so no server takes it for a version
_LABEL = re.compile(r"[a-zA-Z0-9_]+", re.ASCII)  # what TensorFlow Serving accepts in a REST path
# The part of the schema that is written here; other fields are an error.
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
    """One model of a model server: its base path, the labels of its versions, and the versions to load.

    Without `versions` the server loads the newest version.
    """

    name: str
    base_path: str
    labels: Mapping[str, int] = field(default_factory=dict)
    versions: Collection[int] = ()


def format_model_config(config: ModelConfig) -> str:
    """Returns a ModelServerConfig in text form, as `--model_config_file` reads it."""
    message = _new_message()
    model = message.model_config_list.config.add(
        name=config.name, base_path=config.base_path, model_platform="tensorflow"
    )
    if config.versions:
        model.model_version_policy.specific.versions.extend(sorted(config.versions))
    for label, version in sorted(config.labels.items()):
        model.version_labels.add(key=label, value=version)
    text: str = text_format.MessageToString(message)
    return text


def parse_model_config(text: str, path: object) -> ModelConfig:
    """Returns the one model of a ModelServerConfig; `path` is for errors.

    Raises: SavedModelError if the text is not such a config, or has several models.
    """
    message = _new_message()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise SavedModelError(
            f"{path}: is not a model config of TensorFlow Serving ({error}). Correct or remove it."
        ) from None
    configs = message.model_config_list.config
    if len(configs) != 1:
        raise SavedModelError(f"{path}: has {len(configs)} models, expected 1. Correct it.")
    config = configs[0]
    labels = {label.key: label.value for label in config.version_labels}
    versions = tuple(config.model_version_policy.specific.versions)
    return ModelConfig(config.name, config.base_path, labels, versions)


def require_label(label: str) -> str:
    """Returns the label if TensorFlow Serving accepts it.

    Raises: OutputError if it does not.
    """
    if not _LABEL.fullmatch(label):
        raise OutputError(f"label {label!r}: only letters, digits and _ are allowed, since it is part of request paths")
    return label


def versions_to_load(versions: Collection[int], labels: Mapping[str, int]) -> list[int]:
    """Returns the versions that a server must load: the newest and those with a label; none if there are no labels."""
    if not labels:
        return []
    newest = [max(versions)] if versions else []
    return sorted({*labels.values(), *newest})


def _new_message() -> Any:
    return _messages().message_class("ModelServerConfig")()


@cache
def _messages() -> MessagePool:
    return pool_of_table("unfreeze.serving", MESSAGES)
