"""Resolves the paths of models and configs. Imports no TensorFlow."""

import re
from pathlib import Path

from unfreeze.errors import ConfigError, SavedModelError, UnsupportedError
from unfreeze.weights import checkpoint_folder, find_checkpoints

CONFIG = "pipeline.config"
SAVED_MODEL = "saved_model.pb"
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def require_local(path: str | Path) -> None:
    """Raises UnsupportedError if a path is a URL, such as `gs://bucket/model`."""
    if URL.match(str(path)):
        raise UnsupportedError(
            f"not supported yet: {path} is a URL, and files must be on this machine; copy it first (gcloud storage cp, "
            "aws s3 cp, hdfs dfs -get, curl)"
        )


def saved_model_folder(path: str | Path) -> Path:
    """Returns the folder that has saved_model.pb: the path itself, or saved_model/ in it.

    Raises:
        SavedModelError: neither has it.
    """
    require_local(path)
    folder = Path(path)
    if folder.name == SAVED_MODEL:
        folder = folder.parent
    saved_model = saved_model_in(folder)
    if saved_model is None:
        problem = f"has no {SAVED_MODEL}" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise SavedModelError(f"{folder} {problem}: give the folder with {SAVED_MODEL}, or the one above it")
    return saved_model


def is_graph_path(path: str | Path) -> bool:
    """Returns whether a path stands for a graph rather than a checkpoint: a .pb file, or a folder with a SavedModel.

    A folder that has checkpoints too, as those of the TensorFlow 2 model zoo, stands for its checkpoints.
    """
    path = Path(path)
    if not path.is_dir():
        return path.suffix == ".pb"
    return saved_model_in(path) is not None and not find_checkpoints(checkpoint_folder(path))


def find_pipeline_config(prefix: Path, pipeline_config_path: str | Path | None) -> Path:
    """Returns the path that was given, or the pipeline.config beside a checkpoint or in the folder above.

    Raises:
        ConfigError: no path was given, and neither folder has a pipeline.config.
    """
    if pipeline_config_path is not None:
        return Path(pipeline_config_path)
    folder = prefix.absolute().parent
    for path in (folder / CONFIG, folder.parent / CONFIG):
        if path.is_file():
            return path
    raise ConfigError(f"{folder}: no {CONFIG} here or in the folder above; give it with --pipeline-config-path")


def find_config_of_export(saved_model: Path, pipeline_config_path: str | Path | None) -> Path:
    """Returns the path that was given, or the pipeline.config beside the saved_model/ of an export.

    Raises:
        ConfigError: it does not exist.
    """
    path = Path(pipeline_config_path) if pipeline_config_path is not None else saved_model.parent / CONFIG
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; pass the pipeline.config, which a SavedModel does not contain")
    return path


def has_variables(path: str | Path) -> bool:
    """Returns whether a path is an unfrozen SavedModel: its folder, or the one above it."""
    folder = saved_model_in(Path(path).parent if Path(path).name == SAVED_MODEL else Path(path))
    return folder is not None and (folder / "variables" / "variables.index").is_file()


def saved_model_in(folder: Path) -> Path | None:
    """Returns the folder with saved_model.pb: the folder itself, or saved_model/ in it; None if neither has it."""
    folders = (folder, folder / "saved_model")
    return next((folder for folder in folders if (folder / SAVED_MODEL).is_file()), None)
