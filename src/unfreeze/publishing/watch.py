"""Each new checkpoint of a training that goes on: exported, verified, published."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unfreeze.errors import CheckpointError, UnfreezeError
from unfreeze.publishing.publish import Base, Published, base_of, prune, publish, records
from unfreeze.weights import find_checkpoints, read_index

Say = Callable[[str], None]
Stamp = tuple[tuple[str, int, int], ...]  # name, size and time of each file of a checkpoint


def watch(
    training_folder: str | Path,
    model_base_path: str | Path,
    *,
    keep: int = 3,
    interval_s: float = 30,
    once: bool = False,
    labels: Sequence[str] = (),
    on_published: Callable[[Published, int], None] = lambda published, step: None,
    on_failure: Callable[[Path, UnfreezeError], None] = lambda prefix, error: None,
    on_progress: Say | None = None,
    on_warning: Say | None = None,
    **export_options: Any,
) -> list[Published]:
    """Publish the checkpoints of a folder as they come, oldest first, until the process ends.

    Which steps have been published stands in the export.json of the versions, so it may be started again at any time. A
    checkpoint that is not whole yet is waited for. One that fails is told and skipped, and tried again if its files
    change. Of many at once only as many as stay are exported.

    Args:
        keep: how many versions stay; those with a label stay besides.
        interval_s: seconds from one look at the folder to the next.
        once: publish what is there, and return.
        labels: move to each version that is published.
        export_options: as for `export`.

    Raises: CheckpointError when there is no such folder.
    """
    folder = Path(training_folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder: give the one that training writes its checkpoints to")
    base = base_of(model_base_path)
    say, warn = on_progress or (lambda line: None), on_warning or (lambda line: None)
    done: list[Published] = []
    failed: dict[Path, Stamp] = {}
    while True:
        for prefix, step in _new(folder, base, failed, keep, say):
            stamp = _stamp(prefix)
            try:
                published = _published(prefix, base, labels, export_options, say, warn)
            except UnfreezeError as error:
                failed[prefix] = stamp
                on_failure(prefix, error)
                continue
            done.append(published)
            on_published(published, step)
            prune(str(base), keep=keep)
        if once:
            return done
        say(f"waiting for checkpoints in {folder}")
        time.sleep(interval_s)


def _new(folder: Path, base: Base, failed: dict[Path, Stamp], keep: int, say: Say) -> list[tuple[Path, int]]:
    """The whole checkpoints that are newer than any that was published, oldest first."""
    newest = max(_published_steps(folder, base), default=-1)
    found = []
    for candidate in find_checkpoints(folder):
        if (
            candidate.step is None
            or candidate.step <= newest
            or failed.get(candidate.prefix) == _stamp(candidate.prefix)
        ):
            continue
        missing = candidate.missing or _fault(candidate.prefix)
        if missing:
            say(f"{candidate.prefix.name} is not whole yet: {missing}")
        else:
            found.append((candidate.prefix, candidate.step))
    return found[-keep:]


def _published_steps(folder: Path, base: Base) -> Iterator[int]:
    """The steps of this folder that a version was made from."""
    for record in records(base):
        checkpoint = record.get("checkpoint", {})
        if checkpoint.get("step") is not None and Path(checkpoint["prefix"]).absolute().parent == folder.absolute():
            yield checkpoint["step"]


def _fault(prefix: Path) -> str:
    """What the files of a checkpoint lack; one whose index cannot be read yet lacks all."""
    try:
        return read_index(prefix).missing_data()
    except (CheckpointError, OSError) as error:
        return str(error)


def _published(
    prefix: Path, base: Base, labels: Sequence[str], options: dict[str, Any], say: Say, warn: Say
) -> Published:
    from unfreeze.exporting.from_checkpoint import export_checkpoint

    with TemporaryDirectory(prefix="unfreeze-watch-") as work:
        exported = export_checkpoint(
            prefix.absolute(), output_directory=Path(work) / "exported", on_progress=say, on_warning=warn, **options
        )
        published = publish(
            exported.saved_model, str(base), labels=labels, verify=False, on_progress=say, on_warning=warn
        )
    del exported
    gc.collect()  # a traced network is a cycle, and this goes on for days
    return published


def _stamp(prefix: Path) -> Stamp:
    paths = sorted(path for path in prefix.parent.iterdir() if path.name.startswith(f"{prefix.name}."))
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:  # removed meanwhile, as training does with its oldest
            continue
        found.append((path.name, stat.st_size, stat.st_mtime_ns))
    return tuple(found)
