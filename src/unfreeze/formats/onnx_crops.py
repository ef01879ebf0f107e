"""TensorFlow's CropAndResize as ONNX's RoiAlign, which crops all boxes at once.

tf2onnx writes a loop that copies the whole feature map for every box: a third of the time of a Faster R-CNN.

RoiAlign with one sample a bin takes the center of each bin, so the boxes are those whose bins have the samples of
CropAndResize at their centers. Both interpolate between the four neighbors. A sample outside of the map is 0 in
CropAndResize, and a pixel at the border in RoiAlign; the crops are multiplied with 0 there.

Source: TensorFlow's core/kernels/image/crop_and_resize_op.cc; ONNX Runtime's core/providers/cpu/object_detection/
roialign.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from tf2onnx import utils
from tf2onnx.onnx_opset.nn import CropAndResize

FIRST_OPSET = 16  # before, RoiAlign makes boxes at least one pixel large


def as_roi_align(context: Any, node: Any, _name: str, _arguments: Sequence[Any]) -> None:
    """Replaces a node CropAndResize in a graph of tf2onnx.

    A computed crop size, another interpolation, or other values than 0 outside of the map are left to tf2onnx.
    """
    zero_outside = node.get_attr_value("extrapolation_value", 0.0) == 0
    if not (node.inputs[3].is_const() and node.get_attr_str("method") == "bilinear" and zero_outside):
        CropAndResize.any_version_after11(context.opset, context, node)
        return
    features, boxes, images, _ = node.input
    crop_size = [int(length) for length in node.inputs[3].get_tensor_value()]
    output, shape, dtype = node.output[0], context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    context.remove_node(node.name)
    graph = _Graph(context)
    sizes = graph("Cast", [graph("Shape", [features])], to=TensorProto.FLOAT)
    low, high, inside = [], [], []
    for axis, length in enumerate(crop_size):
        last = graph("Sub", [graph("Gather", [sizes, graph.integers([1 + axis])]), graph.floats([1])])
        start, step = _samples(graph, boxes, axis, length, last)
        half = graph("Mul", [step, graph.floats([0.5])])
        low.append(graph("Add", [graph("Sub", [start, half]), graph.floats([0.5])]))  # RoiAlign subtracts the 0.5
        high.append(graph("Add", [low[-1], graph("Mul", [step, graph.floats([length])])]))
        inside.append(_inside(graph, start, step, length, last))
    rois = graph("Concat", [low[1], low[0], high[1], high[0]], axis=1)  # x before y
    crops = graph(
        "RoiAlign",
        [
            graph("Transpose", [features], perm=[0, 3, 1, 2]),
            rois,
            graph("Cast", [images], to=TensorProto.INT64),
        ],
        output_height=crop_size[0],
        output_width=crop_size[1],
        sampling_ratio=1,
        spatial_scale=1.0,
        mode="avg",
        coordinate_transformation_mode="half_pixel",
    )
    rows = graph("Unsqueeze", [inside[0], graph.integers([1, 3])])  # [R, 1, h, 1]
    columns = graph("Unsqueeze", [inside[1], graph.integers([1, 2])])  # [R, 1, 1, w]
    kept = graph("Mul", [crops, graph("Mul", [rows, columns])])
    context.make_node(
        "Transpose", [kept], {"perm": [0, 2, 3, 1]}, name=node.name, outputs=[output], shapes=[shape], dtypes=[dtype]
    )


HANDLERS: dict[str, tuple[Callable[..., None], list[Any]]] = {"CropAndResize": (as_roi_align, [])}


class _Graph:
    """Adds nodes with one output each to a graph of tf2onnx."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __call__(self, operation: str, inputs: Sequence[str], **attributes: Any) -> str:
        output: str = self._context.make_node(operation, list(inputs), attributes).output[0]
        return output

    def floats(self, values: Sequence[float]) -> str:
        return self._constant(np.array(values, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        return self._constant(np.array(values, np.int64))

    def _constant(self, array: np.ndarray) -> str:
        output: str = self._context.make_const(utils.make_name("crops"), array).output[0]
        return output


def _samples(graph: _Graph, boxes: str, axis: int, length: int, last: str) -> tuple[str, str]:
    """Returns `[R, 1]` and `[R, 1]`: the position of the first sample of each box, and the step to the next one."""
    near = graph("Gather", [boxes, graph.integers([axis])], axis=1)
    far = graph("Gather", [boxes, graph.integers([2 + axis])], axis=1)
    if length == 1:
        middle = graph("Mul", [graph("Add", [near, far]), graph.floats([0.5])])
        start = graph("Mul", [middle, last])
        return start, graph("Mul", [start, graph.floats([0])])
    step = graph("Div", [graph("Mul", [graph("Sub", [far, near]), last]), graph.floats([length - 1])])
    return graph("Mul", [near, last]), step


def _inside(graph: _Graph, start: str, step: str, length: int, last: str) -> str:
    """Returns `[R, length]`: 1 where a sample is in the map, else 0."""
    steps = graph.floats(range(length))
    positions = graph("Add", [start, graph("Mul", [step, steps])])
    before = graph("Less", [positions, graph.floats([0])])
    behind = graph("Greater", [positions, last])
    return graph("Cast", [graph("Not", [graph("Or", [before, behind])])], to=TensorProto.FLOAT)
