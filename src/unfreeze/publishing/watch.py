"""Publishes each new checkpoint of a running training: exported, verified, completely or not at all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import CheckpointError, ImageError, MissingExtraError, UnfreezeError
from unfreeze.exporting.option_checks import require_input_shape
from unfreeze.exporting.side_inputs import SideInput
from unfreeze.input_types import require_known_input_types
from unfreeze.publishing.base_paths import BasePath, open_base_path
from unfreeze.publishing.file_stamps import FileStamps, checkpoint_stamps
from unfreeze.publishing.map_gate import Decision, MapGate, open_gate
from unfreeze.publishing.prune import prune
from unfreeze.publishing.publish import Published, publish
from unfreeze.publishing.version_records import export_records
from unfreeze.targets.model_config import require_label
from unfreeze.targets.server_versions import parse_server_version
from unfreeze.weights import find_checkpoints, read_index


def watch(
    training_folder: str | Path,
    model_base_path: str | Path,
    *,
    keep: int = 3,
    interval_s: float = 30,
    once: bool = False,
    labels: Sequence[str] = (),
    min_map: float | None = None,
    keep_best: bool = False,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
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
    on_decision: Callable[[Decision], None] = lambda decision: None,
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
        min_map: publish only checkpoints with at least this mAP (COCO's, 0 to 1) on `annotations`.
        keep_best: publish only checkpoints with at least the mAP of the best one that was published. The mAP of each
            checkpoint is kept in watch.json in the model base path.
        annotations: annotations for `min_map` and `keep_best`, of any format that `evaluate` takes.
        images: the folder of the annotated images; by default where the annotations say, or beside them.
        labels: names by which clients request a version; they move to each new version.
        pipeline_config_path, input_types, input_shape, side_inputs, label_map, config_override, allow_unknown_fields,
            kept_outputs, score_threshold, max_detections, weights, suppression, runtimes: as for `export`.
        on_published: receives each published version and the step of its checkpoint.
        on_failure: receives the prefix of each checkpoint that failed, and the error.
        on_decision: receives the mAP of each checkpoint that was evaluated, and whether it is published.

    Returns: the published versions, if `once` is true.

    Raises: CheckpointError if the training folder does not exist. SavedModelError if the export.json of a version
        cannot be read: then it is not known which steps are published, and an older step could become the newest
        version. ImageError, MissingExtraError if the annotations cannot be read, which are the same for every
        checkpoint.
    """

    def publish_checkpoint(prefix: Path, step: int) -> Published | None:
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
            decision = gate.decide(exported.saved_model, step, on_progress) if gate else None
            if gate and decision:
                on_decision(decision)
                if not decision.publish:
                    gate.record(prefix, decision)
                    return None
            published = publish(
                exported.saved_model,
                str(base),
                labels=labels,
                verify=False,  # the export was verified
                on_progress=on_progress,
                on_warning=on_warning,
            )
            if gate and decision:
                gate.record(prefix, decision)
            return published

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
    gate = open_gate(base, min_map=min_map, keep_best=keep_best, annotations=annotations, images=images)
    all_published: list[Published] = []
    failed: dict[Path, FileStamps] = {}
    while True:
        for prefix, step in _new_checkpoints(folder, base, gate, failed, on_progress)[-keep:]:
            stamps = checkpoint_stamps(prefix)
            try:
                published = publish_checkpoint(prefix, step)
            except (ImageError, MissingExtraError):  # about the annotations, not about this checkpoint
                raise
            except UnfreezeError as error:
                failed[prefix] = stamps
                on_failure(prefix, error)
                continue
            gc.collect()  # a traced network is a reference cycle, and this process runs for days
            if published is None:
                continue
            all_published.append(published)
            on_published(published, step)
            prune(str(base), keep=keep, on_warning=on_warning)
        if once:
            return all_published
        on_progress(f"waiting for checkpoints in {folder}")
        time.sleep(interval_s)


def _new_checkpoints(
    folder: Path, base: BasePath, gate: MapGate | None, failed: Mapping[Path, FileStamps], on_progress: OnMessage
) -> list[tuple[Path, int]]:
    """Returns prefix and step of the complete checkpoints that are newer than any decided one, oldest first."""
    rejected = gate.rejected_steps(folder) if gate else ()
    newest = max([*_published_steps(folder, base), *rejected], default=-1)
    checkpoints = []
    for candidate in find_checkpoints(folder):
        if candidate.step is None or candidate.step <= newest:
            continue
        if failed.get(candidate.prefix) == checkpoint_stamps(candidate.prefix):
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
