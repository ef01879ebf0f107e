"""The operations of TensorFlow.js. Source: tfjs-converter/src/operations/op_list of tensorflow/tfjs 4.22."""

NAMES = """
Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Atan Atan2 Atanh AvgPool BatchMatMul BatchMatMulV2
BatchToSpaceND BiasAdd BroadcastTo Cast Ceil ClipByValue Concat ConcatV2 Const Conv1D Conv2D Conv2DBackpropInput Cos
Cosh CropAndResize Cumprod Cumsum DepthToSpace DepthwiseConv2d DepthwiseConv2dNative Div DivNoNan Einsum Elu
Enter Equal Erf Exit Exp ExpandDims Expm1 FakeQuantWithMinMaxVars Fill Floor FloorDiv FloorMod
FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 FusedDepthwiseConv2dNative Gather GatherNd GatherV2 Greater
GreaterEqual Identity IdentityN If IsFinite IsInf IsNan LeakyRelu Less LessEqual LinSpace Log Log1p LogSoftmax
LogicalAnd LogicalNot LogicalOr LoopCond MatMul Max MaxPool Maximum Mean Merge Min Minimum MirrorPad Mod Mul Neg
NextIteration NoOp NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NotEqual OneHot
Ones OnesLike Pack Pad PadV2 Placeholder PlaceholderWithDefault Pow Prelu Prod Range Rank RealDiv Reciprocal Relu
Relu6 Reshape ResizeBilinear ResizeNearestNeighbor Reverse ReverseV2 Round Rsqrt ScatterNd Select SelectV2 Selu Shape
ShapeN Sigmoid Sign Sin Sinh Size Slice Softmax Softplus SpaceToBatchND SparseToDense Split SplitV Sqrt Square
SquaredDifference Squeeze StatelessIf StatelessWhile StopGradient StridedSlice Sub Sum Switch Tan Tanh
TensorListConcat TensorListFromTensor TensorListGather TensorListGetItem TensorListLength TensorListPopBack
TensorListPushBack TensorListReserve TensorListScatter TensorListSetItem TensorListSplit TensorListStack
TensorScatterUpdate Tile TopKV2 Transpose Unique UniqueV2 Unpack Where While Zeros ZerosLike _FusedConv2D _FusedMatMul
"""
OPERATIONS = frozenset(NAMES.split())
