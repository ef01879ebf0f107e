"""Matches the classes of a model with the categories of annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from unfreeze.config import LabelMap
from unfreeze.errors import ConfigError
from unfreeze.evaluation.annotations import Annotations, ClassKey
from unfreeze.formatting import amount, first_few

MAX_NAMED = 5


@dataclass(frozen=True)
class UnknownClass:
    """A class of the annotations that the model does not know, and how many objects it has. It does not count."""

    name: str
    objects: int


@dataclass(frozen=True)
class ClassMatching:
    """The category of each class id of the model, and the categories that none has."""

    categories: Mapping[int, int]
    unknown: tuple[UnknownClass, ...] = ()


def match_classes(labels: LabelMap | None, annotations: Annotations, *, strict: bool) -> ClassMatching:
    """Returns the matching by name if the label map has names of the annotations, else by id; TFRecords by id only.

    Raises: ConfigError if the annotations have no ids and no name matches, or with `strict` if a class has no match.
    """
    dataset = annotations.dataset
    counts = Counter(annotation["category_id"] for annotation in dataset["annotations"])
    ids = {category["id"]: category["id"] for category in dataset["categories"]}
    by_name = _by_name(labels, annotations) if annotations.class_key is not ClassKey.ID else None
    if by_name is None and annotations.class_key is ClassKey.NAME:
        names = first_few(sorted(category["name"] for category in dataset["categories"]), MAX_NAMED)
        raise ConfigError(
            f"{annotations.path}: the classes ({names}) are matched by name, but "
            + ("the label map has none of them. " if labels else "there is no label map. ")
            + "Pass the model's label map with --label-map."
        )
    if by_name is None:
        known = set(labels.labels) if labels is not None else set(ids)
        categories = {class_id: category for class_id, category in ids.items() if class_id in known}
    else:
        categories = dict(by_name)
    missing = set(ids) - set(categories.values())
    unknown = tuple(
        UnknownClass(str(category["name"]), counts[category["id"]])
        for category in dataset["categories"]
        if category["id"] in missing and counts[category["id"]]
    )
    if unknown and strict:
        raise ConfigError(f"{annotations.path}: {unknown_classes_line(unknown)}")
    if not categories:
        raise ConfigError(f"{annotations.path}: {unknown_classes_line(unknown)}")
    return ClassMatching(categories, unknown)


def _by_name(labels: LabelMap | None, annotations: Annotations) -> Mapping[int, int] | None:
    """Returns the matching by name; None if no class has a name of the annotations."""
    if labels is None:
        return None
    candidates = []
    for key in ("name", "label"):
        entries = annotations.dataset["categories"]
        categories = {str(category[key]): category["id"] for category in entries if key in category}
        for names in (labels.names, labels.display_names):
            candidates.append({class_id: categories[name] for class_id, name in names.items() if name in categories})
    best = max(candidates, key=len)
    return best or None


def unknown_classes_line(unknown: tuple[UnknownClass, ...]) -> str:
    """Returns one line about the classes that the label map lacks."""
    objects = sum(item.objects for item in unknown)
    names = first_few([item.name for item in unknown], MAX_NAMED)
    are = "class of the annotations is" if len(unknown) == 1 else "classes of the annotations are"
    return (
        f"{len(unknown)} {are} not in the label map: {names} ({amount(objects, 'object')}). "
        "Pass the label map of the training with --label-map."
    )
