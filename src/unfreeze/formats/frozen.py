"""A detector as one frozen graph, the form from which every other format is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (  # no public name for it
    convert_variables_to_constants_v2,
)

from unfreeze.savedmodel import Exportable
from unfreeze.savedmodel.signatures import signature


@dataclass(frozen=True)
class FrozenDetector:
    """A GraphDef without variables, and its tensors: the names of inputs and outputs are those of the SavedModel."""

    graph_def: Any
    inputs: Mapping[str, str]  # name -> tensor, such as `inputs:0`
    outputs: Mapping[str, str]


def frozen_graph(
    exportable: Exportable,
    input_shape: Sequence[int | None] | None,
    *,
    input_type: str = "image_tensor",
    input_name: str | None = None,
    lower_control_flow: bool = False,
) -> FrozenDetector:
    """Returns the graph of a detector whose weights are constants.

    Args:
        exportable: a traced detector of `weights="constants"`.
        input_shape: (images, height, width, channels); None leaves a dimension open.
        input_type: `image_tensor` or `float_image_tensor`.
        input_name: the node of the images; by default the name of the SavedModel's input.
        lower_control_flow: write loops as nodes of TensorFlow 1 (Enter, Switch, …) instead of functions.

    Raises: ValueError: the graph is larger than 2 GB, which no GraphDef can be.
    """
    function = signature(exportable.detector, exportable.detect, input_type, input_shape)
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=lower_control_flow)
    names = sorted(function.structured_outputs)
    inputs = [tensor.name.removesuffix(":0") for tensor in frozen.inputs]
    with tf.Graph().as_default() as graph:
        placeholders = {
            name: tf.compat.v1.placeholder(
                tensor.dtype,
                tensor.shape,
                name=input_name if name == exportable.detector.input_name and input_name else name,
            )
            for name, tensor in zip(inputs, frozen.inputs, strict=True)
        }
        results = tf.graph_util.import_graph_def(
            frozen.graph.as_graph_def(),
            input_map=placeholders,
            return_elements=[tensor.name for tensor in frozen.outputs],
            name="detector",
        )
        outputs = {name: tf.identity(result, name).name for name, result in zip(names, results, strict=True)}
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), names)
    return FrozenDetector(graph_def, {name: placeholder.name for name, placeholder in placeholders.items()}, outputs)
