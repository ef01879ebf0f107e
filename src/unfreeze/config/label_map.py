"""Label maps (`.pbtxt`): the names of class ids.

Source: research/object_detection/utils/label_map_util.py and protos/string_int_label_map.proto.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from unfreeze.callbacks import OnMessage
from unfreeze.config import messages
from unfreeze.config.enum_names import enum_name
from unfreeze.config.text import merge_text, read_text, warn
from unfreeze.errors import ConfigError
from unfreeze.file_kinds import LABEL_MAP

_BACKGROUND = "background"


@dataclass(frozen=True)
class Label:
    """One class. `keypoints` are labels by id; `frequency` is the category of LVIS, such as FREQUENT."""

    id: int
    name: str
    display_name: str | None = None
    keypoints: Mapping[int, str] = field(default_factory=dict)
    ancestor_ids: tuple[int, ...] = ()
    descendant_ids: tuple[int, ...] = ()
    frequency: str | None = None
    instance_count: int | None = None

    @property
    def text(self) -> str:
        """The display name, or the name if there is none."""
        return self.display_name or self.name


@dataclass(frozen=True)
class LabelMap:
    """The classes by id (1 and up; 0 is the background), in the order of the file."""

    labels: Mapping[int, Label]

    @property
    def names(self) -> dict[int, str]:
        """The names of the training data by id."""
        return {label.id: label.name for label in self.labels.values()}

    @property
    def display_names(self) -> dict[int, str]:
        """The display names by id; the name of the training data if a class has none."""
        return {label.id: label.text for label in self.labels.values()}

    @property
    def keypoints(self) -> dict[int, dict[int, str]]:
        """Keypoint labels by class id and keypoint id, of the classes that have keypoints."""
        return {label.id: dict(label.keypoints) for label in self.labels.values() if label.keypoints}

    def text(self, class_id: int) -> str:
        """Returns the display name of a class, or such as `category_7` if the map does not have it."""
        label = self.labels.get(int(class_id))
        return label.text if label is not None else f"category_{int(class_id)}"


def read_label_map(
    path: str | os.PathLike[str],
    *,
    allow_unknown_fields: bool = False,
    on_warning: OnMessage | None = None,
) -> LabelMap:
    """Reads a label map.

    Raises: ConfigError if the file is not a label map, a class has no id or no name, two classes have one id, or id 0
    is not the background.
    """
    message = messages.StringIntLabelMap()
    outline = merge_text(
        read_text(path, LABEL_MAP),
        message,
        str(path),
        allow_unknown_fields=allow_unknown_fields,
        on_warning=on_warning,
    )
    if not message.item:
        raise ConfigError(f"{path}: has no item; expected {LABEL_MAP}")
    # `item: [{…}, {…}]` has one line for several items; then errors name only the file.
    lines = outline.roots if len(outline.roots) == len(message.item) else [None] * len(message.item)
    labels: dict[int, Label] = {}
    for item, line in zip(message.item, lines, strict=True):
        where = f"{path}:{line}" if line is not None else f"{path}"
        label = _label(item, where)
        first = labels.setdefault(label.id, label)
        if first.name == label.name and first != label:
            warn(f"{where}: '{label.name}' has id {label.id} a second time; the first item counts", on_warning)
        elif first != label:
            raise ConfigError(f"{where}: '{first.name}' and '{label.name}' both have id {label.id}; ids must be unique")
    return LabelMap(labels)


def _label(item: messages.StringIntLabelMapItem, where: str) -> Label:
    name = item.name or item.display_name
    if not name:
        raise ConfigError(f"{where}: item with id {item.id} has no name; add name: '…'")
    if not item.HasField("id"):
        raise ConfigError(f"{where}: item '{name}' has no id; ids start from 1")
    if item.id < 0:
        raise ConfigError(f"{where}: item '{name}' has id {item.id}; ids start from 1")
    if item.id == 0 and _BACKGROUND not in (item.name, item.display_name):
        raise ConfigError(f"{where}: item '{name}' has id 0, which is reserved for '{_BACKGROUND}'; ids start from 1")
    return Label(
        id=item.id,
        name=name,
        display_name=item.display_name or None,
        keypoints=_keypoints(item, name, where),
        ancestor_ids=tuple(item.ancestor_ids),
        descendant_ids=tuple(item.descendant_ids),
        frequency=enum_name(item, "frequency") if item.HasField("frequency") else None,
        instance_count=item.instance_count if item.HasField("instance_count") else None,
    )


def _keypoints(item: messages.StringIntLabelMapItem, name: str, where: str) -> dict[int, str]:
    keypoints: dict[int, str] = {}
    for keypoint in item.keypoints:
        if keypoint.id in keypoints:
            raise ConfigError(f"{where}: item '{name}' has keypoint id {keypoint.id} twice; ids must be unique")
        keypoints[keypoint.id] = keypoint.label
    return keypoints
