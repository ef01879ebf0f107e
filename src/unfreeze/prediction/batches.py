"""Runs a model over shards of images: decodes ahead of the model, runs batches of one size, returns JSON lines.

Everything in between is bounded, so that memory does not depend on the number of images.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

from PIL import Image

from unfreeze.errors import ImageError, SavedModelError, UnfreezeError
from unfreeze.images import (
    JPEG_SUFFIXES,
    Detection,
    Frame,
    Source,
    draw_detections,
    encode_image,
    read_frames,
    read_source,
)
from unfreeze.images.drawing import rectangle_of
from unfreeze.images.sources import file_system
from unfreeze.prediction.backends import Backend
from unfreeze.prediction.class_names import Names, names_in_outputs
from unfreeze.prediction.detections import parse_detections
from unfreeze.prediction.shards import Shard
from unfreeze.prediction.store import Store
from unfreeze.prediction.tiles import Tiling, detect
from unfreeze.runtimes.model import Outputs

OPEN_SIZES = 4  # batches of different sizes that wait for more images

T = TypeVar("T")


@dataclass(frozen=True)
class PredictOptions:
    """The options of running images: how they are run, and what is written for each."""

    min_score: float = 0.5
    batch_size: int | None = None
    video_step: int = 1
    draw: bool = False
    magnify: int = 1
    crops: bool = False
    tiling: Tiling | None = None


@dataclass(frozen=True)
class Item:
    """An image of a shard that is about to be run, or the error that took its place."""

    source: Source
    index: int
    image: Image.Image | None = None
    error: UnfreezeError | None = None
    frame: dict[str, Any] = field(default_factory=dict)  # `frame` and `time_s` of a video's frame


@dataclass(frozen=True)
class Result:
    """The result of an image: a line of JSON, and the error if it failed."""

    index: int
    line: bytes
    error: UnfreezeError | None = None


@dataclass(frozen=True)
class ShardRunner:
    """Runs shards through a backend, with a pool of threads that decode and one of threads that call the model."""

    backend: Backend
    names: Names
    options: PredictOptions
    store: Store
    decoders: ThreadPoolExecutor
    callers: ThreadPoolExecutor

    def run_shards(
        self, shards: Iterable[Shard], on_image: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Shard, list[bytes]]]:
        """Yields each shard with the JSON lines of its images, in their order.

        Raises: SavedModelError if the model fails on every image of a shard, RemoteError if a server does.
        """
        # While the callers are busy, twice their next batches are decoded: images of one size are often not in a row.
        threads, batch_size = self.backend.threads, self.backend.batch_size
        items = prefetch(self.decode(shards), 2 * threads * batch_size + 2)
        finished = prefetch(self.call(batches(items, batch_size)), threads + 2)
        results: list[Result] = []
        for done in finished:
            if isinstance(done, Shard):
                errors = [result.error for result in results if isinstance(result.error, SavedModelError)]
                if errors and len(errors) == len(results):
                    raise errors[0]
                yield done, [result.line for result in sorted(results, key=lambda result: result.index)]
                results = []
            else:
                results += done
                for _ in done:
                    on_image()

    def decode(self, shards: Iterable[Shard]) -> Iterator[Future[Item | Shard]]:
        """Yields the images of each shard, and after them the shard itself."""
        for shard in shards:
            if shard.is_video:
                yield from map(completed, decode_video(shard.sources[0], self.options.video_step))
            else:
                for index, source in enumerate(shard.sources):
                    yield self.decoders.submit(decode_image, source, index)
            yield completed(shard)

    def call(self, batches: Iterable[list[Item] | Shard]) -> Iterator[Future[list[Result] | Shard]]:
        """Yields the results of each batch, and each shard as it comes."""
        for batch in batches:
            yield completed(batch) if isinstance(batch, Shard) else self.callers.submit(self.run_batch, batch)

    def run_batch(self, batch: list[Item]) -> list[Result]:
        """Returns the result of each image of a batch; if the batch fails, each image is run alone."""
        first = batch[0].image
        if first is None:
            return [failure(batch[0], batch[0].error)]
        try:
            if self.options.tiling is not None and self.options.tiling.cuts(first):
                return [self.result_of_tiles(item) for item in batch]
            outputs = self.backend.run([item.source for item in batch], [item.image for item in batch if item.image])
            return [self.result_of(item, output) for item, output in zip(batch, outputs, strict=True)]
        except SavedModelError as error:
            if len(batch) == 1:
                return [failure(batch[0], error)]
            return [result for item in batch for result in self.run_batch([item])]

    def result_of_tiles(self, item: Item) -> Result:
        """Returns the result of an image that is run in tiles."""
        assert item.image is not None
        options = self.options
        detections = detect(self.backend, item.source, item.image, self.names, options.min_score, options.tiling)
        return self.result_of_detections(item, detections)

    def result_of(self, item: Item, outputs: Outputs) -> Result:
        """Returns the result of an image from the outputs of the model."""
        assert item.image is not None
        names = self.names or names_in_outputs(outputs)
        return self.result_of_detections(
            item, tuple(parse_detections(outputs, item.image, names, self.options.min_score))
        )

    def result_of_detections(self, item: Item, detections: tuple[Detection, ...]) -> Result:
        """Returns the result of an image, and writes its drawing and its crops if the options say so."""
        image = item.image
        assert image is not None
        if self.options.crops:
            for path, crop in crops_of(item, image, detections):
                self.store.write(path, [encode_image(crop, PurePosixPath(path).suffix)])
        if self.options.draw:
            path = drawn_path(item)
            drawn = draw_detections(image, detections, self.options.magnify)
            self.store.write(f"drawn/{path}", [encode_image(drawn, PurePosixPath(path).suffix)])
        record = {
            "image": item.source.name,
            **item.frame,
            "width": image.width,
            "height": image.height,
            "detections": [detection.to_dict(image.width, image.height) for detection in detections],
        }
        return Result(item.index, json_line(record))


def prefetch(futures: Iterable[Future[T]], limit: int) -> Iterator[T]:
    """Yields the results in order, while up to `limit` of the futures are under way."""
    waiting: deque[Future[T]] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def completed(result: Any) -> Future[Any]:
    """Returns a future that has its result already."""
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def decode_image(source: Source, index: int) -> Item:
    """Returns the decoded image, or its error."""
    try:
        return Item(source, index, read_source(source))
    except ImageError as error:
        return Item(source, index, error=error)


def decode_video(source: Source, step: int) -> Iterator[Item]:
    """Yields the frames, decoded by PyAV's own threads; an incomplete video ends with an error."""
    index = 0
    try:
        for frame in frames_of(source, step):
            yield Item(source, index, frame.image, frame={"frame": frame.number, "time_s": frame.time_s})
            index += 1
    except ImageError as error:
        yield Item(source, index, error=error)


def frames_of(source: Source, step: int) -> Iterator[Frame]:
    """Yields the frames of a video on this machine or in a store."""
    if "://" not in source.location:
        yield from read_frames(source.location, source.location, step)
        return
    files, path = file_system(source.location)
    try:
        opened = files.open(path, "rb")
    except Exception as error:  # each store has errors of its own
        raise ImageError(
            f"{source.location} cannot be read: {type(error).__name__}: {error}. Check the URL and your access."
        ) from None
    with opened as file:
        yield from read_frames(file, source.location, step)


def batches(items: Iterable[Item | Shard], batch_size: int) -> Iterator[list[Item] | Shard]:
    """Yields batches of images of one size; before the end of a shard, also those that are not full."""
    waiting: dict[tuple[int, int], list[Item]] = {}
    for item in items:
        if isinstance(item, Shard):
            yield from waiting.values()
            waiting = {}
            yield item
        elif item.image is None:
            yield [item]
        else:
            same_size = waiting.setdefault(item.image.size, [])
            same_size.append(item)
            if len(same_size) == batch_size:
                yield waiting.pop(item.image.size)
            elif len(waiting) > OPEN_SIZES:
                yield waiting.pop(next(iter(waiting)))


def failure(item: Item, error: UnfreezeError | None) -> Result:
    """Returns the result of an image that failed."""
    record = {"image": item.source.name, **item.frame, "error": str(error)}
    return Result(item.index, json_line(record), error)


def json_line(record: dict[str, Any]) -> bytes:
    """Returns a record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"


def crops_of(item: Item, image: Image.Image, detections: Sequence[Detection]) -> Iterator[tuple[str, Image.Image]]:
    """Yields the part of the image inside each box, and its path: crops/CLASS/IMAGE_NUMBER.jpg or .png."""
    path = PurePosixPath(drawn_path(item))
    for number, detection in enumerate(detections):
        left, top, right, bottom = rectangle_of(image, detection)
        folder = re.sub(r"[^\w .+-]", "_", detection.name).strip(" .") or f"class {detection.class_id}"
        name = f"{path.stem}_{number:03d}{path.suffix}"
        yield f"crops/{folder}/{path.with_name(name)}", image.crop((left, top, right, bottom))


def drawn_path(item: Item) -> str:
    """Returns the path below drawn/ of an image with its detections: its own name, or a file in a video's folder."""
    name = item.source.name.partition("://")[2] or item.source.name
    parts = [{"..": "_"}.get(part, part) for part in PurePosixPath(name.replace(os.sep, "/")).parts]
    path = "/".join(part.replace(":", "_") for part in parts if part not in ("/", "."))
    if item.frame:
        return f"{path}/{item.frame['frame']:06d}.jpg"
    return path if path.lower().endswith((*JPEG_SUFFIXES, ".png")) else f"{path}.png"
