"""Checks that a SavedModel can be deployed: its files are complete, and the servers know its operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unfreeze.errors import SavedModelError
from unfreeze.export_record import ExportRecord
from unfreeze.targets.server_versions import ServerVersion, require_known_operations
from unfreeze.verification.file_checks import file_digests, file_mismatches


def require_deployable(saved_model: Path, record: ExportRecord | None, servers: Sequence[ServerVersion]) -> None:
    """Raises SavedModelError if files of a SavedModel are missing or incomplete, or a server cannot load it."""
    constants = record is not None and record.has_constant_weights
    problems = file_mismatches(saved_model, file_digests(saved_model), {}, constants=constants)
    if problems:
        raise SavedModelError(f"{saved_model}: {problems[0]}")
    require_known_operations(saved_model, servers)
