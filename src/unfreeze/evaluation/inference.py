"""Runs a detector on annotated images, in batches of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np

from unfreeze.evaluation.annotations import Example, decode_image
from unfreeze.runtimes.model import Model, Outputs, split_batch


@dataclass(frozen=True)
class ExampleOutputs:
    """The outputs of a detector for one example, without the batch dimension."""

    example: Example
    size: tuple[int, int]  # height, width
    outputs: Outputs


def run_on_examples(model: Model, examples: Iterable[Example], batch_size: int) -> Iterator[ExampleOutputs]:
    """Yields the outputs for each example in order; neighbors of one size share a batch.

    Raises: ImageError if an image cannot be decoded, SavedModelError if the model fails.
    """
    decoded = ((example, decode_image(example.encoded, example.name)) for example in examples)
    for _, neighbors in groupby(decoded, lambda pair: pair[1].shape):
        while batch := list(islice(neighbors, batch_size)):
            images = np.stack([image for _, image in batch])
            _, height, width, _ = images.shape
            for (example, _), outputs in zip(batch, split_batch(model.run(images), len(batch)), strict=True):
                yield ExampleOutputs(example, (height, width), outputs)
