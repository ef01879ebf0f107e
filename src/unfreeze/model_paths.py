"""Which folder or file a person means who names a model or a checkpoint. Imports no TensorFlow."""

from pathlib import Path

from unfreeze.errors import ConfigError, SavedModelError, UnsupportedError
from unfreeze.weights import Checkpoint, find_checkpoints

CONFIG = "pipeline.config"


def saved_model_folder(path: str | Path) -> Path:
    """The folder that has saved_model.pb: the one given, or saved_model/ in it.

    Raises: SavedModelError when neither has.
    """
    if "://" in str(path):
        raise UnsupportedError(f"not supported yet: a model behind a URL ({path}); give a SavedModel folder")
    folder = Path(path)
    if folder.name == "saved_model.pb":
        folder = folder.parent
    for candidate in (folder, folder / "saved_model"):
        if (candidate / "saved_model.pb").is_file():
            return candidate
    what = "has no saved_model.pb" if folder.is_dir() else "does not exist" if not folder.exists() else "is a file"
    raise SavedModelError(f"{folder} {what}: give the folder that holds saved_model.pb, or the one above it")


def means_graph(path: str | Path) -> bool:
    """Whether a path to be exported means a graph rather than a checkpoint: a .pb file, or a SavedModel's folder.

    A folder that has checkpoints as well, as the model zoo's have, means these.
    """
    path = Path(path)
    if not path.is_dir():
        return path.suffix == ".pb"
    graph = any((folder / "saved_model.pb").is_file() for folder in (path, path / "saved_model"))
    return graph and not find_checkpoints(path)


def find_pipeline_config(checkpoint: Checkpoint, given: str | Path | None) -> Path:
    """The config that was given, or the pipeline.config beside the checkpoint or in the folder above."""
    if given is not None:
        return Path(given)
    folder = checkpoint.prefix.absolute().parent
    for path in (folder / CONFIG, folder.parent / CONFIG):
        if path.is_file():
            return path
    raise ConfigError(f"{folder}: no {CONFIG} here or in the folder above; give it with --pipeline-config-path")
