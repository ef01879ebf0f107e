"""Runs a detector on annotated images, in batches of one size; images are decoded ahead of the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np

from unfreeze.errors import ImageError
from unfreeze.evaluation.annotations import Example, decode_image
from unfreeze.prediction.batches import prefetch
from unfreeze.runtimes.model import Model, Outputs, split_batch

DECODERS = 2  # threads: a JPEG is decoded in a fraction of the time that a detector takes

OnUnreadable = Callable[[Example, ImageError], None]


@dataclass(frozen=True)
class ExampleOutputs:
    """The outputs of a detector for one example, without the batch dimension."""

    example: Example
    size: tuple[int, int]  # height, width
    outputs: Outputs
    seconds: float  # of the model


def run_on_examples(
    model: Model, examples: Iterable[Example], batch_size: int, on_unreadable: OnUnreadable
) -> Iterator[ExampleOutputs]:
    """Yields the outputs for each example in order; neighbors of one size share a batch.

    An image that cannot be decoded is passed to `on_unreadable`, and skipped.

    Raises: SavedModelError if the model fails.
    """
    with ThreadPoolExecutor(DECODERS, "decode") as pool:
        decoded = _decoded(pool, examples, 2 * batch_size, on_unreadable)
        for _, neighbors in groupby(decoded, lambda pair: pair[1].shape):
            while batch := list(islice(neighbors, batch_size)):
                images = np.stack([image for _, image in batch])
                _, height, width, _ = images.shape
                started = time.perf_counter()
                outputs = split_batch(model.run(images), len(batch))
                seconds = (time.perf_counter() - started) / len(batch)
                for (example, _), own in zip(batch, outputs, strict=True):
                    yield ExampleOutputs(example, (height, width), own, seconds)


def _decoded(
    pool: ThreadPoolExecutor, examples: Iterable[Example], ahead: int, on_unreadable: OnUnreadable
) -> Iterator[tuple[Example, np.ndarray]]:
    """Yields the examples that can be decoded, with their pixels."""
    futures: Iterator[Future[tuple[Example, np.ndarray | ImageError]]]
    futures = (pool.submit(_decode, example) for example in examples)
    for example, image in prefetch(futures, ahead):
        if isinstance(image, ImageError):
            on_unreadable(example, image)
        else:
            yield example, image


def _decode(example: Example) -> tuple[Example, np.ndarray | ImageError]:
    try:
        return example, decode_image(example.read(), example.name)
    except ImageError as error:
        return example, error
    except OSError as error:
        return example, ImageError(f"{example.name}: cannot be read ({error.strerror or error}).")
