"""What a person wants to know of a version: the names of its classes, what it was exported from, what was proved."""

from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from unfreeze.config import read_label_map
from unfreeze.errors import UnfreezeError
from unfreeze.export_record import RECORD, ExportRecord, parse_record


def card(model: str, version: int, folder: Path) -> dict[str, Any]:
    """The card as JSON has it, of a version's folder; what is not there or cannot be read is null, and told."""
    problems: list[str] = []
    return {
        "model": model,
        "version": str(version),
        "class_names": class_names(folder, problems),
        "export": export(folder, problems),
        "problems": problems,
    }


def class_names(folder: Path, problems: list[str]) -> dict[str, str]:
    """Name for people by class number, of the one label map in assets/."""
    found = sorted((folder / "assets").glob("*.pbtxt"))
    if len(found) > 1:
        problems.append(f"assets/ has several label maps: {', '.join(path.name for path in found)}")
    if len(found) != 1:
        return {}
    try:
        return {str(number): name for number, name in read_label_map(found[0]).display_names.items()}
    except (UnfreezeError, OSError) as error:
        problems.append(str(error).replace(str(found[0]), f"assets/{found[0].name}"))
        return {}


def export(folder: Path, problems: list[str]) -> dict[str, Any] | None:
    """What export.json says, in the version's folder (of a published one) or above it (of an export's saved_model/)."""
    path = next((path for path in record_paths(folder) if path.is_file()), None)
    if path is None:
        return None
    try:
        return shown(parse_record(path.read_bytes(), RECORD))
    except (OSError, UnfreezeError) as error:
        problems.append(f"{RECORD} cannot be read: {type(error).__name__}")
        return None


def record_paths(folder: Path) -> list[Path]:
    above = [folder.parent / RECORD] if folder.name == "saved_model" else []
    return [folder / RECORD, *above]


def shown(record: ExportRecord) -> dict[str, Any]:
    """Returns what a person wants to know of a record; the rest is long, or has paths of the machine that exported."""
    shown: dict[str, Any] = {
        "unfreeze": record.unfreeze,
        "tensorflow": record.tensorflow,
        "exported_at": record.exported_at,
        "model": record.model,
        "feature_extractor": record.feature_extractor,
        "num_classes": record.num_classes,
        "input_types": list(record.input_types) or None,
        "verified": record.verified,
    }
    if checkpoint := record.checkpoint:
        shown["checkpoint"] = {
            "name": last_names(checkpoint.prefix),
            "step": checkpoint.step,
            "format": checkpoint.format,
            "files": {name: asdict(file) for name, file in checkpoint.files.items()},
        }
    if graph := record.graph:
        shown["graph"] = {"name": last_names(graph.path), "sha256": graph.sha256}
    shown["checks"] = [{"name": each.name, "status": each.status, "detail": each.detail} for each in record.checks]
    return {name: value for name, value in shown.items() if value is not None}


def last_names(path: str) -> str:
    """The file and the folder that it is in; where that is, is nobody's business."""
    return "/".join(PurePosixPath(path.replace("\\", "/")).parts[-2:])
