"""Finds the label map that names a CenterNet's keypoints.

A config has the path on the machine where the model was trained; the OD API fails if that file does not exist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config.label_map import read_label_map
from unfreeze.config.pipeline import PipelineConfig
from unfreeze.errors import ConfigError

FIELD = "keypoint_label_map_path"
# The class and the keypoints of COCO, which every published config needs.
COCO = Path(__file__).parent / "coco_person_keypoints.pbtxt"


def with_keypoint_labels(
    config: PipelineConfig,
    folder: str | os.PathLike[str],
    label_map: str | os.PathLike[str] | None = None,
    on_warning: OnMessage = ignore,
) -> PipelineConfig:
    """Returns the config with a `keypoint_label_map_path` that exists here, in a copy if the path changes.

    Candidates, in order: the path itself, relative to `folder` (the config's) if it is not absolute; the same file name
    in `folder`; `label_map`, if it has the keypoints; the persons of COCO, if the config needs these. `on_warning`
    receives the choice.

    Raises: ConfigError if no candidate exists and has the keypoints.
    """
    center_net = config.model.center_net
    if config.model.WhichOneof("model") != "center_net" or not center_net.keypoint_estimation_task:
        return config
    configured = center_net.keypoint_label_map_path
    if configured and os.path.isfile(configured):
        return config
    classes = {task.keypoint_class_name for task in center_net.keypoint_estimation_task}
    for path, substitute in _candidates(configured, Path(folder), label_map):
        if path.is_file() and (not substitute or classes <= _classes(path)):
            on_warning(f"{FIELD} {configured!r} is not on this machine; using {substitute or path}")
            changed = PipelineConfig()
            changed.CopyFrom(config)
            changed.model.center_net.keypoint_label_map_path = str(path)
            return changed
    raise ConfigError(
        f"{FIELD} {configured!r} is not on this machine, and there is no file of that name in {folder}. Copy it there, "
        f"or pass a label map with the keypoints of {', '.join(map(repr, sorted(classes)))} as --label-map."
    )


def _candidates(configured: str, folder: Path, label_map: str | os.PathLike[str] | None) -> Iterator[tuple[Path, str]]:
    """Yields paths to try, each with its description if it is another label map than the configured one."""
    if configured:
        yield folder / configured, ""
        yield folder / re.split(r"[\\/]", configured)[-1], ""
    if label_map is not None:
        yield Path(label_map), f"the keypoints of the label map {label_map}"
    yield COCO, "the keypoints of a person in COCO (17 keypoints, class 1)"


def _classes(path: Path) -> set[str]:
    """Returns the names of the classes with keypoints."""
    return {label.name for label in read_label_map(path).labels.values() if label.keypoints}
