"""The records in a published version: export.json, what it was exported from, and published.json, how it came there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from unfreeze.export_record import RECORD, ExportRecord, parse_record
from unfreeze.publishing.base_paths import BasePath

PUBLISHED = "published.json"


def records_to_publish(export_record: ExportRecord | None, *, copy_of: int | None = None) -> dict[str, bytes]:
    """Returns name and content of the records to publish with a SavedModel; `copy_of` is set in a rollback."""
    published: dict[str, Any] = {"published_at": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    if copy_of is not None:
        published["copy_of"] = copy_of
    files = {PUBLISHED: (json.dumps(published) + "\n").encode()}
    if export_record is not None:
        files[RECORD] = export_record.to_json().encode()
    return files


def export_records(base: BasePath) -> list[ExportRecord]:
    """Returns the export record of each version that has one, the oldest version first.

    Raises: SavedModelError if a record cannot be read.
    """
    records = []
    for name in base.versions().values():
        text = base.read(f"{name}/{RECORD}")
        if text is not None:
            records.append(parse_record(text, f"{base}/{name}/{RECORD}"))
    return records


def original_version(base: BasePath, versions: Mapping[int, str], version: int) -> int:
    """Returns the version that this one is a copy of after a rollback, else the version itself."""
    with contextlib.suppress(ValueError):
        published = json.loads(base.read(f"{versions[version]}/{PUBLISHED}") or b"{}")
        return int(published.get("copy_of", version)) if isinstance(published, dict) else version
    return version
