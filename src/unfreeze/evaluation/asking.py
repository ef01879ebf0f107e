"""A detector asked about many pictures: a SavedModel in batches of one size, a frozen graph one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import tensorflow as tf

from unfreeze.errors import SavedModelError
from unfreeze.evaluation.annotations import Example, decoded
from unfreeze.onednn import assume_frozen_weights_of_graph
from unfreeze.prediction.model import load_model, one_line

Answer = Mapping[str, np.ndarray]
Ask = Callable[[np.ndarray], Answer]

# What a frozen graph of the original calls its tensors. Source: object_detection/exporter.py.
FROZEN_INPUT = "image_tensor"
FROZEN_OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections", "detection_masks")


def is_frozen_graph(path: Path) -> bool:
    """Whether a path means a graph in a file, rather than a SavedModel."""
    return path.suffix == ".pb" and path.name != "saved_model.pb"


def answers(
    ask: Ask, examples: Iterable[Example], batch_size: int
) -> Iterator[tuple[Example, tuple[int, int], Answer]]:
    """The answer to each picture, with its size; neighbours of one size are asked for together."""
    pairs = ((example, decoded(example.encoded, example.name)) for example in examples)
    for _, neighbours in groupby(pairs, lambda pair: pair[1].shape):
        while batch := list(islice(neighbours, batch_size)):
            answers = ask(np.stack([pixels for _, pixels in batch]))
            for place, (example, pixels) in enumerate(batch):
                height, width, _ = pixels.shape
                yield example, (height, width), {name: value[place] for name, value in answers.items()}


def asker(path: Path) -> Ask:
    """A function from pictures uint8 `[N, H, W, 3]` to the outputs, by name, of a SavedModel or a frozen graph."""
    if is_frozen_graph(path):
        return _frozen_asker(path)
    model = load_model(path)
    if model.forms:
        raise SavedModelError(
            f"{path}: {model.signature} takes encoded pictures only; evaluate needs one that takes pixels"
        )
    fixed = model.input_spec.shape[0]

    def ask(pictures: np.ndarray) -> Answer:
        copies = np.resize(pictures, (fixed, *pictures.shape[1:])) if fixed else pictures
        try:
            outputs = model.call(**{model.input_name: tf.cast(copies, model.input_spec.dtype)})
        except tf.errors.OpError as error:
            raise SavedModelError(f"{path}: {model.signature} failed: {one_line(error)}") from error
        return {name: value.numpy() for name, value in outputs.items()}

    return ask if not fixed else lambda pictures: _one_by_one(ask, pictures)


def _frozen_asker(path: Path) -> Ask:
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
        nodes = {node.name for node in graph_def.node}
        outputs = {name: f"{name}:0" for name in FROZEN_OUTPUTS if name in nodes}
        assume_frozen_weights_of_graph(path, graph_def, [f"{FROZEN_INPUT}:0"], list(outputs.values()))
        function = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
        call = function.prune(f"{FROZEN_INPUT}:0", outputs)
    except SavedModelError:
        raise
    except (
        Exception
    ) as error:  # no file, no graph, other operations, other tensors: ValueError, KeyError, DecodeError …
        raise SavedModelError(f"{path}: not a frozen detector that takes image_tensor: {one_line(error)}") from None
    return lambda pictures: _one_by_one(lambda one: {k: v.numpy() for k, v in call(tf.constant(one)).items()}, pictures)


def _one_by_one(ask: Callable[[np.ndarray], Answer], pictures: np.ndarray) -> Answer:
    """Each picture alone, for a model that takes a batch of a fixed size, or whose pictures would share a canvas."""
    answers = [ask(picture[np.newaxis]) for picture in pictures]
    return {name: np.concatenate([answer[name][:1] for answer in answers]) for name in answers[0]}
