"""Pictures decoded ahead of the model, asked for in batches of one size, and told as lines of JSON.

Everything in between is bounded, so that memory does not depend on how many pictures there are.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from unfreeze.errors import ImageError, SavedModelError, UnfreezeError
from unfreeze.images import JPEG_SUFFIXES, Source, draw_detections, encode_image, is_video, read_frames, read_source
from unfreeze.images.sources import file_system
from unfreeze.prediction.class_names import Names, names_in_outputs
from unfreeze.prediction.detections import parse_detections
from unfreeze.prediction.model import answers, load_model
from unfreeze.prediction.remote import connect, is_address
from unfreeze.prediction.shards import Shard
from unfreeze.prediction.store import Store

OPEN_SIZES = 4  # batches of different sizes that wait for more pictures
# On a processor small batches are the fastest: their tensors stay in its caches. A GPU wants larger ones.
BATCH_SIZE, GPU_BATCH_SIZE = 2, 16
REQUESTS = 8  # to a server, at once

Outputs = dict[str, np.ndarray]
Ask = Callable[[Sequence[Source], Sequence[Image.Image]], list[Outputs]]


@dataclass(frozen=True)
class Wish:
    """How pictures are asked for, and what becomes of the answers."""

    min_score: float = 0.5
    batch_size: int | None = None
    video_step: int = 1
    drawn: bool = False
    magnify: int = 1


@dataclass(frozen=True)
class Asker:
    """A model that is ready: how it is asked, and by how many threads at once."""

    ask: Ask
    names: Names
    threads: int
    batch_size: int


@dataclass(frozen=True)
class Item:
    """A picture on its way, or why there is none."""

    source: Source
    place: int
    picture: Image.Image | None = None
    error: UnfreezeError | None = None
    told: dict[str, Any] = field(default_factory=dict)  # of a video's frame: which


@dataclass(frozen=True)
class Line:
    """What is told of a picture."""

    place: int
    text: bytes
    error: UnfreezeError | None = None


def asker(model: str, names: Names, wish: Wish, cores: int) -> Asker:
    """A SavedModel's folder or a server's address, ready to be asked."""
    if is_address(model):
        remote = connect(model, wish.min_score).ask

        def ask_remote(sources: Sequence[Source], batch: Sequence[Image.Image]) -> list[Outputs]:
            pairs = zip(sources, batch, strict=True)
            return [remote(None if "://" in at.location or is_video(at.location) else Path(at.location), picture)
                    for at, picture in pairs]  # fmt: skip

        return Asker(ask_remote, names, REQUESTS, wish.batch_size or 1)
    one_thread_each()
    loaded = load_model(Path(model))
    gpu = bool(tf.config.list_physical_devices("GPU"))
    batch_size = wish.batch_size or (GPU_BATCH_SIZE if gpu else BATCH_SIZE)
    threads = 2 if gpu else cores + 1  # one more, so that no core waits while another batch is told
    return Asker(lambda sources, batch: answers(loaded, batch), names, threads, batch_size)


def one_thread_each() -> None:
    """A batch a core is a sixth faster than all cores on one batch; too late where TensorFlow runs already."""
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answered(
    shards: Iterable[Shard],
    asker: Asker,
    wish: Wish,
    store: Store,
    pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor],
    on_picture: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Shard, list[bytes]]]:
    """Each shard, in turn, with the lines that tell its pictures in their order.

    Raises: SavedModelError when the model answers to no picture of a shard, RemoteError when a server does not.
    """
    decoders, askers = pools
    # While the askers are busy, twice what they take next is decoded: pictures of one size seldom come in a row.
    pictures = ahead(decoding(shards, wish, decoders), 2 * asker.threads * asker.batch_size + 2)
    asked = ahead(asking(batches(pictures, asker.batch_size), asker, wish, store, askers), asker.threads + 2)
    lines: list[Line] = []
    for result in asked:
        if isinstance(result, Shard):
            failed = [line.error for line in lines if isinstance(line.error, SavedModelError)]
            if failed and len(failed) == len(lines):
                raise failed[0]
            yield result, [line.text for line in sorted(lines, key=lambda line: line.place)]
            lines = []
        else:
            lines += result
            for _ in result:
                on_picture()


def ahead(futures: Iterable[Future[Any]], limit: int) -> Iterator[Any]:
    """The results in order, while up to `limit` of them are being made."""
    waiting: deque[Future[Any]] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def ready(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def decoding(shards: Iterable[Shard], wish: Wish, decoders: ThreadPoolExecutor) -> Iterator[Future[Any]]:
    """Items, and after those of a shard the shard itself."""
    for shard in shards:
        if shard.is_video:
            yield from map(ready, video_items(shard.sources[0], wish.video_step))
        else:
            for place, source in enumerate(shard.sources):
                yield decoders.submit(decoded, source, place)
        yield ready(shard)


def decoded(source: Source, place: int) -> Item:
    try:
        return Item(source, place, read_source(source))
    except ImageError as error:
        return Item(source, place, error=error)


def video_items(source: Source, step: int) -> Iterator[Item]:
    """The read_frames, decoded by PyAV's own threads; a torn video gives those before the tear, and tells of it."""
    place = 0
    try:
        for frame in video_frames(source, step):
            yield Item(source, place, frame.image, told={"frame": frame.number, "time_s": frame.time_s})
            place += 1
    except ImageError as error:
        yield Item(source, place, error=error)


def video_frames(source: Source, step: int) -> Iterator[Any]:
    if "://" not in source.location:
        yield from read_frames(source.location, source.location, step)
        return
    files, path = file_system(source.location)
    try:
        opened = files.open(path, "rb")
    except Exception as error:  # each store has errors of its own
        raise ImageError(f"{source.location} cannot be read: {type(error).__name__}: {error}") from None
    with opened as file:
        yield from read_frames(file, source.location, step)


def batches(items: Iterable[Item | Shard], batch_size: int) -> Iterator[list[Item] | Shard]:
    """Pictures of one size together; before a shard's end, all that wait."""
    waiting: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        if isinstance(item, Shard):
            yield from waiting.values()
            waiting = {}
            yield item
        elif item.picture is None:
            yield [item]
        else:
            same = waiting.setdefault(item.picture.size, [])
            same.append(item)
            if len(same) == batch_size:
                yield waiting.pop(item.picture.size)
            elif len(waiting) > OPEN_SIZES:
                yield waiting.pop(next(iter(waiting)))


def asking(
    batches: Iterable[list[Item] | Shard], asker: Asker, wish: Wish, store: Store, askers: ThreadPoolExecutor
) -> Iterator[Future[Any]]:
    for batch in batches:
        yield ready(batch) if isinstance(batch, Shard) else askers.submit(lines_of, batch, asker, wish, store)


def lines_of(batch: list[Item], asker: Asker, wish: Wish, store: Store) -> list[Line]:
    """What is told of each picture of a batch; when it fails together, each is asked for alone."""
    if batch[0].picture is None:
        return [failed(batch[0], batch[0].error)]
    try:
        outputs = asker.ask([item.source for item in batch], [item.picture for item in batch if item.picture])
        return [line_of(item, output, asker.names, wish, store) for item, output in zip(batch, outputs, strict=True)]
    except SavedModelError as error:
        if len(batch) == 1:
            return [failed(batch[0], error)]
        return [line for item in batch for line in lines_of([item], asker, wish, store)]


def line_of(item: Item, outputs: Outputs, names: Names, wish: Wish, store: Store) -> Line:
    picture = item.picture
    assert picture is not None
    found = tuple(parse_detections(outputs, picture, names or names_in_outputs(outputs), wish.min_score))
    told: dict[str, Any] = {
        "image": item.source.name,
        **item.told,
        "width": picture.width,
        "height": picture.height,
        "detections": [detection.to_dict(picture.width, picture.height) for detection in found],
    }
    if wish.drawn:
        name = drawn_name(item)
        drawing = draw_detections(picture, found, wish.magnify)
        store.write(f"drawn/{name}", [encode_image(drawing, PurePosixPath(name).suffix)])
    return Line(item.place, as_line(told))


def failed(item: Item, error: UnfreezeError | None) -> Line:
    return Line(item.place, as_line({"image": item.source.name, **item.told, "error": str(error)}), error)


def as_line(told: dict[str, Any]) -> bytes:
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def drawn_name(item: Item) -> str:
    """The picture's own name below drawn/, wherever it was; of a video a folder of frames."""
    name = item.source.name.partition("://")[2] or item.source.name
    parts = [{"..": "_"}.get(part, part) for part in PurePosixPath(name.replace(os.sep, "/")).parts]
    inside = "/".join(part.replace(":", "_") for part in parts if part not in ("/", "."))
    if item.told:
        return f"{inside}/{item.told['frame']:06d}.jpg"
    return inside if inside.lower().endswith((*JPEG_SUFFIXES, ".png")) else f"{inside}.png"
