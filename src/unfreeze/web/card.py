"""The card of a version: its class names, what it was exported from, and the results of its verification."""

from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from unfreeze.config import read_label_map
from unfreeze.errors import UnfreezeError
from unfreeze.export_record import RECORD, ExportRecord, parse_record


def card(model: str, version: int, folder: Path) -> dict[str, Any]:
    """Returns the card as JSON. What does not exist is null or empty; what cannot be read is listed in `problems`."""
    problems: list[str] = []
    return {
        "model": model,
        "version": str(version),
        "class_names": class_names(folder, problems),
        "export": export_summary(folder, problems),
        "problems": problems,
    }


def class_names(folder: Path, problems: list[str]) -> dict[str, str]:
    """Returns the display name of each class id, from the label map in assets/."""
    label_maps = sorted((folder / "assets").glob("*.pbtxt"))
    if len(label_maps) > 1:
        problems.append(f"assets/ has several label maps: {', '.join(path.name for path in label_maps)}")
    if len(label_maps) != 1:
        return {}
    try:
        return {str(number): name for number, name in read_label_map(label_maps[0]).display_names.items()}
    except (UnfreezeError, OSError) as error:
        problems.append(str(error).replace(str(label_maps[0]), f"assets/{label_maps[0].name}"))
        return {}


def export_summary(folder: Path, problems: list[str]) -> dict[str, Any] | None:
    """Returns the summary of export.json in the folder of a version, or above that of an export's model."""
    path = next((path for path in record_paths(folder) if path.is_file()), None)
    if path is None:
        return None
    try:
        return summary(parse_record(path.read_bytes(), RECORD))
    except (OSError, UnfreezeError) as error:
        problems.append(f"{RECORD} cannot be read: {type(error).__name__}")
        return None


def record_paths(folder: Path) -> list[Path]:
    """Returns where the export.json of a version may be."""
    above = [folder.parent / RECORD] if folder.name in ("saved_model", "openvino") else []
    return [folder / RECORD, *above]


def summary(record: ExportRecord) -> dict[str, Any]:
    """Returns the short entries of a record, without the folders of the machine that exported."""
    entries: dict[str, Any] = {
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
        entries["checkpoint"] = {
            "name": last_parts(checkpoint.prefix),
            "step": checkpoint.step,
            "format": checkpoint.format,
            "files": {name: asdict(file) for name, file in checkpoint.files.items()},
        }
    if graph := record.graph:
        entries["graph"] = {"name": last_parts(graph.path), "sha256": graph.sha256}
    entries["checks"] = [
        {"name": check.name, "status": check.status, "detail": check.detail} for check in record.checks
    ]
    return {name: value for name, value in entries.items() if value is not None}


def last_parts(path: str) -> str:
    """Returns the name of a file and of its folder."""
    return "/".join(PurePosixPath(path.replace("\\", "/")).parts[-2:])
