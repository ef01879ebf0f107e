"""Summarizes a model for `diff`: weights, signatures, operations, settings and thresholds. Runs nothing."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import tensorflow as tf

from unfreeze.comparison.summary import ModelSummary, StoredTensor, read_settings
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.export_record import ExportRecord, read_record
from unfreeze.graphs import FrozenGraph, find_endpoints, find_parameters, read_frozen_graph
from unfreeze.model_paths import CONFIG, find_pipeline_config, is_graph_path
from unfreeze.verification.meta_graph import TensorInfo
from unfreeze.weights import Checkpoint, open_checkpoint, read_index, training_state
from unfreeze.weights.checkpoints import VALUE

# The inputs of TensorFlow's NonMaxSuppression operations. Source: tensorflow/core/ops/image_ops.cc.
SUPPRESSION = {3: "iou_threshold", 4: "score_threshold", 5: "soft_nms_sigma"}


def summarize_model(path: str | Path) -> ModelSummary:
    """Returns the summary of a checkpoint (prefix, folder, state file), a SavedModel or a frozen graph (.pb).

    Raises: UnfreezeError if the path is none of these.
    """
    if not is_graph_path(path):
        checkpoint = open_checkpoint(path)
        return summarize_checkpoint(checkpoint)
    graph = read_frozen_graph(path)
    return summarize_saved_model(graph) if graph.signatures else summarize_frozen_graph(graph)


def summarize_checkpoint(checkpoint: Checkpoint) -> ModelSummary:
    """Returns the summary of a checkpoint, with the settings of the pipeline.config beside it or above, if any."""
    try:
        settings = read_settings(find_pipeline_config(checkpoint.prefix, None))
    except ConfigError:
        settings = {}
    step = "" if checkpoint.step is None else f", step {checkpoint.step:,}"
    kind = f"TensorFlow {2 if checkpoint.format == 'tf2' else 1} checkpoint{step}"
    return ModelSummary(checkpoint.prefix, kind, checkpoint_weights(checkpoint), settings=settings)


def summarize_saved_model(graph: FrozenGraph) -> ModelSummary:
    """Returns the summary of a SavedModel, whose weights are variables or constants."""
    folder = graph.path.parent
    has_variables = (folder / "variables" / "variables.index").is_file()
    return ModelSummary(
        folder,
        "SavedModel",
        variable_weights(folder) if has_variables else constant_weights(graph),
        {
            text: tensor
            for name, signature in graph.signatures.items()
            for text, tensor in signature_tensors(name, signature).items()
        },
        count_operations(graph),
        read_settings(folder.parent / CONFIG),
        suppression_thresholds(graph),
    )


def summarize_frozen_graph(graph: FrozenGraph) -> ModelSummary:
    """Returns the summary of a frozen graph, without signatures if it does not show which tensors are the outputs."""
    try:
        endpoints = find_endpoints(graph, {}, {})
    except UnsupportedError:
        signatures = {}
    else:
        tensors = {"input": endpoints.inputs, "output": endpoints.outputs}
        signatures = {
            f"the graph {side} {key}": tensor_text(endpoint.dtype, endpoint.shape)
            for side, by_key in tensors.items()
            for key, endpoint in by_key.items()
        }
    return ModelSummary(
        graph.path,
        "frozen graph",
        constant_weights(graph),
        signatures,
        count_operations(graph),
        read_settings(graph.path.parent / CONFIG),
        suppression_thresholds(graph),
    )


def signature_tensors(name: str, signature: Any) -> dict[str, str]:
    """Returns data type and shape of each input and output of a SignatureDef."""
    return {
        f"{name} {side} {key}": tensor_text(tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape))
        for side, by_key in (("input", signature.inputs), ("output", signature.outputs))
        for key, info in sorted(by_key.items())
    }


def tensor_text(dtype: tf.DType, shape: tf.TensorShape) -> str:
    """Returns `float32 [?, 100, 4]`."""
    return str(TensorInfo("", dtype.name, None if shape.rank is None else tuple(shape.as_list())))


def checkpoint_weights(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Returns every tensor of a checkpoint that is a weight or the moving average of one."""
    return {
        key.removesuffix(VALUE): StoredTensor(entry.shape, entry.dtype, partial(checkpoint.read, key))
        for key, entry in checkpoint.tensors.items()
        if training_state(key) in ("", "moving averages")
    }


def variable_weights(folder: Path) -> dict[str, StoredTensor]:
    """Returns the variables of a SavedModel, by their keys in the checkpoint if export.json lists them."""
    variables = read_index(folder / "variables" / "variables")
    record = read_record(folder) or ExportRecord()
    keys = {entry.variable: key for key, entry in record.weights.items()}
    return {
        keys.get(name, name).removesuffix(VALUE): StoredTensor(entry.shape, entry.dtype, partial(variables.read, name))
        for name, entry in variables.tensors.items()
        if not training_state(name)
    }


def constant_weights(graph: FrozenGraph) -> dict[str, StoredTensor]:
    """Returns the constants of a graph that were variables before it was frozen."""
    return {
        parameter.name: StoredTensor(parameter.shape, parameter.dtype.name, partial(graph.tensor, parameter.place))
        for parameter in find_parameters(graph).variables
    }


def count_operations(graph: FrozenGraph) -> Counter[str]:
    """Returns how often the graph and its functions have each operation."""
    functions = graph.functions()
    nodes = chain(graph.graph.node, *(function.node_def for function in functions.values()))
    return Counter(node.op for node in nodes if node.op not in functions)


def suppression_thresholds(graph: FrozenGraph) -> dict[str, str]:
    """Returns the thresholds of TensorFlow's non-maximum suppression that are constants of the graph."""
    constants = {node.name: node for node in graph.graph.node if node.op == "Const"}
    thresholds: dict[str, set[float]] = {}
    for node in graph.graph.node:
        if not node.op.startswith("NonMaxSuppression"):
            continue
        for index, name in SUPPRESSION.items():
            constant = constants.get(node.input[index].split(":")[0]) if index < len(node.input) else None
            if constant is not None:
                threshold = float(tf.make_ndarray(constant.attr["value"].tensor))
                thresholds.setdefault(f"{node.op}.{name}", set()).add(threshold)
    return {name: ", ".join(f"{value:g}" for value in sorted(values)) for name, values in thresholds.items()}
