"""The labels of versions, by which clients request a version. They are kept in `models.config` of the base path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unfreeze.errors import SavedModelError
from unfreeze.publishing.base_paths import BasePath, open_base_path
from unfreeze.publishing.version_numbers import require_version, require_versions
from unfreeze.targets.model_config import (
    MODELS_CONFIG,
    ModelConfig,
    format_model_config,
    parse_model_config,
    require_label,
    versions_to_load,
)


def labels(
    model_base_path: str | Path,
    assign: Mapping[str, int] | None = None,
    *,
    remove: Sequence[str] = (),
) -> dict[str, int]:
    """Moves or removes labels, and returns all labels with their versions.

    Args:
        model_base_path: the folder of versions, or a URL of an object store.
        assign: the version that each of these labels moves to.
        remove: labels to remove.

    Raises:
        OutputError, SavedModelError: a label is not valid or does not exist, a version does not exist, or the base path
            has no versions.
    """
    base = open_base_path(model_base_path)
    require_versions(base.versions(), base)  # before the lock, which creates the folder
    if not assign and not remove:
        return read_labels(base)
    with base.locked():
        current = read_labels(base)
        unknown = [label for label in remove if label not in current]
        if unknown:
            listed = ", ".join(sorted(current)) or "none"
            raise SavedModelError(f"{base}: no label {unknown[0]} (existing labels: {listed})")
        versions = base.versions()
        for label, version in (assign or {}).items():
            current[require_label(label)] = require_version(version, versions, base)
        return write_labels(base, {label: version for label, version in current.items() if label not in remove})


def read_labels(base: BasePath) -> dict[str, int]:
    """Returns the labels of a base path with their versions."""
    content = base.read(MODELS_CONFIG)
    if content is None:
        return {}
    return dict(parse_model_config(content.decode("utf-8", "replace"), f"{base}/{MODELS_CONFIG}").labels)


def write_labels(base: BasePath, labels: Mapping[str, int], *, removed: Sequence[int] = ()) -> dict[str, int]:
    """Writes models.config, and returns the labels in it: those whose version exists and is not about to be removed.

    A base path that never had a label gets no file.
    """
    versions = [version for version in base.versions() if version not in removed]
    valid = {label: version for label, version in labels.items() if version in versions}
    path = str(base)
    config = ModelConfig(path.rstrip("/").rsplit("/", 1)[-1], path, valid, versions_to_load(versions, valid))
    if valid or base.read(MODELS_CONFIG) is not None:
        base.write(MODELS_CONFIG, format_model_config(config).encode())
    return valid
