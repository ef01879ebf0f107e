"""In which loop each node of a graph runs, where loops are the nodes of TensorFlow 1 (Enter, Merge, Exit, …)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from unfreeze.graphs.operations import producer

ENTER, EXIT = ("Enter", "RefEnter"), ("Exit", "RefExit")
Frame = tuple[str, ...]  # names of the Enter nodes by which one gets in, the outermost first; empty outside all loops


def frames(nodes: Iterable[Any]) -> dict[str, Frame]:
    """The loops around each node. Empty where the graph has none.

    Of the Enter nodes of one loop the first stands for all of them.
    """
    named: Mapping[str, Any] = {node.name: node for node in nodes}
    if not any(node.op in ENTER for node in named.values()):
        return {}
    entries: dict[tuple[Frame, bytes], str] = {}
    found: dict[str, Frame] = {}
    consumers: dict[str, list[str]] = {}
    for node in named.values():
        for operand in node.input:
            consumers.setdefault(producer(operand), []).append(node.name)
    waiting = [node.name for node in named.values() if not node.input]
    for name in waiting:
        found[name] = ()
    while waiting:
        name = waiting.pop()
        node = named[name]
        frame = found[name][:-1] if node.op in EXIT else found[name]
        for consumer in consumers.get(name, ()):
            if consumer in found:
                continue
            after = named[consumer]
            if after.op in ENTER:
                key = (frame, after.attr["frame_name"].s)
                found[consumer] = (*frame, entries.setdefault(key, consumer))
            else:
                found[consumer] = frame
            waiting.append(consumer)
    return found
