"""The three bindings: what a network receives when it asks for a weight, and where batch normalization is folded.

| binding | a weight is | derived tensors are computed |
|---|---|---|
| `variables` | a variable | once, when the model is loaded, by the initializer of the SavedModel |
| `constants` | a constant of the graph | now, in this process |
| `trainable` | a trainable variable, if it was one in the checkpoint | in the graph, at each call |

A derived tensor is one that depends on weights only, such as a kernel with its batch normalization folded in. A frozen
graph has these folded by the runtime; a graph that reads variables would compute them for every request.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable  # no public name for it

from unfreeze.errors import UnsupportedError

# The shared_name by which TensorFlow makes a resource of its own for each execution, core/framework/resource_handle.h.
ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"
# Floats that a derived tensor is padded to: a slice of the flat variable shares its memory only where it is aligned
# to 64 bytes (EIGEN_MAX_ALIGN_BYTES), and is copied at each call elsewhere.
ALIGNMENT = 16

# What the weights of an export are, by its binding (weights/bindings.py), and what else there is.
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
    """The weights of a batch normalization, each `[C]`; without `gamma` it is 1, without `beta` 0."""

    mean: Any
    variance: Any
    gamma: Any | None
    beta: Any | None
    epsilon: float


@dataclass(frozen=True)
class WeightSource:
    """A weight in the checkpoint: its name in the network, its shape and dtype, and a function that reads it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool
    read: Callable[[], np.ndarray]


class Binding(Protocol):
    """What `Weights` asks for on behalf of a network."""

    variables: dict[str, tf.Variable]

    def weight(self, source: WeightSource) -> Any:
        """The weight as a variable or an array; each name is asked for once."""
        ...

    def derived(self, compute: Compute, shapes: Mapping[str, Sequence[int]]) -> list[tf.Tensor]:
        """Returns float32 tensors by name, each of its shape; `compute` makes them from weights, in that order."""
        ...

    def normalization(self, wanted: Normalization) -> Callable[[], ScaleAndOffset]:
        """Returns a function, for `compute` to call: batch normalization as `x * scale + offset`, both `[C]`."""
        ...

    def fill(self, values: Callable[[str], np.ndarray]) -> None:
        """Gives each variable its value, `values(name)`, to run the network in this process."""
        ...


class Variables:
    """Weights are variables, none of which a caller can train; derived tensors are computed once, at load.

    All derived tensors lie in one flat float32 variable that the SavedModel's initializer fills: a resource for each
    costs a SavedModel three functions, which at one per layer would make loading take seconds. It is not saved.
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

    def normalization(self, wanted: Normalization) -> Callable[[], ScaleAndOffset]:
        """All normalizations are computed together: so a loader has a third fewer operations to prepare."""
        place = len(self._normalizations)
        self._normalizations.append(wanted)
        return lambda: self._normalized[place]

    def fill(self, values: Callable[[str], np.ndarray]) -> None:
        _assign(self.variables, values)
        self.initializer()

    @cached_property
    def creator(self) -> Any:
        """A function `() -> handle`: a SavedModel runs an initializer for a resource only, so it has to make one."""
        return _function(_new_resource)

    @cached_property
    def initializer(self) -> Any:
        """The function that computes the derived tensors; to be asked for once every one of them is known."""
        return _function(self._initialize)

    def _slice(self, start: int, shape: Sequence[int]) -> tf.Tensor:
        return tf.reshape(tf.slice(self._read(), [start], [math.prod(shape)]), shape)

    def _read(self) -> tf.Tensor:
        """The flat variable, read once in each graph."""
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
    """An array that becomes one constant node in each graph that uses it, and is counted as used there."""

    name: str
    array: np.ndarray
    node: Callable[[Constant], tf.Tensor]

    @property
    def shape(self) -> tf.TensorShape:
        return tf.TensorShape(self.array.shape)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        tensor = tf.constant(self.array) if tf.executing_eagerly() else self.node(self)
        return tensor if dtype in (None, tensor.dtype) else tf.cast(tensor, dtype)

    def __mul__(self, other: Any) -> tf.Tensor:
        return tf.convert_to_tensor(self) * other


class Constants:
    """Weights are read from the checkpoint when they are asked for, and stand in the graph; nothing is a variable."""

    def __init__(self) -> None:
        self.variables: dict[str, tf.Variable] = {}
        self._constants: dict[str, Constant] = {}
        self._used: set[str] = set()
        self._nodes: weakref.WeakKeyDictionary[tf.Graph, dict[str, tf.Tensor]] = weakref.WeakKeyDictionary()

    @property
    def in_graph(self) -> dict[str, np.ndarray]:
        """The weights and derived tensors that graphs hold, by name; a weight that is only folded is not there."""
        return {name: constant.array for name, constant in self._constants.items() if name in self._used}

    def weight(self, source: WeightSource) -> Constant:
        return self._add(source.name, source.read())

    def derived(self, compute: Compute, shapes: Mapping[str, Sequence[int]]) -> list[Any]:
        names = [f"{name} (derived)" for name in shapes]  # one can be called as the weight that it is made from
        if not all(name in self._constants for name in names):
            with tf.init_scope():
                computed = [tf.convert_to_tensor(value).numpy() for value in compute()]
            for name, array in zip(names, computed, strict=True):
                self._add(name, array)
        return [self._constants[name] for name in names]

    def normalization(self, wanted: Normalization) -> Callable[[], ScaleAndOffset]:
        return lambda: _scales_and_offsets([wanted])[0]

    def fill(self, values: Callable[[str], np.ndarray]) -> None:
        """There is nothing to fill."""

    def _add(self, name: str, array: np.ndarray) -> Constant:
        self._constants[name] = Constant(name, array, self._node)
        return self._constants[name]

    def _node(self, constant: Constant) -> tf.Tensor:
        """The node of a constant in the graph that is being built."""
        nodes = self._nodes.setdefault(tf.compat.v1.get_default_graph(), {})
        if constant.name not in nodes:
            self._used.add(constant.name)
            nodes[constant.name] = tf.constant(constant.array)
        return nodes[constant.name]


class Trainable:
    """Weights are variables, trainable as the checkpoint says; derived tensors are computed at each call.

    So gradients and assignments reach every variable. With `training`, layers normalize by the statistics of the batch
    instead; see `unfreeze.ops.normalization`.
    """

    def __init__(self) -> None:
        self.variables: dict[str, tf.Variable] = {}

    def weight(self, source: WeightSource) -> tf.Variable:
        self.variables[source.name] = _variable(source, trainable=source.trainable)
        return self.variables[source.name]

    def derived(self, compute: Compute, shapes: Mapping[str, Sequence[int]]) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(value) for value in compute()]

    def normalization(self, wanted: Normalization) -> Callable[[], ScaleAndOffset]:
        return lambda: _scales_and_offsets([wanted])[0]

    def fill(self, values: Callable[[str], np.ndarray]) -> None:
        _assign(self.variables, values)


BINDINGS: dict[str, Callable[[], Binding]] = {
    "variables": Variables,
    "constants": Constants,
    "trainable": Trainable,
}


def make_binding(name: str) -> Binding:
    """The binding of a name in `BINDINGS`.

    Raises: UnsupportedError: there is no binding of that name.
    """
    if name not in BINDINGS:
        raise UnsupportedError(f"--weights {name}: there is no such binding; choose one of {', '.join(BINDINGS)}")
    return BINDINGS[name]()


def _variable(source: WeightSource, *, trainable: bool) -> tf.Variable:
    """A variable without a value: an export passes weights from file to file and needs none in memory."""
    return UninitializedVariable(trainable=trainable, name=source.name, shape=source.shape, dtype=source.dtype)


def _assign(variables: Mapping[str, tf.Variable], values: Callable[[str], np.ndarray]) -> None:
    for name, variable in variables.items():
        variable.assign(values(name))


def _scales_and_offsets(normalizations: Sequence[Normalization]) -> list[ScaleAndOffset]:
    """`[C]` and `[C]` for each: one long vector of all channels, split at the end."""
    if not normalizations:
        return []
    sizes = [each.mean.shape[0] for each in normalizations]
    epsilons = [each.epsilon for each in normalizations]
    epsilon = tf.repeat(epsilons, sizes) if len(set(epsilons)) > 1 else epsilons[0]
    scale = tf.math.rsqrt(tf.concat([each.variance for each in normalizations], 0) + epsilon)
    scale = _together([each.gamma for each in normalizations], sizes, 1.0) * scale
    offset = _together([each.beta for each in normalizations], sizes, 0.0)
    offset -= tf.concat([each.mean for each in normalizations], 0) * scale
    return list(zip(tf.split(scale, sizes), tf.split(offset, sizes), strict=True))


def _together(parts: Sequence[Any | None], sizes: Sequence[int], otherwise: float) -> tf.Tensor:
    """`[C]`s to one vector; `otherwise` takes the place of those that are None."""
    if all(part is None for part in parts):
        return tf.constant(otherwise)
    filled = [tf.fill([size], otherwise) if part is None else part for part, size in zip(parts, sizes, strict=True)]
    return tf.concat(filled, 0)


def anonymous_variable(dtype: tf.DType, shape: Sequence[int | None]) -> tf.Tensor:
    """Returns a new handle of a variable that no other handle shares."""
    return tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape, shared_name=ANONYMOUS, container="")


def _new_resource() -> tf.Tensor:
    return anonymous_variable(tf.float32, [None])


def _function(call: Callable[[], tf.Tensor]) -> Any:
    return tf.function(call, input_signature=[], autograph=False).get_concrete_function()
