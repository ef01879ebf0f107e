"""A model that is ready to run on images: a file on this machine, or a server behind an address."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze import config
from unfreeze.images import Source, is_video
from unfreeze.prediction.addresses import is_address
from unfreeze.prediction.class_names import Names, class_names
from unfreeze.runtimes import find_model, load_model
from unfreeze.runtimes.model import Outputs, split_batch

# On a CPU small batches are the fastest: their tensors stay in its caches. A GPU needs larger ones.
BATCH_SIZE, GPU_BATCH_SIZE = 2, 16
CONCURRENT_REQUESTS = 8  # requests in flight to one server

Run = Callable[[Sequence[Source], Sequence[Image.Image]], list[Outputs]]


@dataclass(frozen=True)
class Backend:
    """A model that is ready, and how to use it well.

    `run` takes images of one size with their sources, and returns the outputs of each, without the batch dimension.
    """

    run: Run
    batch_size: int
    threads: int  # how many may call `run` at once


def resolve_model(model: str | Path, label_map: str | Path | None) -> tuple[str, Names]:
    """Returns the path or the address of a model, and the names of its classes.

    The names are those of `label_map`, else those in the SavedModel's assets/, else none.
    """
    path = Path(label_map) if label_map is not None else None
    if is_address(model):
        return str(model), config.read_label_map(path).display_names if path else {}
    file = find_model(model).path
    return str(file), class_names(path, file)


def open_backend(model: str, min_score: float, batch_size: int | None = None, cores: int | None = None) -> Backend:
    """Loads a model, or connects to a server.

    Args:
        min_score: sent to servers that can drop weak detections themselves.
        batch_size: how many images of one size go into one call; by default what suits the device.
        cores: run one batch on each core, rather than each batch on all cores: a sixth faster if there are many.

    Raises: SavedModelError, RemoteError.
    """
    if is_address(model):
        return Backend(remote_run(model, min_score), batch_size or 1, CONCURRENT_REQUESTS)
    loaded = load_model(find_model(model), threads=1 if cores else None)

    def run(sources: Sequence[Source], images: Sequence[Image.Image]) -> list[Outputs]:
        return split_batch(loaded.run(np.stack([np.asarray(image) for image in images])), len(images))

    if loaded.uses_gpu:
        return Backend(run, batch_size or GPU_BATCH_SIZE, threads=2)
    # One thread more than cores, so that no core waits while the results of a batch are written.
    return Backend(run, batch_size or BATCH_SIZE, threads=(cores or 1) + 1)


def remote_run(address: str, min_score: float) -> Run:
    """Returns a function that sends images to a server one by one, as their files where there is one."""
    from unfreeze.prediction.remote import connect  # imports requests, which takes long

    predict = connect(address, min_score).predict

    def run(sources: Sequence[Source], images: Sequence[Image.Image]) -> list[Outputs]:
        return [predict(local_file(source), image) for source, image in zip(sources, images, strict=True)]

    return run


def local_file(source: Source) -> Path | None:
    """Returns the image file of a source; None for URLs, frames of videos and parts of images."""
    is_file = source.location and "://" not in source.location and not is_video(source.location)
    return Path(source.location) if is_file else None


def available_cores() -> int:
    """Returns how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
