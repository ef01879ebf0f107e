"""Writes SavedModels: signatures, object graph, variables and files."""

from unfreeze.savedmodel.graph_saved_model import (
    GraphInput,
    as_tensor,
    possible_input_types,
    write_graph_saved_model,
)
from unfreeze.savedmodel.objects import variable_key
from unfreeze.savedmodel.signatures import signatures_to_write
from unfreeze.savedmodel.writer import Exportable, save_tensors, trace, write_fingerprint, write_saved_model

__all__ = [
    "Exportable",
    "GraphInput",
    "as_tensor",
    "possible_input_types",
    "save_tensors",
    "signatures_to_write",
    "trace",
    "variable_key",
    "write_fingerprint",
    "write_graph_saved_model",
    "write_saved_model",
]
