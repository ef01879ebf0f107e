"""The network in an OpenVINO model, and its weights in float16."""

from __future__ import annotations

from typing import Any

import numpy as np
from openvino import opset13 as operations

from unfreeze.formats.network_operations import Operation, network_operations

CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
PRODUCTS = ("MatMul",)
BETWEEN = (
    "Add", "AvgPool", "Clamp", "Concat", "Convert", "DepthToSpace", "HSigmoid", "HSwish", "Interpolate", "MaxPool",
    "Multiply", "PRelu", "Pad", "ReLU", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Split", "Squeeze",
    "StridedSlice", "Swish", "Transpose", "Unsqueeze", "VariadicSplit",
)  # fmt: skip


def store_weights_as_half(model: Any) -> None:
    """Stores the weights of the network as float16, which the runtime converts when it loads the model.

    OpenVINO's own `compress_to_fp16` stores almost none of them: with TopK and Exp behind them, it keeps all constants
    before these operations in float32.
    """
    network = network_nodes(model)
    for node in model.get_ordered_ops():
        if node.get_friendly_name() in network and node.get_input_size() > 1:
            constant = _constant(node.input_value(1).get_node())
            if constant is None or constant.get_element_type().to_dtype() != np.float32:
                continue
            limits = np.finfo(np.float16)
            values = np.clip(constant.get_data(), limits.min, limits.max).astype(np.float16)
            restored = operations.convert(operations.constant(values), "f32").output(0)
            for target in constant.output(0).get_target_inputs():
                target.replace_source_output(restored)


def network_nodes(model: Any) -> set[str]:
    """Returns the friendly names of the nodes that compute the network."""
    operations = [
        Operation(
            node.get_friendly_name(),
            node.get_type_name(),
            [_tensor(value.get_source_output()) for value in node.inputs()],
            [_tensor(value) for value in node.outputs()],
            has_weights=node.get_input_size() > 1 and _constant(node.input_value(1).get_node()) is not None,
        )
        for node in model.get_ordered_ops()
    ]
    return network_operations(operations, convolutions=CONVOLUTIONS, products=PRODUCTS, between=BETWEEN)


def _constant(node: Any) -> Any:
    """Returns a node that is a constant, perhaps behind a transposition or a reshaping; None if it is not one."""
    while node.get_type_name() in ("Convert", "Reshape", "Transpose", "Unsqueeze", "Multiply"):
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def _tensor(output: Any) -> str:
    return f"{output.get_node().get_friendly_name()}:{output.get_index()}"
