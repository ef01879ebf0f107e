"""Opens a model base path: a folder on this machine, or a URL of an object store."""

from __future__ import annotations

from pathlib import Path

from unfreeze.publishing import local_base_path, object_store_base_path
from unfreeze.publishing.local_base_path import LocalBasePath, require_base_path
from unfreeze.publishing.object_store_base_path import ObjectStoreBasePath

BasePath = LocalBasePath | ObjectStoreBasePath
StagedVersion = local_base_path.StagedVersion | object_store_base_path.StagedVersion


def open_base_path(model_base_path: str | Path) -> BasePath:
    """Returns the base path at a path or URL; it need not exist yet.

    Raises: SavedModelError if the path is a file or a SavedModel; UnsupportedError, MissingExtraError if the object
        store is not available.
    """
    text = str(model_base_path)
    if "://" in text and not text.startswith("file://"):
        return ObjectStoreBasePath(text)
    path = text.removeprefix("file://")
    require_base_path(path)
    return LocalBasePath(path)
