"""The loop in which each node of a graph runs, for loops of TensorFlow 1 nodes (Enter, Merge, Exit, …)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from unfreeze.graphs.operations import producer

ENTER, EXIT = ("Enter", "RefEnter"), ("Exit", "RefExit")
Frame = tuple[str, ...]  # the Enter nodes that lead into it, the outermost first; empty outside all loops


def frames(nodes: Iterable[Any]) -> dict[str, Frame]:
    """Returns the loops around each node by name; empty if the graph has no loops.

    A loop with several Enter nodes is named by the first of them.
    """
    named: Mapping[str, Any] = {node.name: node for node in nodes}
    if not any(node.op in ENTER for node in named.values()):
        return {}
    entries: dict[tuple[Frame, bytes], str] = {}
    around: dict[str, Frame] = {}
    consumers: dict[str, list[str]] = {}
    for node in named.values():
        for operand in node.input:
            consumers.setdefault(producer(operand), []).append(node.name)
    waiting = [node.name for node in named.values() if not node.input]
    for name in waiting:
        around[name] = ()
    while waiting:
        name = waiting.pop()
        node = named[name]
        frame = around[name][:-1] if node.op in EXIT else around[name]
        for consumer in consumers.get(name, ()):
            if consumer in around:
                continue
            after = named[consumer]
            if after.op in ENTER:
                key = (frame, after.attr["frame_name"].s)
                around[consumer] = (*frame, entries.setdefault(key, consumer))
            else:
                around[consumer] = frame
            waiting.append(consumer)
    return around
