"""The records in a published version: export.json, what it was exported from, and published.json, how it came there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from unfreeze.export_record import RECORD, read_record
from unfreeze.publishing.base_paths import BasePath

PUBLISHED = "published.json"


def records_to_publish(saved_model: Path, *, copy_of: int | None = None) -> dict[str, bytes]:
    """Returns name and content of the records to publish with a SavedModel; `copy_of` is set after a rollback."""
    published: dict[str, Any] = {"published_at": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    if copy_of is not None:
        published["copy_of"] = copy_of
    files = {PUBLISHED: (json.dumps(published) + "\n").encode()}
    record = read_record(saved_model)
    if record:
        files[RECORD] = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def export_records(base: BasePath) -> list[Mapping[str, Any]]:
    """Returns the export.json of each version that has one, the oldest version first."""
    records: list[Mapping[str, Any]] = []
    for name in base.versions().values():
        with contextlib.suppress(ValueError):
            record = json.loads(base.read(f"{name}/{RECORD}") or b"{}")
            if isinstance(record, dict) and record:
                records.append(record)
    return records


def original_version(base: BasePath, versions: Mapping[int, str], version: int) -> int:
    """Returns the version that this one is a copy of after a rollback, else the version itself."""
    with contextlib.suppress(ValueError):
        published = json.loads(base.read(f"{versions[version]}/{PUBLISHED}") or b"{}")
        return int(published.get("copy_of", version)) if isinstance(published, dict) else version
    return version
