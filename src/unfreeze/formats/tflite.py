"""TFLite, by TensorFlow's converter, of built-in operations only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import FrozenFile
from unfreeze.formats.tflite_precision import convert_with_precision


def convert(frozen: FrozenFile, path: Path, options: ConversionOptions) -> None:
    """Writes a file whose one signature has the names of the SavedModel's."""
    converter = _converter(frozen)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path.write_bytes(convert_with_precision(converter, options))


def _converter(frozen: FrozenFile) -> Any:
    graph_def = frozen.read()
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
    graph = imported.graph
    inputs = {name: graph.get_tensor_by_name(tensor) for name, tensor in frozen.inputs.items()}
    outputs = {name: graph.get_tensor_by_name(tensor) for name, tensor in frozen.outputs.items()}
    pruned = imported.prune(list(inputs.values()), outputs)
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name=name) for name, tensor in inputs.items()]
    function = tf.function(lambda *tensors: pruned(*tensors), input_signature=specs, autograph=False)
    model = tf.Module()
    model.call = function
    return tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], model)
