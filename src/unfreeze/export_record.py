"""export.json: what was exported from what, and what the checks found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unfreeze.errors import SavedModelError

RECORD = "export.json"


def read_record(saved_model: Path) -> Mapping[str, Any]:
    """Read the export.json in or beside the folder; empty where there is none.

    Raises:
        SavedModelError: it is there and cannot be read.
    """
    for path in (saved_model / "export.json", saved_model.parent / "export.json"):
        if path.is_file():
            try:
                record = json.loads(path.read_text("utf-8"))
            except (ValueError, OSError) as error:
                raise SavedModelError(f"{path}: cannot be read: {error}; remove it to verify without it") from error
            if not isinstance(record, dict):
                raise SavedModelError(f"{path}: not what an export writes; remove it to verify without it")
            return record
    return {}


def has_constant_weights(record: Mapping[str, Any]) -> bool:
    """Whether an export was asked to have its weights in the graph."""
    return record.get("binding") == "constants"
