"""Writes the checkpoint that the Object Detection API's exporters write beside the SavedModel.

Source: object_detection/exporter.py (write_graph_and_checkpoint), exporter_lib_v2.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from unfreeze.exporting.job import CHECKPOINT, INFERENCE_GRAPH, META_GRAPH
from unfreeze.savedmodel import Exportable, variable_key, write_saved_model
from unfreeze.weights import Weights
from unfreeze.weights.saving import write_checkpoint, write_state_file

TF2_CHECKPOINT = "ckpt-0"


def write_tf1_files(
    exportable: Exportable, weights: Weights, input_type: str, folder: Path, *, checkpoint: bool, graph: bool
) -> None:
    """Writes model.ckpt.{data,index,meta} with its state file, or inference_graph.pbtxt, or both.

    The graph in the .meta computes the detections from the variables, without anything that has to run before.

    Args:
        exportable: a traced detector of `weights="trainable"`, and these weights.
    """
    meta_graph = _meta_graph(exportable, weights, input_type)
    if checkpoint:
        write_checkpoint(weights, folder / CHECKPOINT, as_stored=True)
        write_state_file(folder, CHECKPOINT)
        (folder / META_GRAPH).write_bytes(meta_graph.SerializeToString())
    if graph:
        (folder / INFERENCE_GRAPH).write_text(text_format.MessageToString(meta_graph.graph_def))


def write_tf2_files(weights: Weights, folder: Path) -> None:
    """Writes checkpoint/ckpt-0 and its state file."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    write_checkpoint(weights, checkpoint / TF2_CHECKPOINT, as_stored=True)
    write_state_file(checkpoint, TF2_CHECKPOINT)


def _meta_graph(exportable: Exportable, weights: Weights, input_type: str) -> Any:
    """Returns the graph of a SavedModel, whose restore operation reads a checkpoint with the variables' own names."""
    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
        write_saved_model(
            exportable, weights.variables, weights.values, weights.derived, Path(scratch), input_types=[input_type]
        )
        saved_model = saved_model_pb2.SavedModel.FromString((Path(scratch) / "saved_model.pb").read_bytes())
    meta_graph = saved_model.meta_graphs[0]
    meta_graph.ClearField("object_graph_def")
    names = {variable_key(name).encode(): name.encode() for name in weights.variables}
    [stored] = (node for node in meta_graph.graph_def.node if node.name == "save/names")
    keys = stored.attr["value"].tensor.string_val
    keys[:] = [names[key] for key in keys]
    return meta_graph
