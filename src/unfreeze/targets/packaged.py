"""The parts of `package` that all servers share: the check of a model, and the record of the written files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfreeze.errors import OutputError
from unfreeze.export_record import read_record
from unfreeze.model_paths import saved_model_folder
from unfreeze.onednn import server_environment
from unfreeze.targets.deployable import require_deployable
from unfreeze.targets.gpus import gpu_environment
from unfreeze.targets.instance_types import Hardware
from unfreeze.targets.platform_limits import ModelNumbers, model_numbers
from unfreeze.targets.server_versions import ServerVersion, parse_server_version


@dataclass(frozen=True)
class ServedModel:
    """A SavedModel that a server can load, with the server's environment variables for oneDNN and GPUs.

    `note` says why one of the variables is not set. `numbers` are what the limits of platforms are compared with.
    """

    folder: Path
    server: ServerVersion
    environment: Mapping[str, str]
    note: str | None = None
    numbers: ModelNumbers = field(default_factory=ModelNumbers, repr=False)


@dataclass(frozen=True)
class Packaged:
    """The files that were written for a server, and the container image that they use."""

    folder: Path
    files: tuple[str, ...]
    image: str
    model: ServedModel

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON data."""
        return {
            "output_directory": str(self.folder),
            "server": str(self.model.server),
            "image": self.image,
            "files": list(self.files),
            "environment": dict(self.model.environment),
            **({"note": self.model.note} if self.model.note else {}),
        }

    def __str__(self) -> str:
        packaged = f"packaged for {self.model.server} ({self.image}) in {self.folder}: {', '.join(self.files)}"
        return f"{packaged}\n{self.model.note}" if self.model.note else packaged


def read_served_model(
    saved_model: str | Path, server: str, *, target: str, hardware: Hardware = Hardware.CPU
) -> ServedModel:
    """Returns a SavedModel that was checked against a server.

    Args:
        saved_model: the folder with saved_model.pb, or the folder of the export above it.
        server: `TARGET:VERSION`, `VERSION`, or `TARGET` for its default version.
        target: the server to package for, such as `kserve`.
        hardware: the processor, for which the server must have a container image.

    Raises:
        UnsupportedError: the version of the server is not known.
        SavedModelError: there is no SavedModel, its files are not complete, or the server cannot load it.
    """
    folder = saved_model_folder(saved_model)
    server_version = parse_server_version(server if server.startswith(target) else f"{target}:{server}", hardware)
    server_version.image(hardware=hardware)
    record = read_record(folder)
    require_deployable(folder, record, [server_version])
    environment, note = server_environment(folder)
    return ServedModel(
        folder, server_version, {**environment, **gpu_environment(hardware)}, note, model_numbers(folder, record)
    )


def require_version_number(version: int) -> int:
    """Returns the version if it can be the name of a version folder.

    Raises: OutputError if it is less than 1.
    """
    if version < 1:
        raise OutputError(f"--version {version}: must be at least 1")
    return version
