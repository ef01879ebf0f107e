"""Binds a network to the weights of a checkpoint, by name and shape.

A network gets a `Branch` of the checkpoint and requests each weight with the shape that it needs. Nothing is
initialized at random and nothing is guessed: missing weights, other shapes and unused tensors are recorded while the
network is built.

In a quantization-aware model some tensors pass through a FakeQuant, whose range is two variables, `min` and `max`,
under the scope of the operation. Source: tf.contrib.quantize of TensorFlow 1.15, python/{quantize,quant_ops}.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.errors import WeightsError
from unfreeze.formatting import amount, first_few
from unfreeze.weights.bindings import Constants, Normalization, Variables, WeightSource, make_binding
from unfreeze.weights.checkpoints import VALUE, Checkpoint, Generation
from unfreeze.weights.objects import Objects, read_objects
from unfreeze.weights.training_state import MOVING_AVERAGE, is_range, training_state


@dataclass(frozen=True)
class Mismatch:
    """A weight that the network needs in `needed` and the checkpoint has in `stored` (None: it has no such weight)."""

    name: str
    needed: tuple[int, ...]
    stored: tuple[int, ...] | None


# slim's name of a weight -> Keras's name, so that one network definition serves both.
KERAS_LEAVES = {
    "weights": "kernel",
    "biases": "bias",
    "depthwise_weights": "depthwise_kernel",
    "pointwise_weights": "pointwise_kernel",
}

SHOWN = 3  # weights that an error names

Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
Quantizer = Callable[[tf.Tensor], tf.Tensor]
Causes = Callable[[Iterable[Mismatch], Sequence[str]], Sequence[str]]


class Weights:
    """The weights of one network, found by name and shape in a checkpoint and delivered through a binding.

    With `moving_averages`, a trainable variable gets the value of `NAME/ExponentialMovingAverage`, as
    `tf.train.ExponentialMovingAverage.variables_to_restore` maps them; moving statistics have no such average. No data
    file is read until values are needed, except for the object graph of a TensorFlow 2 checkpoint.

    In a TensorFlow 2 checkpoint, names are paths from `model` in its object graph: a variable has the path by which the
    network reached it first, with the names of Keras layers instead of the numbers in its key.
    """

    def __init__(self, checkpoint: Checkpoint, binding: str = "variables", *, moving_averages: bool = False) -> None:
        self.checkpoint = checkpoint
        self.binding = make_binding(binding)
        self.training = False
        self.sources: dict[str, str] = {}
        self.mismatches: dict[str, Mismatch] = {}
        self.without_moving_average: list[str] = []
        self.ignored: set[str] = set()
        self.quantized = False
        self._bound: dict[str, Any] = {}
        self._moving_averages = moving_averages
        self._names: dict[
            str, str
        ] = {}  # tensor of the checkpoint -> name of its variable: several paths can lead to one
        self.weight_quantizers: dict[str, Quantizer] = {}
        self.outer_quantizers: dict[str, list[str]] = {}

    @cached_property
    def _objects(self) -> Objects | None:
        return read_objects(self.checkpoint) if self.checkpoint.generation == Generation.TF2 else None

    def branch(self, scope: str = "", *, quantized: bool = False) -> Branch:
        """Returns the branch below `scope`; the empty scope is the whole checkpoint.

        `quantized` makes the model quantization-aware, for every branch: it must then use each range of the checkpoint.
        """
        if quantized and not self.ranges():
            raise WeightsError(
                f"{self.checkpoint.prefix}: the config describes a quantization-aware graph (graph_rewriter), but the "
                "checkpoint has no ranges (…_quant/min, …_quant/max); remove graph_rewriter from the config if the "
                "model was trained without it"
            )
        self.quantized |= quantized
        return Branch(self, scope)

    def ranges(self) -> list[str]:
        """Returns the minima and maxima of quantization ranges in the checkpoint, `…_quant/min` and `…_quant/max`."""
        return [name for name in self.checkpoint.tensors if is_range(name)]

    @property
    def derived(self) -> Variables | None:
        """The binding whose derived tensors are computed at load; None if there are no such tensors."""
        return self.binding if isinstance(self.binding, Variables) and self.binding.size else None

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """The variables by name; empty if the weights are constants."""
        return self.binding.variables

    def weight(self, name: str, shape: Sequence[int], *, trainable: bool, dtype: str) -> Any:
        """Returns the weight called `name`; zeros, and an entry in `mismatches`, if the checkpoint does not fit."""
        key = self._source(name, trainable)
        name = self._names.setdefault(key, name)
        if name in self._bound:
            self._fits(name, self.sources[name], shape)
            return self._bound[name]
        if not self._fits(name, key, shape):
            with tf.init_scope():
                return tf.zeros(shape, dtype)
        dtype = self.checkpoint.tensors[key].dtype
        read = partial(self.checkpoint.read, key)
        self._bound[name] = self.binding.weight(WeightSource(name, tuple(shape), dtype, trainable, read))
        self.sources[name] = key
        return self._bound[name]

    @property
    def constants(self) -> Mapping[str, np.ndarray]:
        """The arrays that the traced graphs contain instead of variables, by name; see `Constants.in_graph`."""
        return self.binding.in_graph if isinstance(self.binding, Constants) else {}

    def values(self, names: Sequence[str]) -> Sequence[tf.Tensor]:
        """Returns the checkpoint's values of the variables called `names`."""
        return self.checkpoint.restore([self.sources[name] for name in names])

    def fill(self) -> None:
        """Assigns every variable and derived tensor its value, to run the network in this process."""
        self.binding.fill(lambda name: self.checkpoint.read(self.sources[name]))

    def unused(self) -> list[str]:
        """Returns the tensors of the checkpoint that the network does not use, without training state."""
        used = {*self.sources, *self.sources.values(), *self.mismatches, *map(self.key, self.mismatches)}
        if self._objects is not None:
            used = used.union(*(self._objects.keys_below(scope.removesuffix("/")) for scope in self.ignored))
        needed = set(self.ranges()) if self.quantized else set()
        return [
            name
            for name in self.checkpoint.tensors
            if name not in used
            and (name in needed or not training_state(name))
            and not name.startswith(tuple(self.ignored))
        ]

    def key(self, name: str) -> str:
        """Returns the checkpoint's key of the variable called `name`, or the name itself if the checkpoint lacks it."""
        return self._objects.key(name) or name if self._objects is not None else name

    def readable_names(self, keys: Iterable[str]) -> list[str]:
        """Returns readable names of checkpoint keys: in TensorFlow 2 the paths from `model`."""
        names = self._objects.readable if self._objects is not None else {}
        return [names.get(key, key.removesuffix(VALUE)) for key in keys]

    def auto_named_layers(self, scope: str, name: str) -> list[str]:
        """Returns the layers of the Keras model at `scope` with names such as `name` or `name_7`; see `Branch`."""
        return self._objects.auto_named_layers(scope, name) if self._objects is not None else []

    def declare_layer_order(self, scope: str, layers: Sequence[str]) -> None:
        """Declares the layers of the Keras model at `scope` in the order of their edges; see `Branch`."""
        if self._objects is not None:
            self._objects.declare_layer_order(scope, layers)

    def require_fit(self, causes: Causes = lambda mismatches, names: ()) -> None:
        """Raises WeightsError that names every missing and mismatched weight, what the checkpoint has instead, and why.

        `causes` returns the likely reasons, given the mismatches and the names in the checkpoint that are not used.
        """
        if not self.mismatches:
            self._require_no_range_left()
            return
        mismatches = list(self.mismatches.values())
        absent = [mismatch for mismatch in mismatches if mismatch.stored is None]
        misshapen = [mismatch for mismatch in mismatches if mismatch.stored is not None]
        parts = []
        if misshapen:
            parts.append(
                f"{len(misshapen)} weight{'s have' if len(misshapen) > 1 else ' has'} another shape: "
                + first_few([f"{m.name} needs {list(m.needed)}, has {list(m.stored or ())}" for m in misshapen], SHOWN)
            )
        if absent:
            parts.append(
                f"{len(absent)} weight{'s are' if len(absent) > 1 else ' is'} missing: "
                + first_few([f"{m.name} {list(m.needed)}{self._nearest(m)}" for m in absent], SHOWN)
            )
        unused = self.readable_names(self.unused())
        if unused:
            parts.append(f"{amount(len(unused), 'tensor')} of the checkpoint not used: " + first_few(unused, SHOWN))
        likely = list(causes(mismatches, unused))
        advice = f"likely cause: {'; '.join(likely)}" if likely else "pass the config that the model was trained with"
        raise WeightsError(
            f"{self.checkpoint.prefix}: the config does not fit the checkpoint; {advice}. {'; '.join(parts)}"
        )

    def _require_no_range_left(self) -> None:
        """Raises WeightsError if a quantization-aware model does not use every range of the checkpoint."""
        unused = sorted({name.rsplit("/", 1)[0] for name in self.unused() if is_range(name)})
        if unused:
            raise WeightsError(
                f"{self.checkpoint.prefix}: the config does not fit the checkpoint: the graph has no place for "
                f"{amount(len(unused), 'quantization range')}: {first_few(unused, SHOWN)}; "
                "pass the config that the model was trained with"
            )

    def _source(self, name: str, trainable: bool) -> str:
        if self._objects is not None:
            return self.key(name)
        if not (self._moving_averages and trainable):
            return name
        if name + MOVING_AVERAGE in self.checkpoint.tensors:
            return name + MOVING_AVERAGE
        if name in self.checkpoint.tensors and name not in self.without_moving_average:
            self.without_moving_average.append(name)
        return name

    def _fits(self, name: str, source: str, shape: Sequence[int]) -> bool:
        stored = self.checkpoint.tensors.get(source)
        if stored is not None and stored.shape == tuple(shape):
            return True
        self.mismatches[name] = Mismatch(name, tuple(shape), None if stored is None else stored.shape)
        return False

    def _nearest(self, mismatch: Mismatch) -> str:
        leaf = mismatch.name.rsplit("/", 1)[-1]
        used = set(self.sources.values())
        free = [key for key in self.checkpoint.tensors if key not in used]
        names = dict(zip(self.readable_names(free), free, strict=True))
        same_leaf = [name for name in names if name.rsplit("/", 1)[-1] == leaf and not training_state(names[name])]
        near = difflib.get_close_matches(mismatch.name, same_leaf, n=1, cutoff=0.6)
        return f" (nearest: {near[0]} {list(self.checkpoint.tensors[names[near[0]]].shape)})" if near else ""


class Branch:
    """A scope of the checkpoint, such as `p["Conv2d_0"]["BatchNorm"]`; its leaves are weights.

    `operations` is the scope of the layers' operations in the OD API's graph, if it differs: the ranges of a
    quantization-aware graph are named after it. `renames` are patterns and replacements for the path below `scope`.
    """

    def __init__(
        self,
        weights: Weights,
        scope: str,
        operations: str | None = None,
        renames: Renames = (),
        below: str = "",
        frozen_statistics: bool = False,
    ) -> None:
        self._weights = weights
        self._frozen_statistics = frozen_statistics
        self._operations = scope if operations is None else operations
        self._renames = renames
        self._outer = scope
        self._below = below

    @property
    def scope(self) -> str:
        """The path to this branch, joined by slashes."""
        below = self._below
        for pattern, replacement in self._renames:
            below = re.sub(pattern, replacement, below)
        return _joined(self._outer, below)

    @property
    def quantized(self) -> bool:
        """Returns whether the model is quantization-aware."""
        return self._weights.quantized

    def __getitem__(self, name: str) -> Branch:
        return self.scoped(name, name)

    def scoped(self, name: str, operations: str) -> Branch:
        """Returns `p[name]`, for layers whose operations are below `operations` in the OD API's graph."""
        operations, below = _joined(self._operations, operations), _joined(self._below, name)
        return Branch(self._weights, self._outer, operations, self._renames, below, self._frozen_statistics)

    def renamed(self, renames: Renames) -> Branch:
        """Returns this branch for a network that uses other names below it; each pattern is replaced in turn."""
        renames = tuple(renames)
        return Branch(self._weights, self.scope, self._operations, renames, frozen_statistics=self._frozen_statistics)

    def with_frozen_statistics(self) -> Branch:
        """Returns this branch for layers whose batch normalization does not update its statistics in training."""
        return Branch(self._weights, self._outer, self._operations, self._renames, self._below, True)

    @property
    def training(self) -> bool:
        """Returns whether batch normalization uses the statistics of the batch, and updates the moving ones."""
        return self._weights.training and not self._frozen_statistics

    def weight(self, name: str, shape: Sequence[int], *, trainable: bool = True, dtype: str = "float32") -> Any:
        """Returns the checkpoint's weight `scope/name`, which must have `shape`; see `Weights.weight`.

        In a TensorFlow 2 checkpoint, slim's names are translated to those of Keras: see KERAS_LEAVES.
        """
        if self._weights.checkpoint.generation == Generation.TF2:
            name = KERAS_LEAVES.get(name, name)
        return self._weights.weight(self[name].scope, shape, trainable=trainable, dtype=dtype)

    def quantized_weight(self, name: str, shape: Sequence[int]) -> Any:
        """Returns `weight(name, shape)`, after its FakeQuant in a quantization-aware model.

        Operations that share a weight share its FakeQuant, which is named after the first of them.
        """
        weight = self.weight(name, shape)
        if not self._weights.quantized:
            return weight
        quantizers, key = self._weights.weight_quantizers, self[name].scope
        if key not in quantizers:
            quantizers[key] = self.quantizer("weights_quant", narrow_range=True)
        return self.derived(lambda: [quantizers[key](weight)], **{name: shape})[0]

    def quantizer(self, *names: str, narrow_range: bool = False) -> Quantizer:
        """Returns the FakeQuant of the first of `names` that has a range; identity if the model is not quantized."""
        if not self._weights.quantized:
            return lambda x: x
        scopes = [_joined(self._operations, name) for name in names]
        scope = next((scope for scope in scopes if f"{scope}/min" in self._weights.checkpoint.tensors), scopes[0])
        low, high = (
            self._weights.weight(f"{scope}/{end}", [], trainable=False, dtype="float32") for end in ("min", "max")
        )
        return lambda x: tf.quantization.fake_quant_with_min_max_vars(x, low, high, narrow_range=narrow_range)

    def outer_quantizer(self, name: str) -> Quantizer:
        """Returns the FakeQuant `name` in the scope around this one; a second one there is called `name_1`."""
        above = self._operations.rpartition("/")[0]
        users = self._weights.outer_quantizers.setdefault(f"{above}/{name}", [])
        if self._operations not in users:
            users.append(self._operations)
        number = users.index(self._operations)
        return Branch(self._weights, self.scope, above).quantizer(f"{name}_{number}" if number else name)

    def derived(self, compute: Callable[[], Sequence[tf.Tensor]], **shapes: Sequence[int]) -> list[tf.Tensor]:
        """Returns the tensors of `shapes`, which `compute` derives from weights; the binding decides when."""
        return self._weights.binding.derived(compute, {self[name].scope: shape for name, shape in shapes.items()})

    def normalization(
        self, *, mean: Any, variance: Any, gamma: Any | None, beta: Any | None, epsilon: float
    ) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
        """Returns batch normalization as `x * scale + offset`, for `compute` functions to call; see `Binding`."""
        return self._weights.binding.normalization(Normalization(mean, variance, gamma, beta, epsilon))

    def ignore(self) -> None:
        """Marks the checkpoint's weights in this scope as not needed for inference: they are not reported as unused."""
        self._weights.ignored.add(self.scope + "/")

    def auto_named_layers(self, name: str, count: int) -> list[str]:
        """Returns the names of `count` layers of a Keras model that Keras named itself: `name` and a number.

        They come in the order of their creation, whatever number it began with. Layers that the checkpoint lacks get
        the next numbers.
        """
        stored = self._weights.auto_named_layers(self.scope, name)
        first = int(stored[-1].removeprefix(name).removeprefix("_") or 0) + 1 if stored else 0
        missing = [f"{name}_{number}" if number else name for number in range(first, first + count - len(stored))]
        return [*stored, *missing][:count]

    def declare_layer_order(self, *layers: str) -> None:
        """Declares the layers with weights of a Keras model in the order in which Keras counts them.

        Without it the order of first use counts. The two differ where branches join, and the order matters where a
        checkpoint has no names for its layers: when only its index file exists.
        """
        self._weights.declare_layer_order(self.scope, layers)


def _joined(scope: str, name: str) -> str:
    return "/".join(part for part in (scope, name) if part)
