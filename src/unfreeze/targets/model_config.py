"""The labels of versions, kept as TensorFlow Serving keeps them: a ModelServerConfig in text form, `models.config`.

Source: config/model_server_config.proto and g3doc/serving_config.md of tensorflow/serving.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from unfreeze.errors import OutputError, SavedModelError

FILE = "models.config"  # beside the versions; no number, so no server takes it for one
_LABEL = re.compile(r"[a-zA-Z0-9_]+", re.ASCII)  # what the paths of the REST interface take
_STRING, _INT64, _BOOL, _MESSAGE = 9, 3, 8, 11
# Message -> its fields: name, number, kind, repeated. Only what is written here; other fields are an error.
_SCHEMA: dict[str, tuple[tuple[str, int, int | str, bool], ...]] = {
    "Latest": (("num_versions", 1, 13, False),),
    "All": (),
    "Specific": (("versions", 1, _INT64, True),),
    "VersionPolicy": (
        ("latest", 100, "Latest", False),
        ("all", 101, "All", False),
        ("specific", 102, "Specific", False),
    ),
    "Label": (("key", 1, _STRING, False), ("value", 2, _INT64, False)),
    "ModelConfig": (
        ("name", 1, _STRING, False),
        ("base_path", 2, _STRING, False),
        ("model_platform", 4, _STRING, False),
        ("model_version_policy", 7, "VersionPolicy", False),
        ("version_labels", 8, "Label", True),
    ),
    "ModelConfigList": (("config", 1, "ModelConfig", True),),
    "ModelServerConfig": (("model_config_list", 1, "ModelConfigList", False),),
}  # fmt: skip


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
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName("unfreeze.serving.ModelServerConfig"))()


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """A pool of our own, so that the official stubs may live in the same process."""
    file = descriptor_pb2.FileDescriptorProto(name="model_server_config.proto", package="unfreeze.serving")
    file.syntax = "proto3"
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            added = message.field.add(name=field_name, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                added.type, added.type_name = _MESSAGE, f".unfreeze.serving.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
