"""Runs a model over many images and writes the results as files; a run that was killed resumes where it ended."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from unfreeze.callbacks import OnAdvance, OnMessage, ignore
from unfreeze.errors import ConfigError
from unfreeze.formatting import first_few
from unfreeze.images import find_sources
from unfreeze.prediction.addresses import is_address
from unfreeze.prediction.backends import available_cores, open_backend, resolve_model
from unfreeze.prediction.batches import PredictOptions, ShardRunner
from unfreeze.prediction.class_names import Names
from unfreeze.prediction.cluster import Cluster, run_on_ray
from unfreeze.prediction.results import ResultFormat, check_formats, read_coco_ids, write_results
from unfreeze.prediction.shards import Record, Settings, Shard, plan_shards, unfinished_shards, write_part
from unfreeze.prediction.store import Store, open_store
from unfreeze.prediction.tiles import Tiling

Engine = Literal["threads", "ray"]
MAX_NAMED = 5  # classes in a warning


@dataclass(frozen=True)
class PredictionRun:
    """The summary of a run over many images; `failures` counts those that could not be read or run."""

    output_directory: str
    images: int
    detections: int
    failures: int
    first_failures: tuple[Record, ...]
    resumed: int  # images that an earlier run had done
    seconds: float
    files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"failed: {failure['error']}" for failure in self.first_failures]
        if self.failures > len(lines):
            lines.append(f"... and {self.failures - len(lines)} more: {self.output_directory}/failures.jsonl")
        resumed = f" ({self.resumed} of them in an earlier run)" if self.resumed else ""
        counts = f"{self.images} images, {self.detections} detections, {self.failures} failed{resumed}"
        return "\n".join(
            [*lines, f"{counts}, {self.seconds:.0f} s -> {self.output_directory}: {', '.join(self.files)}"]
        )


def predict_many(
    model: str | Path,
    images: str | Path | Sequence[str | Path],
    *,
    output_directory: str | Path = "predictions",
    formats: ResultFormat | Sequence[ResultFormat] = ("jsonl",),
    label_map: str | Path | None = None,
    annotations: str | Path | None = None,
    min_score: float = 0.5,
    magnify: int = 1,
    batch_size: int | None = None,
    video_step: int = 1,
    tile_size: int | None = None,
    tile_overlap: float | None = None,
    overwrite: bool = False,
    engine: Engine = "threads",
    address: str | None = None,
    actors: int | None = None,
    cpus_per_actor: int | None = None,
    gpus_per_actor: float = 0,
    on_progress: OnMessage | None = None,
    on_warning: OnMessage | None = None,
    on_advance: OnAdvance | None = None,
) -> PredictionRun:
    """Runs a model on folders, patterns, lists, URLs and videos; the same call resumes a run that was killed.

    Args:
        model: a SavedModel, a frozen graph, or the address of a server, as for `predict`.
        images: paths, folders, patterns, lists (.txt), URLs, videos.
        output_directory: a folder or a URL for the results and the state of the run.
        formats: jsonl, csv, parquet, coco, drawn, crops; or all.
        label_map: names of the classes; by default the label map in the SavedModel's assets/, else "class 17".
        annotations: COCO's JSON with the ids of the images, for COCO results.
        min_score: drop detections that score less.
        magnify: draw on an image this many times larger.
        batch_size: images of one size in one call of the model; by default 2, on a GPU 16.
        video_step: use every N-th frame of a video.
        tile_size: run images that are larger than this in tiles of so many pixels, and as a whole.
        tile_overlap: the share of a tile that overlaps the next; by default 0.2.
        overwrite: remove the results and the state of an earlier run first, but not its drawings and crops.
        engine: threads of this process, or ray.
        address: the address of a Ray cluster; by default RAY_ADDRESS, else a cluster of this machine alone.
        actors: how many Ray actors load the model; by default as many as fit.
        cpus_per_actor: CPUs of each actor; by default 2.
        gpus_per_actor: GPUs of each actor.
        on_advance: receives how many images are done, and of how many; a video counts as its frames.

    Raises: ImageError if there are no images, OutputError, ConfigError, SavedModelError, RemoteError,
    MissingExtraError. An image that cannot be read is counted, and its error is written to failures.jsonl.
    """
    started = time.monotonic()
    if engine not in get_args(Engine):
        raise ConfigError(f"{engine!r} is not an engine. Choose {' or '.join(get_args(Engine))}.")
    on_progress, on_warning = on_progress or ignore, on_warning or ignore
    chosen_formats = check_formats([formats] if isinstance(formats, str) else formats)
    tiling = Tiling.of(tile_size, tile_overlap)
    options = PredictOptions(
        min_score, batch_size, video_step, "drawn" in chosen_formats, magnify, "crops" in chosen_formats, tiling
    )
    location, names = resolve_model(model, label_map)
    ids = read_coco_ids(annotations, names) if annotations is not None else None
    if ids is not None and ids.unknown_classes:
        on_warning(
            f"{annotations} has no category {first_few(ids.unknown_classes, MAX_NAMED)}: "
            "detections of these classes are not in coco_results.json"
        )
    store = open_store(output_directory)
    on_progress("looking for images")
    inputs = [os.fspath(image) for image in ([images] if isinstance(images, (str, os.PathLike)) else images)]
    sources = find_sources(inputs, store.url, on_warning)
    shards = plan_shards(store, sources, settings_of(location, names, options), overwrite)
    unfinished = unfinished_shards(store, shards)
    progress = Progress(shards, unfinished, on_advance)
    if unfinished:
        on_progress(f"loading {location}")
        if engine == "ray":
            cluster = Cluster(address, actors, cpus_per_actor, gpus_per_actor)
            run_on_ray(unfinished, location, names, options, store, cluster, progress.advance, on_progress)
        else:
            run_in_threads(unfinished, location, names, options, store, progress.advance)
    on_progress("writing the results")
    results = write_results(store, shards, chosen_formats, names, ids)
    return PredictionRun(
        str(output_directory), results.images, results.detections, results.failures, results.first_failures,
        resumed=progress.resumed, seconds=round(time.monotonic() - started, 3), files=results.files,
    )  # fmt: skip


class Progress:
    """Counts the images that are done; a video adds its frames to the total as it is read."""

    def __init__(self, shards: Sequence[Shard], unfinished: Sequence[Shard], on_advance: OnAdvance | None) -> None:
        self.total = sum(len(shard.sources) for shard in shards)
        self.resumed = self.total - sum(len(shard.sources) for shard in unfinished)
        self.done = self.resumed
        self.on_advance = on_advance

    def advance(self, images: int = 1) -> None:
        """Adds images that are done, and reports the new count."""
        self.done += images
        if self.on_advance is not None:
            self.on_advance(self.done, max(self.done, self.total))


def settings_of(model: str, names: Names, options: PredictOptions) -> Settings:
    """Returns what the results depend on: only runs with the same settings may share an output directory.

    Options that an earlier version did not have are there only if they are used.
    """
    settings: dict[str, str | float | bool] = {
        "model": model if is_address(model) else fingerprint(Path(model)),
        "names": hashlib.sha256(repr(sorted(names.items())).encode()).hexdigest()[:16],
        "min_score": options.min_score,
        "video_step": options.video_step,
        "drawn": options.draw,
        "magnify": options.magnify if options.draw else 1,
    }
    if options.crops:
        settings["crops"] = True
    if options.tiling is not None:
        settings |= {"tile_size": options.tiling.size, "tile_overlap": options.tiling.overlap}
    return settings


def fingerprint(model: Path) -> str:
    """Returns a hash of a model file; for a SavedModel, of its graph and the checksums of its variables."""
    files = [model] if model.is_file() else [model / "saved_model.pb", *sorted((model / "variables").glob("*.index"))]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run_in_threads(
    shards: Sequence[Shard],
    model: str,
    names: Names,
    options: PredictOptions,
    store: Store,
    on_image: Callable[[], None],
) -> None:
    """Runs the shards in this process, and writes their parts."""
    cores = available_cores()
    backend = open_backend(model, options.min_score, options.batch_size, cores)
    decoders = ThreadPoolExecutor(max(2, cores), "decode")
    callers = ThreadPoolExecutor(backend.threads, "call")
    runner = ShardRunner(backend, names, options, store, decoders, callers)
    try:
        for shard, lines in runner.run_shards(shards, on_image):
            write_part(store, shard, lines)
    finally:
        for pool in (decoders, callers):
            pool.shutdown(cancel_futures=True)
