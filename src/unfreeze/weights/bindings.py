"""The bindings: what a network receives as a weight, and when batch normalization is folded.

| binding | a weight is | derived tensors are computed |
|---|---|---|
| `variables` | a variable | once, when the model is loaded, by the initializer of the SavedModel |
| `constants` | a constant of the graph | now, in this process |
| `stand-ins` | a constant that is put into the graph when it is written | now, in this process |
| `trainable` | a trainable variable, if it was one in the checkpoint | in the graph, at each call |

A derived tensor depends on weights only, such as a kernel with its batch normalization folded in. In a frozen graph the
runtime folds them; a graph that reads variables would compute them for every request.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable  # no public name for it

from unfreeze.errors import UnsupportedError
from unfreeze.weights.stand_ins import is_large, stand_in

# The shared_name with which TensorFlow creates a new resource in each execution (core/framework/resource_handle.h).
ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"
# Derived tensors are padded to a multiple of this many floats: a slice of the flat variable shares its memory only if
# it is aligned to 64 bytes (EIGEN_MAX_ALIGN_BYTES); otherwise it is copied at each call.
ALIGNMENT = 16

# How an export stores its weights, by its binding.
BINDING_DESCRIPTIONS = {
    "variables": "variables, none of them trainable: batch normalization is folded once, at load; to train the model, "
    "use unfreeze.load_detector, or export with --weights trainable",
    "constants": "constants of the graph, in saved_model.pb; variables/ is empty",
    "trainable": "variables, trainable as in the checkpoint: batch normalization is folded at each call",
}

Compute = Callable[[], Sequence[tf.Tensor]]
ScaleAndOffset = tuple[tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class Normalization:
    """The weights of a batch normalization, each `[C]`; a missing `gamma` is 1, a missing `beta` is 0."""

    mean: Any
    variance: Any
    gamma: Any | None
    beta: Any | None
    epsilon: float


@dataclass(frozen=True)
class WeightSource:
    """A weight in the checkpoint: name in the network, shape, dtype, and a function that reads it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    read: Callable[[], np.ndarray]


class Binding(Protocol):
    """Turns checkpoint weights into tensors of a network."""

    variables: dict[str, tf.Variable]

    def weight(self, source: WeightSource) -> Any:
        """Returns the weight as a variable or an array; called once for each name."""
        ...

    def derived(self, compute: Compute, shapes: Mapping[str, Sequence[int]]) -> list[tf.Tensor]:
        """Returns the float32 tensors of `shapes`, which `compute` derives from weights in the same order."""
        ...

    def normalization(self, parameters: Normalization) -> Callable[[], ScaleAndOffset]:
        """Returns a function for `compute` to call: batch normalization as `x * scale + offset`, both `[C]`."""
        ...

    def fill(self, values: Callable[[str], np.ndarray]) -> None:
        """Assigns `values(name)` to each variable, to run the network in this process."""
        ...


class Variables:
    """Weights are variables that are not trainable; derived tensors are computed once, at load.

    All derived tensors are slices of one flat float32 variable that the SavedModel's initializer fills and that is not
    saved. A resource of its own for each layer would cost three functions each and seconds of loading.
    """

    def __init__(self) -> None:
        self.variables: dict[str, tf.Variable] = {}
        self.size = 0
        self._computes: list[Compute] = []
        self._places: dict[str, int] = {}
        self._normalizations: list[Normalization] = []
        self._normalized: list[ScaleAndOffset] = []
        self._reads: weakref.WeakKeyDictionary[tf.Graph, tf.Tensor] = weakref.WeakKeyDictionary()
        with tf.init_scope():
            self.handle = _new_resource()

    def weight(self, source: WeightSource) -> tf.Variable:
        self.variables[source.name] = _variable(source, trainable=False)
        return self.variables[source.name]

    def derived(self, compute: Compute, shapes: Mapping[str, Sequence[int]]) -> list[tf.Tensor]:
        if not all(name in self._places for name in shapes):
            self._computes.append(compute)
            for name, shape in shapes.items():
                self._places[name] = self.size
                self.size += -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT
        return [self._slice(self._places[name], shape) for name, shape in shapes.items()]

    def normalization(self, parameters: Normalization) -> Callable[[], ScaleAndOffset]:
        """Registers a normalization: all are computed together, which saves a third of the operations at load."""
        place = len(self._normalizations)
        self._normalizations.append(parameters)
        return lambda: self._normalized[place]

    def fill(self, values: Callable[[str], np.ndarray]) -> None:
        _assign(self.variables, values)
        self._initialize()  # eagerly: tracing the function of a SavedModel would take five times as long

    @cached_property
    def creator(self) -> Any:
        """The function `() -> handle` that creates the resource; a SavedModel runs initializers for resources only."""
        return _function(_new_resource)

    @cached_property
    def initializer(self) -> Any:
        """The function that computes the derived tensors; to be used after all of them are registered."""
        return _function(self._initialize)

    def _slice(self, start: int, shape: Sequence[int]) -> tf.Tensor:
        return tf.reshape(tf.slice(self._read(), [start], [math.prod(shape)]), shape)

    def _read(self) -> tf.Tensor:
        """Returns the value of the flat variable, which is read once in each graph."""
        graph = tf.compat.v1.get_default_graph()
        if graph not in self._reads:
            self._reads[graph] = tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=tf.float32)
        return self._reads[graph]

    def _initialize(self) -> tf.Tensor:
        self._normalized = _scales_and_offsets(self._normalizations)
        parts = [tf.reshape(value, [-1]) for compute in self._computes for value in compute()]
        padded = [tf.pad(part, [[0, -part.shape[0] % ALIGNMENT]]) for part in parts]
        flat = tf.concat(padded, 0) if padded else tf.zeros([0])
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=flat)
        return tf.constant(1)


@dataclass(frozen=True)
class Constant:
    """An array that becomes one constant node in each graph that uses it."""

    name: str
    sizes: tuple[int, ...]
    read: Callable[[], np.ndarray]
    node: Callable[[Constant], tf.Tensor]

    @property
    def shape(self) -> tf.TensorShape:
        return tf.TensorShape(self.sizes)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        tensor = tf.constant(self.read()) if tf.executing_eagerly() else self.node(self)
        return tensor if dtype in (None, tensor.dtype) else tf.cast(tensor, dtype)

    def __mul__(self, other: Any) -> tf.Tensor:
        return tf.convert_to_tensor(self) * other


class Arrays(Mapping[str, np.ndarray]):
    """Arrays by name, each read when it is needed and not kept."""

    def __init__(self, readers: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class Constants:
    """Weights are read from the checkpoint while the graph is built, and become constants of it."""

    def __init__(self) -> None:
        self.variables: dict[str, tf.Variable] = {}
        self._constants: dict[str, Constant] = {}
        self._used: set[str] = set()
        self._nodes: weakref.WeakKeyDictionary[tf.Graph, dict[str, tf.Tensor]] = weakref.WeakKeyDictionary()

    @property
    def in_graph(self) -> Mapping[str, np.ndarray]:
        """The weights and derived tensors that are nodes of a graph, by name; without weights that are only folded."""
        return Arrays({name: constant.read for name, constant in self._constants.items() if name in self._used})

    def weight(self, source: WeightSource) -> Constant:
        return self._add(source.name, source.shape, source.read)

    def derived(self, compute: Compute, shapes: Mapping[str, Sequence[int]]) -> list[Any]:
        names = [f"{name} (derived)" for name in shapes]  # a derived tensor may have the name of its weight
        if not all(name in self._constants for name in names):
            with tf.init_scope():
                computed = [tf.convert_to_tensor(value).numpy() for value in compute()]
            for name, array in zip(names, computed, strict=True):
                self._add(name, array.shape, partial(_itself, array))
        return [self._constants[name] for name in names]

    def normalization(self, parameters: Normalization) -> Callable[[], ScaleAndOffset]:
        return lambda: _scales_and_offsets([parameters])[0]

    def fill(self, values: Callable[[str], np.ndarray]) -> None:
        """Does nothing: constants have their values."""

    def _add(self, name: str, sizes: tuple[int, ...], read: Callable[[], np.ndarray]) -> Constant:
        self._constants[name] = Constant(name, sizes, read, self._node)
        return self._constants[name]

    def _node(self, constant: Constant) -> tf.Tensor:
        """Returns the node of a constant in the graph that is being built."""
        nodes = self._nodes.setdefault(tf.compat.v1.get_default_graph(), {})
        if constant.name not in nodes:
            self._used.add(constant.name)
            nodes[constant.name] = self._new_node(constant)
        return nodes[constant.name]

    def _new_node(self, constant: Constant) -> tf.Tensor:
        return tf.constant(constant.read())


class StandIns(Constants):
    """Constants that are not in the graph before it is written, to a file that another runtime's converter reads.

    TensorFlow copies a graph some thirty times while it is traced, inlined and imported. See
    `unfreeze.weights.stand_ins`. Run in this process, the network returns NaN.
    """

    def _new_node(self, constant: Constant) -> tf.Tensor:
        return stand_in(constant.name, constant.sizes) if is_large(constant.sizes) else super()._new_node(constant)


class Trainable:
    """Weights are variables, trainable as in the checkpoint; derived tensors are computed at each call.

    Gradients and assignments therefore reach every variable. With `training`, layers use the statistics of the batch;
    see `unfreeze.ops.normalization`.
    """

    def __init__(self) -> None:
        self.variables: dict[str, tf.Variable] = {}

    def weight(self, source: WeightSource) -> tf.Variable:
        self.variables[source.name] = _variable(source, trainable=source.trainable)
        return self.variables[source.name]

    def derived(self, compute: Compute, shapes: Mapping[str, Sequence[int]]) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(value) for value in compute()]

    def normalization(self, parameters: Normalization) -> Callable[[], ScaleAndOffset]:
        return lambda: _scales_and_offsets([parameters])[0]

    def fill(self, values: Callable[[str], np.ndarray]) -> None:
        _assign(self.variables, values)


BINDINGS: dict[str, Callable[[], Binding]] = {
    "variables": Variables,
    "constants": Constants,
    "trainable": Trainable,
}


STAND_INS = "stand-ins"  # not a choice of users
INTERNAL = {STAND_INS: StandIns}


def make_binding(name: str) -> Binding:
    """Returns the binding of a name in `BINDINGS`, or of `STAND_INS`.

    Raises: UnsupportedError if there is no binding of that name.
    """
    if name in INTERNAL:
        return INTERNAL[name]()
    if name not in BINDINGS:
        raise UnsupportedError(f"--weights {name} is not supported; choose one of {', '.join(BINDINGS)}")
    return BINDINGS[name]()


def _variable(source: WeightSource, *, trainable: bool) -> tf.Variable:
    """Returns a variable without a value: an export copies weights from file to file and needs none in memory."""
    return UninitializedVariable(trainable=trainable, name=source.name, shape=source.shape, dtype=source.dtype)


def _itself(array: np.ndarray) -> np.ndarray:
    return array


def _assign(variables: Mapping[str, tf.Variable], values: Callable[[str], np.ndarray]) -> None:
    for name, variable in variables.items():
        variable.assign(values(name))


def _scales_and_offsets(normalizations: Sequence[Normalization]) -> list[ScaleAndOffset]:
    """Returns `[C]` and `[C]` for each normalization, computed as one long vector of all channels."""
    if not normalizations:
        return []
    sizes = [norm.mean.shape[0] for norm in normalizations]
    epsilons = [norm.epsilon for norm in normalizations]
    epsilon = tf.repeat(epsilons, sizes) if len(set(epsilons)) > 1 else epsilons[0]
    scale = tf.math.rsqrt(tf.concat([norm.variance for norm in normalizations], 0) + epsilon)
    scale = _concatenated([norm.gamma for norm in normalizations], sizes, 1.0) * scale
    offset = _concatenated([norm.beta for norm in normalizations], sizes, 0.0)
    offset -= tf.concat([norm.mean for norm in normalizations], 0) * scale
    return list(zip(tf.split(scale, sizes), tf.split(offset, sizes), strict=True))


def _concatenated(parts: Sequence[Any | None], sizes: Sequence[int], default: float) -> tf.Tensor:
    """Returns the `[C]`s as one vector, with `default` for those that are None."""
    if all(part is None for part in parts):
        return tf.constant(default)
    filled = [tf.fill([size], default) if part is None else part for part, size in zip(parts, sizes, strict=True)]
    return tf.concat(filled, 0)


def anonymous_variable(dtype: tf.DType, shape: Sequence[int | None]) -> tf.Tensor:
    """Returns a new handle of a variable that no other handle shares."""
    return tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape, shared_name=ANONYMOUS, container="")


def _new_resource() -> tf.Tensor:
    return anonymous_variable(tf.float32, [None])


def _function(call: Callable[[], tf.Tensor]) -> Any:
    return tf.function(call, input_signature=[], autograph=False).get_concrete_function()
