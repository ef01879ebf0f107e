"""The node of EfficientNMS_TRT in an ONNX model."""

from __future__ import annotations

from pathlib import Path

import onnx

from unfreeze.tensorrt.efficient_nms import INPUTS, OUTPUTS, PLUGIN, Attributes

DOMAIN = "TRT"


def append_plugin(path: Path, attributes: Attributes) -> None:
    """Adds the plugin to a model whose outputs are its inputs; its outputs become those of the model."""
    model = onnx.load(str(path))
    [count] = {output.type.tensor_type.shape.dim[0].dim_value for output in model.graph.output}
    rows = attributes["max_output_boxes"]
    shapes = ([count, 1], [count, rows, 4], [count, rows], [count, rows])
    dtypes = (onnx.TensorProto.INT32, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32)
    model.graph.node.append(
        onnx.helper.make_node(PLUGIN, list(INPUTS), list(OUTPUTS), name=PLUGIN, domain=DOMAIN, **attributes)
    )
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, dtype, shape)
        for name, dtype, shape in zip(OUTPUTS, dtypes, shapes, strict=True)
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_without_plugin(path: Path, target: Path) -> None:
    """Writes a copy of a model that ends in the inputs of the plugin, which any runtime can run."""
    model = onnx.load(str(path))
    plugin = model.graph.node.pop()
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in plugin.input
    )
    onnx.save(model, str(target))
