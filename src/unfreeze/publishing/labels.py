"""The labels of versions, by which clients request a version. They are kept in `models.config` of the base path."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import OutputError, SavedModelError
from unfreeze.publishing.base_paths import BasePath, StagedVersion, open_base_path
from unfreeze.publishing.version_numbers import next_version, require_version, require_versions
from unfreeze.targets.model_config import (
    MODELS_CONFIG,
    ModelConfig,
    format_model_config,
    parse_model_config,
    require_label,
    versions_to_load,
)

PLACING = ".unfreeze-placing.json"  # the version that is being placed, and the labels to write then


def labels(
    model_base_path: str | Path,
    assign: Mapping[str, int] | None = None,
    *,
    remove: Sequence[str] = (),
    on_warning: OnMessage = ignore,
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
    with locked(base, on_warning):
        current = read_labels(base)
        unknown = [label for label in remove if label not in current]
        if unknown:
            listed = ", ".join(sorted(current)) or "none"
            raise SavedModelError(f"{base}: no label {unknown[0]} (existing labels: {listed})")
        versions = base.versions()
        for label, version in (assign or {}).items():
            current[require_label(label)] = require_version(version, versions, base)
        return write_labels(base, {label: version for label, version in current.items() if label not in remove})


@contextlib.contextmanager
def locked(base: BasePath, on_warning: OnMessage) -> Iterator[None]:
    """Locks a base path, and writes the labels of a process that ended between a version and its labels."""
    with base.locked():
        content = base.read(PLACING) if base.has_lock else None
        if content is not None:
            _finish(base, json.loads(content), on_warning)
            base.delete(PLACING)
        yield


def place(
    base: BasePath, staged: StagedVersion, requested: int | None, change: Callable[[int], Mapping[str, int]]
) -> tuple[int, dict[str, int]]:
    """Gives a version its number, and then `change(number)` as labels; returns both. The base path must be locked.

    A server may load the version between the two steps. If the process ends there, killed or by an error, the next one
    that locks the base path writes the labels. An object store has no lock, so there nobody does.

    Raises: OutputError if the requested number exists already.
    """
    if not base.has_lock:
        number = staged.place(requested)
        return number, write_labels(base, change(number))
    number = next_version(base.versions(), requested, base)
    new_labels = dict(change(number))
    base.write(PLACING, json.dumps({"version": number, "labels": new_labels}).encode())
    try:
        staged.place(number)
    except OutputError:  # there is no version, and the caller reports why
        with contextlib.suppress(OutputError):
            base.delete(PLACING)
        raise
    written = write_labels(base, new_labels)
    base.delete(PLACING)
    return number, written


def _finish(base: BasePath, placing: Mapping[str, Any], on_warning: OnMessage) -> None:
    version = placing["version"]
    if version not in base.versions():
        on_warning(f"{base}: a process ended before version {version} was published; the version is not there")
        return
    write_labels(base, placing["labels"])
    on_warning(
        f"{base}: a process that published version {version} ended before {MODELS_CONFIG} was written; it is "
        "written now"
    )


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
