"""Many pictures through a model: listed, planned, answered, and told as files. It can be killed and given again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unfreeze import config
from unfreeze.errors import ConfigError
from unfreeze.images import find_sources
from unfreeze.model_paths import saved_model_folder
from unfreeze.prediction.batches import Asker, Wish, answered, asker, cores
from unfreeze.prediction.class_names import Names, class_names
from unfreeze.prediction.cluster import Cluster, on_ray
from unfreeze.prediction.remote import is_address
from unfreeze.prediction.results import check_formats, finish, read_image_ids
from unfreeze.prediction.shards import Shard, missing, planned, write_part
from unfreeze.prediction.store import Store, open_store

ENGINES = ("threads", "ray")

Say = Callable[[str], None]
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class ManyPredictions:
    """What came of many pictures: `failures` of them could not be read or answered."""

    output_directory: str
    pictures: int
    detections: int
    failures: int
    first_failures: tuple[dict[str, Any], ...]
    resumed: int
    seconds: float
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"not answered: {failure['error']}" for failure in self.first_failures]
        if self.failures > len(lines):
            lines.append(f"... and {self.failures - len(lines)} more: {self.output_directory}/failures.jsonl")
        earlier = f" ({self.resumed} of them earlier)" if self.resumed else ""
        counted = f"{self.pictures} pictures, {self.detections} detections, {self.failures} failed{earlier}"
        return "\n".join(
            [*lines, f"{counted}, {self.seconds:.0f} s -> {self.output_directory}: {', '.join(self.files)}"]
        )


def predict_many(
    model: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    output_directory: str | Path = "predictions",
    formats: Sequence[str] = ("jsonl",),
    label_map: str | Path | None = None,
    annotations: str | Path | None = None,
    min_score: float = 0.5,
    magnify: int = 1,
    batch_size: int | None = None,
    video_step: int = 1,
    overwrite: bool = False,
    engine: str = "threads",
    address: str | None = None,
    actors: int | None = None,
    cpus_per_actor: int | None = None,
    gpus_per_actor: float = 0,
    on_progress: Say | None = None,
    on_warning: Say | None = None,
    on_advance: Advance | None = None,
) -> ManyPredictions:
    """Run a model on folders, patterns, lists, URLs, videos; given again, go on where the last run ended.

    Args:
        model: a SavedModel's folder, or the address of a server, as `predict` takes it.
        images: as `unfreeze.images.find_sources` takes them.
        output_directory: a folder or a URL; it holds the results, and which pictures are done.
        formats: of jsonl, parquet, coco, drawn; or all.
        annotations: COCO's JSON with the ids of the pictures, for COCO results.
        batch_size: pictures of one size at once; by default 2, on a GPU 16.
        video_step: of a video, each so-many-th frame.
        overwrite: forget what the output directory remembers.
        engine: threads of this process, or ray.
        address: of a Ray cluster; without it RAY_ADDRESS, else one of this machine alone.
        actors: how many hold the model; by default as many as fit, with two processors each.
        on_advance: told how many pictures are done, of how many; a video counts as its frames.

    Raises: ImageError when there are no pictures, OutputError, ConfigError, SavedModelError, RemoteError,
    MissingExtraError. A picture that cannot be read is counted and written to failures.jsonl.
    """
    started = time.monotonic()
    if engine not in ENGINES:
        raise ConfigError(f"{engine!r} is not an engine: give {' or '.join(ENGINES)}")
    say, warn = on_progress or (lambda step: None), on_warning or (lambda warning: None)
    formats = check_formats([formats] if isinstance(formats, str) else formats)
    image_ids = read_image_ids(annotations) if annotations is not None else None
    wish = Wish(min_score, batch_size, video_step, "drawn" in formats, magnify)
    folder, names = named(model, label_map)
    store = open_store(output_directory)
    say("looking for pictures")
    given = [os.fspath(image) for image in ([images] if isinstance(images, (str, os.PathLike)) else images)]
    sources = find_sources(given, store.url, warn)
    shards = planned(store, sources, settings_of(folder, names, wish), overwrite)
    todo = missing(store, shards)
    done = Done(shards, todo, on_advance)
    if todo:
        say(f"loading {folder}")
        if engine == "ray":
            cluster = Cluster(address, actors, cpus_per_actor, gpus_per_actor)
            on_ray(todo, folder, names, wish, store, done.advance, cluster, say)
        else:
            here(todo, folder, names, wish, store, done)
    say("writing the results")
    counts, files, failures = finish(store, shards, formats, image_ids)
    return ManyPredictions(
        str(output_directory), **counts, first_failures=tuple(failures), resumed=done.earlier,
        seconds=round(time.monotonic() - started, 3), files=tuple(files),
    )  # fmt: skip


class Done:
    """How many pictures are done, which a video adds to as it goes."""

    def __init__(self, shards: Sequence[Shard], todo: Sequence[Shard], tell: Advance | None) -> None:
        self.total = sum(len(shard.sources) for shard in shards)
        self.earlier = self.total - sum(len(shard.sources) for shard in todo)
        self.number = self.earlier
        self.tell = tell or (lambda number, total: None)

    def advance(self, pictures: int = 1) -> None:
        self.number += pictures
        self.tell(self.number, max(self.number, self.total))


def named(model: str | Path, label_map: str | Path | None) -> tuple[str, Names]:
    """The folder or the address of a model, and the names of its classes as far as they are at hand."""
    given = Path(label_map) if label_map is not None else None
    if is_address(model):
        return str(model), config.read_label_map(given).display_names if given else {}
    folder = saved_model_folder(model)
    return str(folder.absolute()), class_names(given, folder)


def settings_of(model: str, names: Names, wish: Wish) -> dict[str, Any]:
    """What an answer depends on: two runs with the same may share an output directory."""
    return {
        "model": model if is_address(model) else fingerprint(Path(model)),
        "names": hashlib.sha256(repr(sorted(names.items())).encode()).hexdigest()[:16],
        "min_score": wish.min_score,
        "video_step": wish.video_step,
        "drawn": wish.drawn,
        "magnify": wish.magnify if wish.drawn else 1,
    }


def fingerprint(folder: Path) -> str:
    """Of the graph and of the index of the variables, which has a checksum of each."""
    digest = hashlib.sha256()
    for path in [folder / "saved_model.pb", *sorted((folder / "variables").glob("*.index"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def here(todo: Sequence[Shard], model: str, names: Names, wish: Wish, store: Store, done: Done) -> None:
    """Answer the shards in this process."""
    asks: Asker = asker(model, names, wish, cores())
    decoders = ThreadPoolExecutor(max(2, cores()), "decode")
    askers = ThreadPoolExecutor(asks.threads, "ask")
    try:
        for shard, lines in answered(todo, asks, wish, store, (decoders, askers), done.advance):
            write_part(store, shard, lines)
    finally:
        for pool in (decoders, askers):
            pool.shutdown(cancel_futures=True)
