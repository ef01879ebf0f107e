"""The object graph of a TensorFlow 2 checkpoint: from the path that a network asks for to the key of a variable.

A variable is a node of this graph, and a key only the first of the paths that lead to it. So an edge is followed as it
is called, and a layer of a Keras model, whose edges are only counted (`layer_with_weights-3`), is also found by its
own name, which its variables have in front of theirs: `Conv1/kernel`.

Source: tensorflow/core/protobuf/trackable_object_graph.proto; checkpoint keys: python/checkpoint/trackable_view.py,
util.py; edges of a Keras model: keras/engine/functional.py (`_layer_checkpoint_dependencies`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from posixpath import commonpath
from typing import Any

from unfreeze.errors import CheckpointError
from unfreeze.weights.checkpoints import OBJECT_GRAPH, VALUE, Checkpoint

MODEL = "model"
_COUNTED = re.compile(r"layer_with_weights-(\d+)$")
_SUFFIX = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Node:
    """One object: its edges, and the key and the full name of its variable if it is one."""

    children: dict[str, int] = field(default_factory=dict)
    key: str = ""
    full_name: str = ""


class Objects:
    """The objects below `model`, found by path.

    Of a checkpoint whose data file is not there only the keys are known, and no layer's name: then the layers of a
    Keras model are those of its keys in the order in which they are first asked for, or `declare_layer_order` tells it.
    """

    def __init__(self, nodes: Sequence[Node], root: int, *, named: bool) -> None:
        self._nodes = nodes
        self._root = root
        self._named = named
        self._found: dict[str, int | None] = {}
        self._layers: dict[int, dict[str, int | None]] = {}
        self._asked: dict[int, list[str]] = {}

    def key(self, path: str) -> str | None:
        """The checkpoint key of the variable at `path`."""
        number = self._find(path)
        return None if number is None else self._nodes[number].key or None

    def keys_below(self, path: str) -> set[str]:
        """The keys of every variable that can be reached from the object at `path`."""
        start = self._find(path)
        return set() if start is None else {self._nodes[i].key for i, _ in self._walk(start)} - {""}

    def auto_named_layers(self, path: str, name: str) -> list[str]:
        """The layers of the Keras model at `path` that are called `name` or `name_7`, by their numbers."""
        start = self._find(path)
        if start is None:
            return []
        names = [self._layer_name(layer).rsplit("/", 1)[-1] for layer in self._counted(start)]
        names = names or list(
            self._nodes[start].children
        )  # in an export, and in what is saved from it, layers are edges
        numbers = {int(found[1] or 0): each for each in names if (found := re.fullmatch(rf"{name}(?:_(\d+))?", each))}
        return [numbers[number] for number in sorted(numbers)]

    def declare_layer_order(self, path: str, layers: Sequence[str]) -> None:
        """The layers of the Keras model at `path`, as its edges count them; needed where they have no names."""
        number = self._find(path)
        if number is not None and not self._named:
            self._asked.setdefault(number, []).extend(layers)

    @cached_property
    def readable(self) -> dict[str, str]:
        """`{key: path from the model}` of every variable below the model, with layers' names in place of counts."""
        walked = self._walk(self._root, named=self._named)
        return {self._nodes[number].key: path for number, path in walked if self._nodes[number].key}

    def _find(self, path: str) -> int | None:
        if path not in self._found:
            number = self._descend(self._root, path.split("/") if path else [])
            if number is None:  # may come to be there: without names, what a layer is hangs on what was asked before
                return None
            self._found[path] = number
        return self._found[path]

    def _descend(self, number: int, steps: list[str]) -> int | None:
        """The node `steps` below a node; an edge and a layer's name can hold slashes, as in "stack_0/block_0/se"."""
        if not steps:
            return number
        for taken in range(1, len(steps) + 1):
            child = self._nodes[number].children.get("/".join(steps[:taken]))
            if child is not None:
                found = self._descend(child, steps[taken:])
                if found is not None:
                    return found
        for taken in range(len(steps), 0, -1):
            child = self._layer(number, "/".join(steps[:taken]), leaf=taken < len(steps))
            if child is not None:
                found = self._descend(child, steps[taken:])
                if found is not None:
                    return found
        return None

    def _layer(self, number: int, name: str, leaf: bool) -> int | None:
        """The layer called `name` of a Keras model, whatever prefix its name has; None where several are called so."""
        if not self._named:
            return self._layer_by_position(number, name) if leaf else None
        if number not in self._layers:
            self._layers[number] = self._layers_by_name(number)
        return self._layers[number].get(name)

    def _layers_by_name(self, number: int) -> dict[str, int | None]:
        """By whole name, else by an end of it, else by one without the number that Keras appends; None: several."""
        whole = [(self._layer_name(layer), layer) for layer in self._counted(number)]
        ends = [(end, layer) for name, layer in whole for end in _ends(name)]
        unnumbered = [(_SUFFIX.sub("", end), layer) for end, layer in ends]
        return {**_unique(unnumbered), **_unique(ends), **_unique(whole)}

    def _layer_by_position(self, number: int, name: str) -> int | None:
        layers = list(self._counted(number))
        if not layers:
            return None
        asked = self._asked.setdefault(number, [])
        if name not in asked:
            asked.append(name)
        position = asked.index(name)
        return self._nodes[number].children.get(f"layer_with_weights-{position}")

    def _counted(self, number: int) -> Iterator[int]:
        """The layers of a Keras model that have weights, in its order."""
        edges = self._nodes[number].children
        counted = [(int(match[1]), child) for edge, child in edges.items() if (match := _COUNTED.match(edge))]
        return (child for _, child in sorted(counted))

    def _layer_name(self, number: int) -> str:
        """What the full names of a layer's variables have in common, less the variable's own name."""
        names = [self._nodes[i].full_name.rpartition("/")[0] for i, _ in self._walk(number) if self._nodes[i].full_name]
        return commonpath(names) if names else ""

    def _walk(self, start: int, *, named: bool = False) -> Iterator[tuple[int, str]]:
        """Every node that can be reached, nearest first, and a shortest path to it."""
        seen, queue = {start}, deque([(start, "")])
        while queue:
            number, path = queue.popleft()
            yield number, path
            for edge, child in self._nodes[number].children.items():
                if child not in seen:
                    seen.add(child)
                    step = self._layer_name(child) or edge if named and _COUNTED.match(edge) else edge
                    queue.append((child, f"{path}/{step}" if path else step))


def read_objects(checkpoint: Checkpoint) -> Objects:
    """The objects of a TF2 checkpoint; from its keys alone where its data file, which has the graph, is not there.

    Raises: CheckpointError: a checkpoint without an edge `model`.
    """
    if not checkpoint.tensors:  # asked what a config would need
        return Objects([Node()], 0, named=True)
    if checkpoint.format == "export":
        return Objects(_nodes_of_names(checkpoint.tensors), 0, named=True)
    nodes, named = _nodes_of_graph(checkpoint), True
    if not nodes:
        nodes, named = _nodes_of_keys(checkpoint.tensors), False
    if MODEL not in nodes[0].children:
        edges = ", ".join(list(nodes[0].children)[:5]) or "none"
        raise CheckpointError(
            f"{checkpoint.prefix}: no object 'model' in this checkpoint (it has: {edges}); give one that the Object "
            "Detection API's training or exporter wrote"
        )
    return Objects(nodes, nodes[0].children[MODEL], named=named)


def _nodes_of_graph(checkpoint: Checkpoint) -> list[Node]:
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    try:
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(checkpoint.read(OBJECT_GRAPH).item())
    except CheckpointError:
        return []
    return [_node(node) for node in graph.nodes]


def _node(node: Any) -> Node:
    children = {child.local_name: child.node_id for child in node.children}
    values = [each for each in node.attributes if each.checkpoint_key.endswith(VALUE)]
    return Node(children, values[0].checkpoint_key, values[0].full_name) if values else Node(children)


def _nodes_of_names(names: Iterable[str]) -> list[Node]:
    """A tree of the names that a network has for its weights."""
    nodes = [Node()]
    for name in names:
        number = 0
        for step in name.split("/"):
            if step not in nodes[number].children:
                nodes[number].children[step] = len(nodes)
                nodes.append(Node())
            number = nodes[number].children[step]
        nodes[number] = Node(nodes[number].children, name, name)
    return nodes


def _nodes_of_keys(keys: Iterable[str]) -> list[Node]:
    """A tree of the keys' paths; slots of an optimizer belong to no object."""
    nodes = [Node()]
    for key in keys:
        path, _, attribute = key.partition("/.ATTRIBUTES/")
        if not attribute or ".OPTIMIZER_SLOT" in path:
            continue
        number = 0
        for step in map(_unescaped, path.split("/")):
            if step not in nodes[number].children:
                nodes[number].children[step] = len(nodes)
                nodes.append(Node())
            number = nodes[number].children[step]
        nodes[number] = Node(nodes[number].children, key)
    return nodes


def _ends(name: str) -> list[str]:
    """`a/b/c`, `b/c`, `c`."""
    steps = name.split("/")
    return ["/".join(steps[i:]) for i in range(len(steps))]


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for name, layer in pairs:
        found[name] = layer if found.get(name, layer) == layer else None
    return found


def _unescaped(step: str) -> str:
    return step.replace(".S", "/").replace("..", ".")
