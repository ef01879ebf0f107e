"""Freezes a detector: one graph whose weights are constants, from which every other format is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (  # no public name for it
    convert_variables_to_constants_v2,
)

from unfreeze.formats.frozen_file import FrozenFile, write_frozen_file
from unfreeze.savedmodel import Exportable
from unfreeze.savedmodel.signatures import signature


def freeze(
    exportable: Exportable,
    input_shape: Sequence[int | None] | None,
    folder: Path,
    weights: Mapping[str, np.ndarray],
    *,
    input_type: str = "image_tensor",
    input_name: str | None = None,
    lower_control_flow: bool = False,
) -> FrozenFile:
    """Writes the graph of a detector into a folder.

    Args:
        exportable: a traced detector whose weights are constants, or stand-ins for them.
        input_shape: (images, height, width, channels); None leaves a dimension open.
        weights: the values of the stand-ins, by name.
        input_type: `image_tensor` or `float_image_tensor`.
        input_name: the node of the images; by default the name of the SavedModel's input.
        lower_control_flow: write loops and branches as operations of TensorFlow 1, not as functions: functions of two
            graphs in one process may have the same name. Converters need functions.

    Raises: ValueError: the graph is larger than 2 GB, which no GraphDef can be.
    """
    function = signature(exportable.detector, exportable.detect, input_type, input_shape)
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=lower_control_flow)
    names = sorted(function.structured_outputs)
    renamed = {exportable.detector.input_name: input_name} if input_name else {}
    inputs = {tensor.name.removesuffix(":0"): tensor for tensor in frozen.inputs}
    with tf.Graph().as_default() as graph:
        placeholders = {
            name: tf.compat.v1.placeholder(tensor.dtype, tensor.shape, name=renamed.get(name, name))
            for name, tensor in inputs.items()
        }
        results = tf.graph_util.import_graph_def(
            frozen.graph.as_graph_def(),
            input_map=placeholders,
            return_elements=[tensor.name for tensor in frozen.outputs],
            name="detector",
        )
        outputs = {name: tf.identity(result, name).name for name, result in zip(names, results, strict=True)}
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), names)
    inputs_by_name = {name: placeholder.name for name, placeholder in placeholders.items()}
    return write_frozen_file(graph_def, inputs_by_name, outputs, folder, weights)
