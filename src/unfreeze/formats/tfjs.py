"""A graph model of TensorFlow.js, of the operations that all its backends have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.grappler import tf_optimizer  # no public name for it

from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import FrozenFile
from unfreeze.tfjs.graph_model import write_graph_model

# As TensorFlow.js's own converter does; `remap` joins convolutions with their biases and activations.
OPTIMIZERS = ("pruning", "constfold", "arithmetic", "dependency", "remap", "constfold", "dependency")


def convert(frozen: FrozenFile, path: Path, options: ConversionOptions) -> None:
    """Writes model.json and the shards of its weights.

    Raises: ValueError: TensorFlow.js does not have an operation of the graph.
    """
    write_graph_model(_optimized(frozen), frozen.inputs, frozen.outputs, path)


def _optimized(frozen: FrozenFile) -> Any:
    """Returns the graph with constants computed and operations joined, by TensorFlow's Grappler."""
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(frozen.read(), name="")
    meta_graph = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    for name in (*frozen.inputs.values(), *frozen.outputs.values()):
        meta_graph.collection_def["train_op"].node_list.value.append(name)
    config = config_pb2.ConfigProto()
    rewriter = config.graph_options.rewrite_options
    rewriter.optimizers[:] = OPTIMIZERS
    rewriter.meta_optimizer_iterations = 2
    return tf_optimizer.OptimizeGraph(config, meta_graph)
