"""The weights of a network as its layers see them.

`unfreeze.weights.Branch` implements this protocol, and documents each method. The protocol is declared here so that
`ops` does not depend on `weights`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import tensorflow as tf

# (pattern, replacement) pairs, for a network whose names for its layers differ from those of a checkpoint.
Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


class Branch(Protocol):
    """A scope of the weights, from which layers get their kernels, biases, statistics and quantization ranges."""

    @property
    def scope(self) -> str: ...

    @property
    def quantized(self) -> bool: ...

    @property
    def training(self) -> bool: ...

    def __getitem__(self, name: str) -> Branch: ...

    def scoped(self, name: str, operations: str) -> Branch: ...

    def renamed(self, renames: Renames) -> Branch: ...

    def with_frozen_statistics(self) -> Branch: ...

    def weight(self, name: str, shape: Sequence[int], *, trainable: bool = True, dtype: str = "float32") -> Any: ...

    def quantized_weight(self, name: str, shape: Sequence[int]) -> Any: ...

    def quantizer(self, *names: str, narrow_range: bool = False) -> Callable[[tf.Tensor], tf.Tensor]: ...

    def outer_quantizer(self, name: str) -> Callable[[tf.Tensor], tf.Tensor]: ...

    def derived(self, compute: Callable[[], Sequence[tf.Tensor]], **shapes: Sequence[int]) -> list[tf.Tensor]: ...

    def normalization(
        self, *, mean: Any, variance: Any, gamma: Any | None, beta: Any | None, epsilon: float
    ) -> Callable[[], tuple[tf.Tensor, tf.Tensor]]: ...

    def ignore(self) -> None: ...

    def declare_layer_order(self, *layers: str) -> None: ...

    def auto_named_layers(self, name: str, count: int) -> list[str]: ...
