"""The label map that names a CenterNet's keypoints, wherever it is on this machine.

A config has the path that it had where the model was trained; the original fails where that does not exist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unfreeze.config.label_map import read_label_map
from unfreeze.config.text import OnWarning
from unfreeze.errors import ConfigError

FIELD = "keypoint_label_map_path"
# The class and the keypoints of COCO, which every published config asks for.
COCO = Path(__file__).parent / "coco_person_keypoints.pbtxt"


def with_keypoint_labels(
    config: Any,
    folder: str | os.PathLike[str],
    label_map: str | os.PathLike[str] | None = None,
    on_warning: OnWarning | None = None,
) -> Any:
    """The config, a copy where need be, with a `keypoint_label_map_path` that exists here; which one, is told.

    Looked for in turn: the path itself, from `folder` (the config's) if it is not absolute; the same file name in
    `folder`; `label_map`, if it has the keypoints; COCO's persons, if these are what is asked for.

    Raises:
        ConfigError: none of them.
    """
    center_net = config.model.center_net
    if config.model.WhichOneof("model") != "center_net" or not center_net.keypoint_estimation_task:
        return config
    given = center_net.keypoint_label_map_path
    if given and os.path.isfile(given):
        return config
    classes = {task.keypoint_class_name for task in center_net.keypoint_estimation_task}
    for path, what in _candidates(given, Path(folder), label_map):
        if path.is_file() and (what == "" or classes <= _classes(path)):
            if on_warning is not None:
                on_warning(f"{FIELD} {given!r} is not on this machine; {what or f'{path} is used'}")
            found = type(config)()
            found.CopyFrom(config)
            found.model.center_net.keypoint_label_map_path = str(path)
            return found
    raise ConfigError(
        f"{FIELD} {given!r} is not on this machine, nor is a file of that name in {folder}; put it there, or give a "
        f"label map that has the keypoints of {', '.join(map(repr, sorted(classes)))} with --label-map"
    )


def _candidates(given: str, folder: Path, label_map: str | os.PathLike[str] | None) -> Iterator[tuple[Path, str]]:
    """Where it may be, and what to say of it if that is more than the path."""
    if given:
        yield folder / given, ""
        yield folder / re.split(r"[\\/]", given)[-1], ""
    if label_map is not None:
        yield Path(label_map), f"keypoints are those of the label map {label_map}"
    yield COCO, "the keypoints are taken for those of a person in COCO (17 keypoints, class 1)"


def _classes(path: Path) -> set[str]:
    """The names of the classes with keypoints."""
    return {label.name for label in read_label_map(path).labels.values() if label.keypoints}
