"""Publishes each new checkpoint of a running training: exported, verified, completely or not at all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import CheckpointError, UnfreezeError
from unfreeze.exporting.option_checks import require_input_shape
from unfreeze.exporting.side_inputs import SideInput
from unfreeze.input_types import require_known_input_types
from unfreeze.publishing.base_paths import BasePath, open_base_path
from unfreeze.publishing.prune import prune
from unfreeze.publishing.publish import Published, publish
from unfreeze.publishing.version_records import export_records
from unfreeze.targets.model_config import require_label
from unfreeze.targets.server_versions import parse_server_version
from unfreeze.weights import find_checkpoints, read_index

FileStamps = tuple[tuple[str, int, int], ...]  # name, size and time of each file of a checkpoint


def watch(
    training_folder: str | Path,
    model_base_path: str | Path,
    *,
    keep: int = 3,
    interval_s: float = 30,
    once: bool = False,
    labels: Sequence[str] = (),
    pipeline_config_path: str | Path | None = None,
    input_types: Sequence[str] = (),
    input_shape: Sequence[int | None] | None = None,
    side_inputs: Mapping[str, SideInput] | None = None,
    label_map: str | Path | None = None,
    config_override: str = "",
    allow_unknown_fields: bool = False,
    kept_outputs: Sequence[str] = (),
    score_threshold: float | None = None,
    max_detections: int | None = None,
    weights: str = "variables",
    suppression: str = "kernel",
    runtimes: Sequence[str] = (),
    on_published: Callable[[Published, int], None] = lambda published, step: None,
    on_failure: Callable[[Path, UnfreezeError], None] = lambda prefix, error: None,
    on_progress: OnMessage = ignore,
    on_warning: OnMessage = ignore,
) -> list[Published]:
    """Publishes the checkpoints of a training folder as they are written, oldest first, until the process ends.

    It may be stopped and started again at any time: the export.json of the versions has the steps that were published.
    Incomplete checkpoints are looked at again later. A checkpoint that fails is reported and skipped, and tried again
    if its files change. Of many new checkpoints only the `keep` newest are exported.

    Args:
        training_folder: where the training writes its checkpoints.
        model_base_path: the folder of versions, or a URL of an object store.
        keep: how many of the newest versions stay; those with a label stay too.
        interval_s: how often to look for new checkpoints, in seconds.
        once: publish the checkpoints that exist, and return.
        labels: names by which clients request a version; they move to each new version.
        pipeline_config_path, input_types, input_shape, side_inputs, label_map, config_override, allow_unknown_fields,
            kept_outputs, score_threshold, max_detections, weights, suppression, runtimes: as for `export`.
        on_published: receives each published version and the step of its checkpoint.
        on_failure: receives the prefix of each checkpoint that failed, and the error.

    Returns: the published versions, if `once` is true.

    Raises: CheckpointError if the training folder does not exist. SavedModelError if the export.json of a version
        cannot be read: then it is not known which steps are published, and an older step could become the newest
        version.
    """

    def publish_checkpoint(prefix: Path) -> Published:
        from unfreeze.exporting.from_checkpoint import export_checkpoint  # imports TensorFlow, which takes seconds

        with TemporaryDirectory(prefix="unfreeze-watch-") as work:
            exported = export_checkpoint(
                prefix.absolute(),
                output_directory=Path(work) / "exported",
                pipeline_config_path=pipeline_config_path,
                input_types=input_types,
                input_shape=input_shape,
                side_inputs=side_inputs,
                label_map=label_map,
                config_override=config_override,
                allow_unknown_fields=allow_unknown_fields,
                kept_outputs=kept_outputs,
                score_threshold=score_threshold,
                max_detections=max_detections,
                weights=weights,
                suppression=suppression,
                runtimes=runtimes,
                on_progress=on_progress,
                on_warning=on_warning,
            )
            return publish(
                exported.saved_model,
                str(base),
                labels=labels,
                verify=False,  # the export was verified
                on_progress=on_progress,
                on_warning=on_warning,
            )

    folder = Path(training_folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: does not exist. Expected the folder that training writes its checkpoints to.")
    require_known_input_types(input_types)
    require_input_shape(input_shape)
    for runtime in runtimes:
        parse_server_version(runtime)
    for label in labels:
        require_label(label)
    base = open_base_path(model_base_path)
    all_published: list[Published] = []
    failed: dict[Path, FileStamps] = {}
    while True:
        for prefix, step in _new_checkpoints(folder, base, failed, on_progress)[-keep:]:
            stamps = _file_stamps(prefix)
            try:
                published = publish_checkpoint(prefix)
            except UnfreezeError as error:
                failed[prefix] = stamps
                on_failure(prefix, error)
                continue
            gc.collect()  # a traced network is a reference cycle, and this process runs for days
            all_published.append(published)
            on_published(published, step)
            prune(str(base), keep=keep)
        if once:
            return all_published
        on_progress(f"waiting for checkpoints in {folder}")
        time.sleep(interval_s)


def _new_checkpoints(
    folder: Path, base: BasePath, failed: Mapping[Path, FileStamps], on_progress: OnMessage
) -> list[tuple[Path, int]]:
    """Returns prefix and step of the complete checkpoints that are newer than any published one, oldest first."""
    newest = max(_published_steps(folder, base), default=-1)
    checkpoints = []
    for candidate in find_checkpoints(folder):
        if candidate.step is None or candidate.step <= newest:
            continue
        if failed.get(candidate.prefix) == _file_stamps(candidate.prefix):
            continue
        missing = candidate.missing or _index_problem(candidate.prefix)
        if missing:
            on_progress(f"{candidate.prefix.name} is not complete yet: {missing}")
        else:
            checkpoints.append((candidate.prefix, candidate.step))
    return checkpoints


def _published_steps(folder: Path, base: BasePath) -> Iterator[int]:
    """Yields the step of each version that was made from a checkpoint of this folder."""
    for record in export_records(base):
        checkpoint = record.checkpoint
        if checkpoint is None or checkpoint.step is None:
            continue
        if Path(checkpoint.prefix).absolute().parent == folder.absolute():
            yield checkpoint.step


def _index_problem(prefix: Path) -> str:
    """Returns what is wrong with the index of a checkpoint or with the data files it names; "" if nothing is."""
    try:
        return read_index(prefix).missing_data()
    except (CheckpointError, OSError) as error:
        return str(error)


def _file_stamps(prefix: Path) -> FileStamps:
    paths = sorted(path for path in prefix.parent.iterdir() if path.name.startswith(f"{prefix.name}."))
    stamps = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:  # deleted meanwhile, as trainings do with their oldest checkpoints
            continue
        stamps.append((path.name, stat.st_size, stat.st_mtime_ns))
    return tuple(stamps)
