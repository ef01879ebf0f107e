"""The role of a constant in the operation that uses it: a weight of the network, or a number of its structure.

Source: the input arguments of TensorFlow's operations (tensorflow/core/ops/*.cc).
"""

from __future__ import annotations

import re

# Operation -> the inputs that are weights, by their position, and what they are called.
_CONV = {1: "filter"}
_NORM = {1: "scale", 2: "offset", 3: "mean", 4: "variance"}
_RANGE = {1: "min", 2: "max"}
PARAMETERS: dict[str, dict[int, str]] = {
    "Conv": _CONV,
    "Conv2D": _CONV,
    "Conv3D": _CONV,
    "DepthwiseConv2dNative": _CONV,
    "Conv2DBackpropInput": _CONV,
    "Conv3DBackpropInput": _CONV,
    "Conv3DBackpropInputV2": _CONV,
    "DepthwiseConv2dNativeBackpropInput": _CONV,
    "Dilation2D": _CONV,
    "FusedPadConv2D": {2: "filter"},
    "FusedResizeAndPadConv2D": {3: "filter"},
    "FusedBatchNorm": _NORM,
    "FusedBatchNormV2": _NORM,
    "FusedBatchNormV3": _NORM,
    "_FusedBatchNormEx": _NORM,
    "BatchNormWithGlobalNormalization": {1: "mean", 2: "variance", 3: "offset", 4: "scale"},
    "BiasAdd": {1: "bias"},
    "BiasAddV1": {1: "bias"},
    "FakeQuantWithMinMaxVars": _RANGE,
    "FakeQuantWithMinMaxVarsPerChannel": _RANGE,
    "QuantizeAndDequantizeV2": _RANGE,
    "QuantizeAndDequantizeV3": _RANGE,
    "QuantizeAndDequantizeV4": _RANGE,
    "XlaConv": _CONV,
    "XlaConvV2": _CONV,
    "Gather": {0: "table"},
    "GatherV2": {0: "table"},
}
# Either operand of these may be the parameter.
PRODUCTS = re.compile(r"(Sparse|_Fused)?(Batch)?MatMul(V2|V3)?|Einsum|XlaDot(V2)?|XlaEinsum|SparseTensorDenseMatMul")
# Operations that the runtime or a converter makes of several; every input after the first is a weight.
FUSED = re.compile(r"_?(Fused|Mkl|OneDnn|ITEX|Quantized).*|BlockLSTM.*|(LSTM|GRU)BlockCell|CudnnRNN.*")
# A program of another compiler (StableHLO), which is not read; every input is a weight.
CALLED = "XlaCallModule"

# Operations whose output has the values of the first input, whatever the other inputs are.
MOVES = re.compile(
    r"Identity|IdentityN|Snapshot|StopGradient|PreventGradient|CheckNumerics|EnsureShape|Cast|Bitcast|(Ref)?Switch|_SwitchN"
    r"|(Ref)?Merge|(Ref)?Enter|(Ref)?Exit|(Ref)?NextIteration|Reshape|Transpose|ConjugateTranspose|ExpandDims|Squeeze"
    r"|Tile|BroadcastTo|Slice|StridedSlice|ReverseV2|Dequantize|FakeQuant.*|QuantizeV2|QuantizeAndDequantize.*"
    r"|Pad|PadV2|SplitV|Unpack|DeepCopy|CopyHost|Copy"
)
# Operations that use the shape of a tensor only.
FORMS = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")
ARITHMETIC = (
    "Mul", "Add", "AddV2", "AddN", "Sub", "RealDiv", "Div", "DivNoNan", "Maximum", "Minimum", "Pow",
    "SquaredDifference", "Prelu", "Select", "SelectV2",
)  # fmt: skip
# Operations whose output has the values of every input.
VALUES = re.compile(r"Bitwise\w+|(Left|Right)Shift|Pack|Concat(V2)?|Split|" + "|".join(ARITHMETIC))

# Layers. A number per channel is applied to the output of one of them, perhaps after operations that keep channels.
LINEAR = re.compile(
    r"_?(Fused|Quantized|Mkl|Xla)?_?(Depthwise)?Conv.*|.*MatMul.*|Einsum|.*BatchNorm.*|BiasAdd(V1)?|Dilation2D"
)
KEEPS_CHANNELS = re.compile(
    r"Relu|Relu6|LeakyRelu|Elu|Selu|Sigmoid|Tanh|Softplus|Softsign|Erf|Abs|Neg|Square|Sqrt|Rsqrt|Identity|Cast|MaxPool.*"
    r"|AvgPool.*|Mean|Pad|PadV2|MirrorPad|Transpose|Squeeze|ExpandDims|BatchToSpaceND|SpaceToBatchND|ConcatV2|Concat"
    r"|ResizeBilinear|ResizeNearestNeighbor|FakeQuant.*|Switch|Merge|Enter|" + "|".join(ARITHMETIC)
)


def weight_role(op: str, position: int) -> str:
    """Returns the role of an operation's input at a position, such as `filter`; empty if it is not a weight."""
    named = PARAMETERS.get(op, {}).get(position, "")
    if named or op in PARAMETERS:
        return named
    if PRODUCTS.fullmatch(op):
        return "operand" if position < 2 else "bias"
    if (FUSED.fullmatch(op) and position >= 1) or op == CALLED:
        return "parameter"
    return ""
