"""Writes model.tar.gz for SageMaker's TensorFlow container; the same model always gives the same bytes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ARCHIVE = "model.tar.gz"
OMITTED = {"export.json", "published.json"}  # these files contain times, and the server does not need them


@dataclass(frozen=True)
class InferenceSettings:
    """The settings of code/inference.py, which it reads from code/model.json."""

    encoded_signature: str
    pixel_signature: str | None
    labels: Mapping[str, str]  # class id -> name
    min_score: float


def model_archive(saved_model: Path, version_folder: str, settings: InferenceSettings) -> bytes:
    """Returns a .tar.gz with the SavedModel in `version_folder`, such as `digits/1`, and the script in `code/`."""
    files = {
        f"{version_folder}/{path.relative_to(saved_model).as_posix()}": path.read_bytes()
        for path in saved_model.rglob("*")
        if path.is_file() and _is_served(path.relative_to(saved_model))
    }
    files["code/inference.py"] = Path(__file__).with_name("sagemaker_inference.py").read_bytes()
    files["code/model.json"] = json.dumps(asdict(settings), indent=1, sort_keys=True, ensure_ascii=False).encode()
    return _reproducible_tar_gz(files)


def _reproducible_tar_gz(files: Mapping[str, bytes]) -> bytes:
    """Returns an archive whose bytes depend on nothing but the files: sorted, time 0, owner 0."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            tar.addfile(entry, io.BytesIO(files[name]))
    return packed.getvalue()


def _is_served(path: Path) -> bool:
    return path.as_posix() not in OMITTED and not any(part.startswith(".") for part in path.parts)
