"""The operations of a model file of any format, from which its layers are read: kernels and biases, folded.

A reader of a format translates its operations into those of `Op`, and gives kernels the layout of `Layer`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property

import numpy as np


class Op(Enum):
    """What an operation does, as far as it matters for the weights of layers."""

    LAYER = auto()  # a convolution or a matrix product: `kernel` says which input is the kernel
    NORM = auto()  # batch normalization: x, scale, offset, mean, variance, and `epsilon`
    IDENTITY = auto()  # casts too: constants are compared in float32
    ADD = auto()
    MULTIPLY = auto()
    SUBTRACT = auto()
    DIVIDE = auto()
    RSQRT = auto()
    SQRT = auto()
    RESHAPE = auto()  # to `shape`, or to the second input
    TRANSPOSE = auto()  # by `axes`
    OTHER = auto()


ARITHMETIC: Mapping[Op, Callable[..., np.ndarray]] = {
    Op.IDENTITY: lambda x: x,
    Op.ADD: np.add,
    Op.MULTIPLY: np.multiply,
    Op.SUBTRACT: np.subtract,
    Op.DIVIDE: np.divide,
    Op.RSQRT: lambda x: 1 / np.sqrt(x),
    Op.SQRT: np.sqrt,
}

# Kernel as the format stores it -> [out, in, height, width].
ToKernel = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Operation:
    """An operation; `inputs` and `outputs` are names of tensors.

    A LAYER has the position of its kernel among the inputs, that of its bias if it has one, and the kernel's layout.
    """

    op: Op
    inputs: Sequence[str]
    outputs: Sequence[str]
    kernel: int = 1
    bias: int | None = None
    to_kernel: ToKernel | None = None
    epsilon: float = 0.0
    shape: Sequence[int] = ()
    axes: Sequence[int] = ()


@dataclass(frozen=True)
class Layer:
    """A convolution or a matrix product, with the normalization and the additions after it folded into its weights.

    `kernel` is [out, in, height, width], `bias` is [out]; both are float32. `name` is that of the kernel in the file.
    """

    name: str
    kernel: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class OperationGraph:
    """The operations of a model in their order; `constants` are read when they are needed, by name of the tensor.

    `names` has the names of constants in messages, where they are not those of their tensors.
    """

    operations: Sequence[Operation]
    constants: Mapping[str, Callable[[], np.ndarray]]
    names: Mapping[str, str] = field(default_factory=dict)
    _values: dict[str, np.ndarray | None] = field(default_factory=dict, repr=False)

    def layers(self) -> list[Layer]:
        """Returns the layers whose kernels are constants, in the order of the file."""
        return list(self._layers())

    def _layers(self) -> Iterator[Layer]:
        for operation in self.operations:
            if operation.op is not Op.LAYER or operation.to_kernel is None:
                continue
            name = operation.inputs[operation.kernel]
            stored = self.value(name)
            if stored is None or stored.ndim < 2:
                continue
            kernel = operation.to_kernel(stored)
            bias = np.zeros(len(kernel), np.float32)
            if operation.bias is not None and len(operation.inputs) > operation.bias:
                constant = self.value(operation.inputs[operation.bias])
                bias = bias if constant is None else constant.reshape(-1)
            yield self._folded(operation, Layer(self._source(name), kernel, bias))

    def _folded(self, operation: Operation, layer: Layer) -> Layer:
        """Returns the layer with what follows it, as long as it scales or moves each channel by a constant."""
        kernel, bias = layer.kernel, layer.bias
        while (following := self._only_consumer(operation)) is not None:
            step = self._scale_and_offset(following, operation.outputs[0], len(kernel))
            if step is None:
                break
            scale, offset = step
            kernel, bias = kernel * scale.reshape(-1, 1, 1, 1), bias * scale + offset
            operation = following
        return Layer(layer.name, kernel.astype(np.float32), bias.astype(np.float32))

    def _scale_and_offset(self, operation: Operation, operand: str, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns what an operation multiplies each channel by and adds to it; None if it does something else."""
        ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
        if operation.op is Op.IDENTITY:
            return ones, zeros
        constants = [self.value(name) for name in operation.inputs if name != operand]
        vectors = [constant.reshape(-1) for constant in constants if constant is not None and constant.size == count]
        if len(vectors) != len(constants) or len(constants) != len(operation.inputs) - 1:
            return None
        if operation.op is Op.NORM and len(vectors) == 4:
            gamma, beta, mean, variance = vectors
            scale = gamma / np.sqrt(variance + np.float32(operation.epsilon))
            return scale, beta - mean * scale
        if len(vectors) != 1:
            return None
        [vector] = vectors
        if operation.op is Op.ADD:
            return ones, vector
        if operation.op is Op.MULTIPLY:
            return vector, zeros
        if operation.op is Op.SUBTRACT and operation.inputs[0] == operand:
            return ones, -vector
        return None

    def value(self, name: str) -> np.ndarray | None:
        """Returns a tensor as float32 if it depends on constants only, else None."""
        if name not in self._values:
            self._values[name] = None  # for a graph with a cycle
            self._values[name] = self._evaluated(name)
        return self._values[name]

    def _evaluated(self, name: str) -> np.ndarray | None:
        if name in self.constants:
            constant = self.constants[name]()
            return np.asarray(constant, np.float32) if constant.dtype.kind in "fiub" else None
        operation = self._producers.get(name)
        if operation is None or operation.op in (Op.OTHER, Op.LAYER, Op.NORM):
            return None
        operands = [self.value(operand) for operand in operation.inputs]
        known = [operand for operand in operands if operand is not None]
        if len(known) != len(operands):
            return None
        if operation.op is Op.RESHAPE:
            return np.reshape(known[0], [int(length) for length in operation.shape or known[1]])
        if operation.op is Op.TRANSPOSE:
            return np.transpose(known[0], operation.axes)
        result: np.ndarray = ARITHMETIC[operation.op](*known)
        return result

    def _source(self, name: str) -> str:
        """Returns the name, for messages, of the constant that a tensor is made from."""
        while name not in self.constants:
            operation = self._producers[name]
            name = operation.inputs[0]
        return self.names.get(name, name)

    def _only_consumer(self, operation: Operation) -> Operation | None:
        consumers = self._consumers[operation.outputs[0]]
        return consumers[0] if len(consumers) == 1 else None

    @cached_property
    def _producers(self) -> Mapping[str, Operation]:
        return {name: operation for operation in self.operations for name in operation.outputs}

    @cached_property
    def _consumers(self) -> Mapping[str, list[Operation]]:
        consumers: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            for name in dict.fromkeys(operation.inputs):
                consumers[name].append(operation)
        return consumers


def from_hwio(kernel: np.ndarray) -> np.ndarray:
    """`[H, W, I, O] -> [O, I, H, W]`."""
    return np.transpose(kernel, (3, 2, 0, 1))


def from_ohwi(kernel: np.ndarray) -> np.ndarray:
    """`[O, H, W, I] -> [O, I, H, W]`."""
    return np.transpose(kernel, (0, 3, 1, 2))


def from_iohw(kernel: np.ndarray) -> np.ndarray:
    """`[I, O, H, W] -> [O, I, H, W]`."""
    return np.transpose(kernel, (1, 0, 2, 3))


def from_oihw(kernel: np.ndarray) -> np.ndarray:
    """`[O, I, H, W]`, as it is."""
    return kernel


def from_hwcm(kernel: np.ndarray) -> np.ndarray:
    """`[H, W, C, M] -> [C * M, 1, H, W]`: the depthwise kernels of TensorFlow."""
    height, width, channels, multiplier = kernel.shape
    return np.transpose(np.reshape(kernel, (height, width, 1, channels * multiplier)), (3, 2, 0, 1))


def from_hwc(kernel: np.ndarray) -> np.ndarray:
    """`[1, H, W, C] -> [C, 1, H, W]`: the depthwise kernels of TFLite."""
    return np.transpose(kernel, (3, 0, 1, 2))


def from_goihw(kernel: np.ndarray) -> np.ndarray:
    """`[G, O, I, H, W] -> [G * O, I, H, W]`: the kernels of grouped convolutions in OpenVINO."""
    return np.reshape(kernel, (-1, *kernel.shape[2:]))


def from_matrix(matrix: np.ndarray) -> np.ndarray:
    """`[I, O] -> [O, I, 1, 1]`."""
    return np.expand_dims(np.transpose(matrix), (2, 3))


def from_transposed_matrix(matrix: np.ndarray) -> np.ndarray:
    """`[O, I] -> [O, I, 1, 1]`."""
    return np.expand_dims(matrix, (2, 3))
