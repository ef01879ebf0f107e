"""ONNX, by tf2onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import tf2onnx

from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import FrozenFile
from unfreeze.formats.onnx_crops import FIRST_OPSET, HANDLERS
from unfreeze.formats.onnx_precision import convert_to_half, quantized
from unfreeze.formats.precision import Precision

DEFAULT_OPSET = 18


def convert(frozen: FrozenFile, path: Path, options: ConversionOptions) -> None:
    """Writes an ONNX model whose inputs and outputs have the names of the SavedModel's.

    Raises: ValueError: tf2onnx has left an operation that ONNX does not have, or an input that is not one of the model;
    it reports success in both cases.
    """
    opset = options.opset or DEFAULT_OPSET
    model, _ = tf2onnx.convert.from_graph_def(
        frozen.read(),
        input_names=list(frozen.inputs.values()),
        output_names=list(frozen.outputs.values()),
        opset=opset,
        custom_op_handlers=HANDLERS if opset >= FIRST_OPSET else {},
    )
    inputs = [value.name for value in model.graph.input]
    if sorted(inputs) != sorted(frozen.inputs.values()):
        raise ValueError(f"the converted model has the inputs {', '.join(inputs)}")
    domains = {operator.domain for operator in model.opset_import} - {"", "ai.onnx.ml"}
    if domains:
        raise ValueError(f"the converted model needs operations of {', '.join(sorted(domains))}")
    _rename(model.graph, {tensor: name for name, tensor in {**frozen.inputs, **frozen.outputs}.items()})
    _name_constant_outputs(model.graph)
    if options.precision is Precision.HALF:
        convert_to_half(model)
    elif options.precision is Precision.INT8:
        assert options.calibration is not None
        model = quantized(model, options.calibration)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _name_constant_outputs(graph: Any) -> None:
    """Adds a node for each output that is a constant, as the anchors of a fixed size: ONNX wants outputs of nodes."""
    produced = {tensor for node in graph.node for tensor in node.output}
    for number, initializer in enumerate(graph.initializer):
        if initializer.name in {output.name for output in graph.output} - produced:
            name = initializer.name
            initializer.name = f"{name}_constant_{number}"
            graph.node.append(onnx.helper.make_node("Identity", [initializer.name], [name]))


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Renames tensors of a graph and of the graphs inside its nodes."""
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.name = names.get(value.name, value.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(tensor, tensor) for tensor in tensors]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)
