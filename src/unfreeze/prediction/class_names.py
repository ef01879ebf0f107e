"""Finds the names of a model's classes: in a label map, or in the model's outputs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unfreeze import config
from unfreeze.errors import ConfigError

Names = Mapping[int, str]  # class id -> display name


def class_names(label_map: Path | None, folder: Path) -> Names:
    """Returns the display names of a label map, or of the one in the SavedModel's assets/; empty if there is none."""
    labels = find_label_map(label_map, folder)
    return labels.display_names if labels else {}


def find_label_map(label_map: Path | None, folder: Path) -> config.LabelMap | None:
    """Returns the label map at that path, or else the one in the SavedModel's assets/, or None.

    Raises: ConfigError if assets/ has several, or if the label map cannot be read.
    """
    if label_map is not None:
        return config.read_label_map(label_map)
    exported = sorted((folder / "assets").glob("*.pbtxt"))
    if len(exported) > 1:
        names = ", ".join(path.name for path in exported)
        raise ConfigError(f"{folder / 'assets'} has several label maps ({names}). Choose one with --label-map.")
    return config.read_label_map(exported[0]) if exported else None


def names_in_outputs(outputs: Mapping[str, np.ndarray]) -> Names:
    """Returns the names that a model returns along with the classes; a class without a name is omitted."""
    names = outputs.get("detection_class_names", ())
    pairs = zip(outputs["detection_classes"], map(str, names), strict=False)
    return {round(float(class_id)): name for class_id, name in pairs if name}
