"""One side of a comparison: the weights, signatures, operations and settings of a checkpoint, SavedModel or graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import Message

from unfreeze.config import read_pipeline_config
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.export_record import ExportRecord, WeightRecord, read_record
from unfreeze.graphs import FrozenGraph, find_endpoints, find_parameters, read_frozen_graph
from unfreeze.graphs.endpoints import Endpoint
from unfreeze.model_paths import (
    CONFIG,
    find_pipeline_config,
    is_frozen_graph_file,
    is_graph_path,
    saved_model_folder,
)
from unfreeze.verification.meta_graph import TensorInfo, read_meta_graph
from unfreeze.weights import Checkpoint, open_checkpoint, read_index, training_state
from unfreeze.weights.objects import VALUE

# Of a pipeline.config what an answer depends on; the rest is how the model was trained.
SETTINGS = ("model", "graph_rewriter", "eval_config.use_moving_averages")
# What the inputs of the runtime's suppression are called. Source: tensorflow/core/ops/image_ops.cc.
SUPPRESSION = {3: "iou_threshold", 4: "score_threshold", 5: "soft_nms_sigma"}


@dataclass(frozen=True)
class Held:
    """A weight of one side; `read` gives its value."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Side:
    """What is compared. `signatures` and `operations` are None where there is no graph.

    `settings` are those of a pipeline.config, `thresholds` those of the suppression in a graph.
    """

    path: Path
    kind: str
    weights: Mapping[str, Held]
    signatures: Mapping[str, Mapping[str, str]] | None = None
    operations: Counter[str] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, str] = field(default_factory=dict)


def read_side(path: str | Path) -> Side:
    """A checkpoint (prefix, folder, state file), a SavedModel or the folder above it, or a frozen graph (.pb).

    Raises: UnfreezeError of the kind that fits, when it is none of these.
    """
    path = Path(path)
    if not is_graph_path(path):
        return _checkpoint(open_checkpoint(path))
    return _frozen_graph(path) if is_frozen_graph_file(path) else _saved_model(saved_model_folder(path))


def _checkpoint(checkpoint: Checkpoint) -> Side:
    try:
        settings = _settings(find_pipeline_config(checkpoint, None))
    except ConfigError:  # none is there
        settings = {}
    step = "" if checkpoint.step is None else f", step {checkpoint.step:,}"
    kind = f"TensorFlow {2 if checkpoint.format == 'tf2' else 1} checkpoint{step}"
    return Side(checkpoint.prefix, kind, _stored(checkpoint), settings=settings)


def _saved_model(folder: Path) -> Side:
    frozen = read_frozen_graph(folder)
    signatures = {
        name: {
            **{f"input {key}": str(tensor) for key, tensor in signature.inputs.items()},
            **{f"output {key}": str(tensor) for key, tensor in signature.outputs.items()},
        }
        for name, signature in read_meta_graph(folder).signatures.items()
    }
    variables = folder / "variables" / "variables"
    if variables.with_name("variables.index").is_file():
        weights = _exported(read_index(variables), (read_record(folder) or ExportRecord()).weights)
    else:
        weights = _constants(frozen)
    settings = _settings(folder.parent / CONFIG)
    return Side(folder, "SavedModel", weights, signatures, _operations(frozen), settings, _thresholds(frozen))


def _frozen_graph(path: Path) -> Side:
    frozen = read_frozen_graph(path)
    try:
        ends = find_endpoints(frozen, {}, {})
    except UnsupportedError:  # which tensors are pictures and answers is nobody's concern here
        signatures = {}
    else:
        signatures = {
            "the graph": {
                **{f"input {key}": _told(end) for key, end in ends.inputs.items()},
                **{f"output {key}": _told(end) for key, end in ends.outputs.items()},
            }
        }
    settings = _settings(path.parent / CONFIG)
    return Side(
        path, "frozen graph", _constants(frozen), signatures, _operations(frozen), settings, _thresholds(frozen)
    )


def _told(end: Endpoint) -> str:
    shape = None if end.shape.rank is None else tuple(end.shape.as_list())
    return str(TensorInfo(end.tensor, end.dtype.name, shape))


def _stored(checkpoint: Checkpoint) -> dict[str, Held]:
    """Every tensor of a checkpoint but the state of its training; of shadows, only those that average a weight."""
    return {
        key.removesuffix(VALUE): Held(info.shape, info.dtype, partial(checkpoint.read, key))
        for key, info in checkpoint.tensors.items()
        if training_state(key) in ("", "moving averages")
    }


def _exported(variables: Checkpoint, weights: Mapping[str, WeightRecord]) -> dict[str, Held]:
    """The variables of a SavedModel, by the names that they had in their checkpoint where its export tells them."""
    names = {entry.variable: key for key, entry in weights.items()}
    return {
        names.get(key, key).removesuffix(VALUE): Held(info.shape, info.dtype, partial(variables.read, key))
        for key, info in variables.tensors.items()
        if not training_state(key)
    }


def _constants(frozen: FrozenGraph) -> dict[str, Held]:
    """The constants of a frozen graph that were variables."""
    return {
        found.name: Held(found.shape, found.dtype.name, partial(frozen.tensor, found.place))
        for found in find_parameters(frozen).found
    }


def _operations(frozen: FrozenGraph) -> Counter[str]:
    """How often each operation is there, in the graph and in its functions."""
    functions = frozen.functions()
    nodes = chain(frozen.graph.node, *(function.node_def for function in functions.values()))
    return Counter(node.op for node in nodes if node.op not in functions)


def _thresholds(frozen: FrozenGraph) -> dict[str, str]:
    """The thresholds of the runtime's own suppression, where the graph has it as the original's has."""
    constants = {node.name: node for node in frozen.graph.node if node.op == "Const"}
    values: dict[str, set[float]] = {}
    for node in frozen.graph.node:
        if not node.op.startswith("NonMaxSuppression"):
            continue
        for place, name in SUPPRESSION.items():
            constant = constants.get(node.input[place].split(":")[0]) if place < len(node.input) else None
            if constant is not None:
                value = float(tf.make_ndarray(constant.attr["value"].tensor))
                values.setdefault(f"{node.op}.{name}", set()).add(value)
    return {name: ", ".join(f"{value:g}" for value in sorted(held)) for name, held in values.items()}


def _settings(config: Path) -> dict[str, str]:
    """The fields of a pipeline.config that an answer depends on, by their path; none where there is no such file."""
    if not config.is_file():
        return {}
    fields = _fields(read_pipeline_config(config, allow_unknown_fields=True, on_warning=lambda line: None), "")
    return {path: value for path, value in fields if path.startswith(SETTINGS)}


def _fields(message: Any, path: str) -> Iterator[tuple[str, str]]:
    for descriptor, value in message.ListFields():
        name = f"{path}{descriptor.name}"
        several = not isinstance(value, (Message, str, bytes)) and hasattr(value, "__len__")
        for place, each in enumerate(value if several else [value]):
            one = f"{name}[{place}]" if several else name
            if isinstance(each, Message):
                yield from _fields(each, f"{one}.")
            elif descriptor.enum_type is not None:
                yield one, str(descriptor.enum_type.values_by_number[each].name)
            else:
                yield one, str(each)
