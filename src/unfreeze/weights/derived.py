"""Tensors derived from weights once, when a model is loaded: folded batch normalization.

A frozen graph has its batch normalization folded into the convolutions by the runtime; an unfrozen one would pay for
it at every request. Here the folded values live in one variable, a list of tensors, that the SavedModel's initializer
fills from the variables; the variables on disk stay the checkpoint's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf

# The shared_name by which TensorFlow makes a resource of its own for each execution, core/framework/resource_handle.h.
ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"


@dataclass(frozen=True)
class Normalization:
    """The weights of a batch normalization, each `[C]`; without `gamma` it is 1, without `beta` 0."""

    mean: Any
    variance: Any
    gamma: Any | None
    beta: Any | None
    epsilon: float


class Derived:
    """A variable that holds a list of derived tensors, and the function by which a SavedModel fills it.

    One for all of them: a resource for each costs a SavedModel three functions, which at one per layer would make
    loading take seconds.
    """

    def __init__(self) -> None:
        self._computes: list[Callable[[], Sequence[tf.Tensor]]] = []
        self._indices: dict[str, int] = {}
        self._normalizations: list[Normalization] = []
        self._normalized: list[tuple[tf.Tensor, tf.Tensor]] = []
        self._reads: weakref.WeakKeyDictionary[tf.Graph, tf.Tensor] = weakref.WeakKeyDictionary()
        with tf.init_scope():
            self.handle = _new_resource()

    def tensors(
        self, compute: Callable[[], Sequence[tf.Tensor]], shapes: Mapping[str, Sequence[int]]
    ) -> list[tf.Tensor]:
        """The derived tensors called as `shapes` says; `compute` makes them from variables, in that order."""
        if not all(name in self._indices for name in shapes):
            self._computes.append(compute)
            for name in shapes:
                self._indices[name] = len(self._indices)
        return [self._item(self._indices[name], shape) for name, shape in shapes.items()]

    def normalization(self, wanted: Normalization) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
        """A function for a `compute` to call: batch normalization as `x * scale + offset`, both `[C]`.

        All of them are computed together: each loader has to prepare every operation, and so there are a third fewer.
        """
        place = len(self._normalizations)
        self._normalizations.append(wanted)
        return lambda: self._normalized[place]

    def fill(self) -> None:
        """Computes every derived tensor in this process; a loader does the same when it runs the initializer."""
        self.initializer()

    @cached_property
    def creator(self) -> Any:
        """A function `() -> handle`: a SavedModel runs an initializer for a resource only, so it has to make one."""
        return _function(_new_resource)

    @cached_property
    def initializer(self) -> Any:
        """The function that fills it from the variables; to be asked for once every tensor is known."""
        return _function(self._initialize)

    def __len__(self) -> int:
        return len(self._indices)

    def _item(self, index: int, shape: Sequence[int]) -> tf.Tensor:
        item = tf.raw_ops.TensorListGetItem(
            input_handle=self._list(), index=index, element_shape=list(shape), element_dtype=tf.float32
        )
        item.set_shape(shape)
        return item

    def _list(self) -> tf.Tensor:
        """The list, read once in each graph rather than once for each of its tensors."""
        graph = tf.compat.v1.get_default_graph()
        if graph not in self._reads:
            self._reads[graph] = tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=tf.variant)
        return self._reads[graph]

    def _initialize(self) -> tf.Tensor:
        self._normalized = _scales_and_offsets(self._normalizations)
        held = tf.raw_ops.EmptyTensorList(element_shape=-1, max_num_elements=-1, element_dtype=tf.float32)
        for compute in self._computes:
            for value in compute():
                held = tf.raw_ops.TensorListPushBack(input_handle=held, tensor=value)
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=held)
        return tf.constant(1)


def _scales_and_offsets(normalizations: Sequence[Normalization]) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """`[C]` and `[C]` for each: one long vector of all channels, taken apart at the end."""
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
    """`[C]`s to one vector; `otherwise` stands in for those that are not there."""
    if all(part is None for part in parts):
        return tf.constant(otherwise)
    filled = [tf.fill([size], otherwise) if part is None else part for part, size in zip(parts, sizes, strict=True)]
    return tf.concat(filled, 0)


def _new_resource() -> tf.Tensor:
    return tf.raw_ops.VarHandleOp(dtype=tf.variant, shape=[], shared_name=ANONYMOUS, container="")


def _function(call: Callable[[], tf.Tensor]) -> Any:
    return tf.function(call, input_signature=[], autograph=False).get_concrete_function()
