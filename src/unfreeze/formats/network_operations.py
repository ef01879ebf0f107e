"""Finds the operations of a detector that compute in a lower precision: those of the network, from weights to weights.

Resizing, the decoding of boxes and suppression lie before, after and between networks, and stay in float32: an 8-bit
coordinate of a box is off by up to 1/255 of the image. The rule is the same for the graphs of every format:
convolutions, products of a convolution's results with weights, and what lies between two of these and is on a short
list. Other operations end a network, such as those between the stages of a detector of two stages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """An operation of a graph of any format, with the names of its tensors."""

    name: str
    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    has_weights: bool  # its second input is a constant


def network_operations(
    operations: Sequence[Operation],
    *,
    convolutions: Collection[str],
    products: Collection[str],
    between: Collection[str],
) -> set[str]:
    """Returns the names of the operations of the network.

    Args:
        convolutions, products: the kinds of operations with weights. Only those products count that depend on a
            convolution: resizing multiplies by constants too.
        between: the kinds of operations that may lie between two operations with weights.
    """
    consumers = _consumers(operations)
    producers = _producers(operations)
    first = [operation for operation in operations if operation.kind in convolutions and operation.has_weights]
    after_convolutions = _reached(first, consumers, lambda operation: True)
    weighted = [
        operation
        for operation in operations
        if operation.has_weights
        and (operation.kind in convolutions or (operation.kind in products and operation.name in after_convolutions))
    ]

    def may_lie_between(operation: Operation) -> bool:
        return operation.kind in between

    after = _reached(weighted, consumers, may_lie_between)
    before = _reached(weighted, producers, may_lie_between)
    return {operation.name for operation in weighted} | (after & before)


Neighbors = Callable[[Operation], Iterable[Operation]]


def _consumers(operations: Sequence[Operation]) -> Neighbors:
    by_input: dict[str, list[Operation]] = {}
    for operation in operations:
        for tensor in operation.inputs:
            by_input.setdefault(tensor, []).append(operation)
    return lambda operation: (user for tensor in operation.outputs for user in by_input.get(tensor, ()))


def _producers(operations: Sequence[Operation]) -> Neighbors:
    by_output = {tensor: operation for operation in operations for tensor in operation.outputs}
    return lambda operation: (by_output[tensor] for tensor in operation.inputs if tensor in by_output)


def _reached(starts: Iterable[Operation], neighbors: Neighbors, passes: Callable[[Operation], bool]) -> set[str]:
    """Returns the names of the operations that are reached from `starts` through operations that pass."""
    reached: set[str] = set()
    waiting = [neighbor for start in starts for neighbor in neighbors(start)]
    while waiting:
        operation = waiting.pop()
        if operation.name not in reached and passes(operation):
            reached.add(operation.name)
            waiting += neighbors(operation)
    return reached
