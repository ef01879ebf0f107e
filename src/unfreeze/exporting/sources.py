"""Finds the source of an export: a checkpoint, or a frozen graph with or without its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.config import read_label_map
from unfreeze.errors import SavedModelError, UnfreezeError
from unfreeze.export_record import CheckpointSource, file_digest
from unfreeze.model_paths import is_graph_path, require_local
from unfreeze.weights import locate_checkpoint

if TYPE_CHECKING:
    from unfreeze.weights import Checkpoint

Labels = tuple[Path, Mapping[int, str]]  # a label map file, and the names in it by class number

ADVICE = "pass the checkpoint once: as an argument, --trained-checkpoint-prefix or --trained-checkpoint-dir"


@dataclass(frozen=True)
class Source:
    """The source of an export: a frozen graph, perhaps with the checkpoint it was made from, or a checkpoint alone."""

    graph: Path | None
    checkpoint: Path | None  # as passed: perhaps a folder
    prefix: Path | None  # the prefix of that checkpoint


def find_source(
    source: str | Path | None,
    trained_checkpoint_prefix: str | Path | None = None,
    trained_checkpoint_dir: str | Path | None = None,
    step: int | None = None,
) -> Source:
    """Returns what is to be exported; needs no TensorFlow, so that a wrong path is reported at once.

    Raises:
        UnfreezeError: no source, or more than one. CheckpointError, SavedModelError: nothing is at the path.
    """
    for path in (source, trained_checkpoint_prefix, trained_checkpoint_dir):
        require_local(path or "")
    checkpoints = [path for path in (trained_checkpoint_prefix, trained_checkpoint_dir) if path]
    graph = Path(source) if source and is_graph_path(source) else None
    if source and graph is None:
        checkpoints.append(source)
    if len(checkpoints) > 1 or (graph is None and not checkpoints):
        raise UnfreezeError(ADVICE)
    if graph is not None and not graph.exists():
        raise SavedModelError(
            f"{graph}: no such file or folder; pass a checkpoint, a frozen graph (.pb) or a SavedModel"
        )
    if not checkpoints:
        return Source(graph, None, None)
    prefix, _ = locate_checkpoint(checkpoints[0], step)
    return Source(graph, Path(checkpoints[0]), prefix)


def checkpoint_source(checkpoint: Checkpoint) -> CheckpointSource:
    """Returns what export.json says about the checkpoint that the weights come from."""
    return CheckpointSource(
        prefix=str(checkpoint.prefix),
        step=checkpoint.step,
        format=checkpoint.format,
        files={path.name: file_digest(path) for path in checkpoint.files()},
    )


def read_labels(path: str | Path | None) -> Labels | None:
    """Returns a label map and the names in it; None without a path.

    Raises:
        ConfigError: it is not a label map.
    """
    if path is None:
        return None
    labels = read_label_map(path)
    return Path(path), {number: labels.text(number) for number in labels.names}
