"""Weights by name: branches of a checkpoint that make a variable when a network asks for it, and keep the account.

A network asks its branch for each weight with the shape it needs; nothing is initialized at random and nothing is
guessed. What was missing, what had another shape and what nobody asked for is known when the network is built.

In a quantization-aware model some tensors pass through a FakeQuant, whose range is two variables, `min` and `max`,
under the scope of the operation. Source: tf.contrib.quantize of TensorFlow 1.15, python/{quantize,quant_ops}.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import tensorflow as tf

from unfreeze.errors import WeightsError
from unfreeze.weights.bindings import Constants, Normalization, Variables, WeightSource, make_binding
from unfreeze.weights.checkpoints import Checkpoint
from unfreeze.weights.objects import VALUE, Objects, read_objects
from unfreeze.weights.training_state import MOVING_AVERAGE, is_range, training_state


@dataclass(frozen=True)
class Mismatch:
    """A weight that the network needs in `needed` and the checkpoint has in `stored` (None: it has no such weight)."""

    name: str
    needed: tuple[int, ...]
    stored: tuple[int, ...] | None


# What the layers of Keras call the weights that slim's layers call so: with it one network serves both.
KERAS_LEAVES = {
    "weights": "kernel",
    "biases": "bias",
    "depthwise_weights": "depthwise_kernel",
    "pointwise_weights": "pointwise_kernel",
}

Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
Quantizer = Callable[[tf.Tensor], tf.Tensor]
Causes = Callable[[Iterable[Mismatch], Sequence[str]], Sequence[str]]


class Weights:
    """The weights of one network, found by name and shape in a checkpoint; a binding decides what the network gets.

    With `moving_averages`, a trainable variable takes the value of its shadow `NAME/ExponentialMovingAverage`, as
    `tf.train.ExponentialMovingAverage.variables_to_restore` maps them; moving statistics have none. Until values are
    asked for no data file is read but for the object graph of TensorFlow 2.

    Of a checkpoint of TensorFlow 2 the names are paths from `model` in its object graph: a variable is called by the
    path that the network took to it first, with the names of Keras layers in place of the counts that its key has.
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
        self._names: dict[str, str] = {}  # of the variables by source: several paths can lead to one
        self.weight_quantizers: dict[str, Quantizer] = {}
        self.outer_quantizers: dict[str, list[str]] = {}

    @cached_property
    def _objects(self) -> Objects | None:
        return read_objects(self.checkpoint) if self.checkpoint.generation == "tf2" else None

    def branch(self, scope: str = "", *, quantized: bool = False) -> Branch:
        """The branch below `scope`; the empty scope is the whole checkpoint.

        `quantized` makes the model quantization-aware, for every branch: then each range has to be asked for.
        """
        if quantized and not self.ranges():
            raise WeightsError(
                f"{self.checkpoint.prefix}: the config asks for a quantization-aware graph (graph_rewriter), but the "
                "checkpoint has no ranges (…_quant/min, …_quant/max); take graph_rewriter out of the config if the "
                "model was trained without it"
            )
        self.quantized |= quantized
        return Branch(self, scope)

    def ranges(self) -> list[str]:
        """The ends of ranges that the checkpoint has: `…_quant/min` and `…_quant/max`."""
        return [name for name in self.checkpoint.tensors if is_range(name)]

    @property
    def derived(self) -> Variables | None:
        """The binding whose derived tensors a loader computes; None where there are none."""
        return self.binding if isinstance(self.binding, Variables) and self.binding.size else None

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """The variables by name; there are none where the weights are constants."""
        return self.binding.variables

    def weight(self, name: str, shape: Sequence[int], *, trainable: bool, dtype: str) -> Any:
        """The weight called `name`; zeros, and an entry in `mismatches`, where the checkpoint does not fit."""
        key = self._source(name, trainable)
        name = self._names.setdefault(key, name)
        if name in self._bound:
            self._check(name, self.sources[name], shape)
            return self._bound[name]
        if not self._check(name, key, shape):
            with tf.init_scope():
                return tf.zeros(shape, dtype)
        dtype = self.checkpoint.tensors[key].dtype
        read = partial(self.checkpoint.read, key)
        self._bound[name] = self.binding.weight(WeightSource(name, tuple(shape), dtype, trainable, read))
        self.sources[name] = key
        return self._bound[name]

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The arrays that stand in the traced graphs instead of variables, by name; see `Constants.in_graph`."""
        return self.binding.in_graph if isinstance(self.binding, Constants) else {}

    def values(self, names: Sequence[str]) -> Sequence[tf.Tensor]:
        """What the checkpoint holds for the variables called `names`."""
        return self.checkpoint.restore([self.sources[name] for name in names])

    def fill(self) -> None:
        """Gives every variable and derived tensor its value, to run the network in this process."""
        self.binding.fill(lambda name: self.checkpoint.read(self.sources[name]))

    def unused(self) -> list[str]:
        """Tensors of the checkpoint that no network asked for and that are not the state of a training."""
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
        """The checkpoint's key of the variable called `name`, or the name itself where it has none."""
        return self._objects.key(name) or name if self._objects is not None else name

    def readable_names(self, keys: Iterable[str]) -> list[str]:
        """Keys of the checkpoint as names that can be read: of TensorFlow 2 the paths from `model`."""
        names = self._objects.readable if self._objects is not None else {}
        return [names.get(key, key.removesuffix(VALUE)) for key in keys]

    def auto_named_layers(self, scope: str, name: str) -> list[str]:
        """The layers of the Keras model at `scope` that are called `name`, or that and a number; see Branch."""
        return self._objects.auto_named_layers(scope, name) if self._objects is not None else []

    def declare_layer_order(self, scope: str, layers: Sequence[str]) -> None:
        """The layers of the Keras model at `scope`, as its edges count them; see `Branch.declare_layer_order`."""
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
        other = [mismatch for mismatch in mismatches if mismatch.stored is not None]
        parts = []
        if other:
            parts.append(
                f"{len(other)} weight{'s have' if len(other) > 1 else ' has'} another shape: "
                + _few([f"{m.name} needs {list(m.needed)}, has {list(m.stored or ())}" for m in other])
            )
        if absent:
            parts.append(
                f"{len(absent)} weight{'s are' if len(absent) > 1 else ' is'} missing: "
                + _few([f"{m.name} {list(m.needed)}{self._nearest(m)}" for m in absent])
            )
        unused = self.readable_names(self.unused())
        if unused:
            parts.append(f"not asked for: {len(unused)} of the checkpoint: " + _few(unused))
        likely = list(causes(mismatches, unused))
        advice = f"likely cause: {'; '.join(likely)}" if likely else "give the config that it was trained with"
        raise WeightsError(
            f"{self.checkpoint.prefix}: the config does not fit the checkpoint; {advice}. {'; '.join(parts)}"
        )

    def _require_no_range_left(self) -> None:
        """Raises WeightsError when a quantization-aware model was built without one of the checkpoint's FakeQuants."""
        left = sorted({name.rsplit("/", 1)[0] for name in self.unused() if is_range(name)})
        if left:
            raise WeightsError(
                f"{self.checkpoint.prefix}: the config does not fit the checkpoint: the graph has no place for "
                f"{len(left)} range{'s' if len(left) > 1 else ''} of its quantization: {_few(left)}; "
                "give the config that it was trained with"
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

    def _check(self, name: str, source: str, shape: Sequence[int]) -> bool:
        held = self.checkpoint.tensors.get(source)
        if held is not None and held.shape == tuple(shape):
            return True
        self.mismatches[name] = Mismatch(name, tuple(shape), None if held is None else held.shape)
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
    """A scope of the checkpoint, `p["Conv2d_0"]["BatchNorm"]`; its leaves are weights.

    `operations` is the scope that the layers' operations had in the original's graph, where it is another: the ranges
    of a quantization-aware graph have their names from there. `renames` are patterns and what stands for them, applied
    to the path below `scope`.
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
        """The path to it, "/" joined."""
        below = self._below
        for pattern, replacement in self._renames:
            below = re.sub(pattern, replacement, below)
        return _joined(self._outer, below)

    @property
    def quantized(self) -> bool:
        """Whether the model is quantization-aware."""
        return self._weights.quantized

    def __getitem__(self, name: str) -> Branch:
        return self.scoped(name, name)

    def scoped(self, name: str, operations: str) -> Branch:
        """`p[name]`, for layers whose operations stood under `operations` in the original's graph."""
        operations, below = _joined(self._operations, operations), _joined(self._below, name)
        return Branch(self._weights, self._outer, operations, self._renames, below, self._frozen_statistics)

    def renamed(self, renames: Renames) -> Branch:
        """This branch for a network that calls what is below it by other names: each pattern is replaced in turn."""
        renames = tuple(renames)
        return Branch(self._weights, self.scope, self._operations, renames, frozen_statistics=self._frozen_statistics)

    def with_frozen_statistics(self) -> Branch:
        """This branch for layers whose batch normalization keeps its moving statistics while a model is trained."""
        return Branch(self._weights, self._outer, self._operations, self._renames, self._below, True)

    @property
    def training(self) -> bool:
        """Whether batch normalization uses the statistics of the batch, and updates the moving ones."""
        return self._weights.training and not self._frozen_statistics

    def weight(self, name: str, shape: Sequence[int], *, trainable: bool = True, dtype: str = "float32") -> Any:
        """The checkpoint's weight `scope/name`, which must have `shape`; see `Weights.weight`.

        In a checkpoint of TensorFlow 2 slim's names stand for those of Keras: see KERAS_LEAVES.
        """
        if self._weights.checkpoint.generation == "tf2":
            name = KERAS_LEAVES.get(name, name)
        return self._weights.weight(self[name].scope, shape, trainable=trainable, dtype=dtype)

    def quantized_weight(self, name: str, shape: Sequence[int]) -> Any:
        """`weight(name, shape)`, in a quantization-aware model behind its FakeQuant.

        Operations that share a weight share its FakeQuant, which has its name from the first of them.
        """
        weight = self.weight(name, shape)
        if not self._weights.quantized:
            return weight
        quantizers, key = self._weights.weight_quantizers, self[name].scope
        if key not in quantizers:
            quantizers[key] = self.quantizer("weights_quant", narrow_range=True)
        return self.derived(lambda: [quantizers[key](weight)], **{name: shape})[0]

    def quantizer(self, *names: str, narrow_range: bool = False) -> Quantizer:
        """The FakeQuant of the first of `names` that the checkpoint has a range of; identity without quantization."""
        if not self._weights.quantized:
            return lambda x: x
        scopes = [_joined(self._operations, name) for name in names]
        scope = next((each for each in scopes if f"{each}/min" in self._weights.checkpoint.tensors), scopes[0])
        low, high = (
            self._weights.weight(f"{scope}/{end}", [], trainable=False, dtype="float32") for end in ("min", "max")
        )
        return lambda x: tf.quantization.fake_quant_with_min_max_vars(x, low, high, narrow_range=narrow_range)

    def outer_quantizer(self, name: str) -> Quantizer:
        """The FakeQuant `name` in the scope around this one; the second that is asked for there is called `name_1`."""
        above = self._operations.rpartition("/")[0]
        asking = self._weights.outer_quantizers.setdefault(f"{above}/{name}", [])
        if self._operations not in asking:
            asking.append(self._operations)
        number = asking.index(self._operations)
        return Branch(self._weights, self.scope, above).quantizer(f"{name}_{number}" if number else name)

    def derived(self, compute: Callable[[], Sequence[tf.Tensor]], **shapes: Sequence[int]) -> list[tf.Tensor]:
        """Tensors that `compute` makes from weights only: by name, each of that shape; the binding decides when."""
        return self._weights.binding.derived(compute, {self[name].scope: shape for name, shape in shapes.items()})

    def normalization(
        self, *, mean: Any, variance: Any, gamma: Any | None, beta: Any | None, epsilon: float
    ) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]:
        """Batch normalization as `x * scale + offset`, for `compute` functions to call; see `Binding`."""
        return self._weights.binding.normalization(Normalization(mean, variance, gamma, beta, epsilon))

    def ignore(self) -> None:
        """Marks the checkpoint's weights in this scope as not needed for inference: they are not reported as unused."""
        self._weights.ignored.add(self.scope + "/")

    def auto_named_layers(self, name: str, count: int) -> list[str]:
        """Returns the names of `count` layers of a Keras model that Keras named itself: `name` and a number.

        They come in the order of their creation, whatever number it began with. Layers that the checkpoint lacks get
        the next numbers.
        """
        found = self._weights.auto_named_layers(self.scope, name)
        first = int(found[-1].removeprefix(name).removeprefix("_") or 0) + 1 if found else 0
        wanted = [f"{name}_{number}" if number else name for number in range(first, first + count - len(found))]
        return [*found, *wanted][:count]

    def declare_layer_order(self, *layers: str) -> None:
        """Declares the layers with weights of a Keras model in the order in which Keras counts them.

        Without it the order of first use counts. The two differ where branches join, and the order matters where a
        checkpoint has no names for its layers: when only its index file exists.
        """
        self._weights.declare_layer_order(self.scope, layers)


def _joined(scope: str, name: str) -> str:
    return "/".join(part for part in (scope, name) if part)


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
