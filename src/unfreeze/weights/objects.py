"""The object graph of a TensorFlow 2 checkpoint: finds the key of a variable by the path that a network uses.

A variable is a node of this graph, and its key is only one of the paths to it. Edges are followed by name. The edges
to the layers of a Keras model are numbered (`layer_with_weights-3`), so a layer is also found by its own name, which is
the prefix of its variables' names: `Conv1/kernel`.

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
from unfreeze.weights.checkpoints import OBJECT_GRAPH, VALUE, Checkpoint, CheckpointFormat

MODEL = "model"
_NUMBERED_LAYER = re.compile(r"layer_with_weights-(\d+)$")
_SUFFIX = re.compile(r"_\d+$")


@dataclass(frozen=True)
class Node:
    """One object: its edges, and key and full name if it is a variable."""

    children: dict[str, int] = field(default_factory=dict)
    key: str = ""
    full_name: str = ""


class Objects:
    """The objects below `model`, found by path.

    Without its data file a checkpoint has keys, but no names of layers. Then the layers of a Keras model are matched in
    the order in which they are first requested, or in the order of `declare_layer_order`.
    """

    def __init__(self, nodes: Sequence[Node], root: int, *, named: bool) -> None:
        self._nodes = nodes
        self._root = root
        self._named = named
        self._numbers: dict[str, int | None] = {}
        self._layers: dict[int, dict[str, int | None]] = {}
        self._requested: dict[int, list[str]] = {}

    def key(self, path: str) -> str | None:
        """Returns the checkpoint key of the variable at `path`, or None."""
        number = self._find(path)
        return None if number is None else self._nodes[number].key or None

    def keys_below(self, path: str) -> set[str]:
        """Returns the keys of all variables that can be reached from the object at `path`."""
        start = self._find(path)
        return set() if start is None else {self._nodes[i].key for i, _ in self._walk(start)} - {""}

    def auto_named_layers(self, path: str, name: str) -> list[str]:
        """Returns the layers of the Keras model at `path` whose names are `name` or such as `name_7`, by number."""
        start = self._find(path)
        if start is None:
            return []
        names = [self._layer_name(layer).rsplit("/", 1)[-1] for layer in self._numbered_layers(start)]
        if not names:  # in an export, and in a checkpoint saved from one, edges have the names of layers
            names = list(self._nodes[start].children)
        matches = (re.fullmatch(rf"{name}(?:_(\d+))?", layer) for layer in names)
        numbers = {int(match[1] or 0): match[0] for match in matches if match}
        return [numbers[number] for number in sorted(numbers)]

    def declare_layer_order(self, path: str, layers: Sequence[str]) -> None:
        """Declares the layers of the Keras model at `path` in the order of their edges; used if they have no names."""
        number = self._find(path)
        if number is not None and not self._named:
            self._requested.setdefault(number, []).extend(layers)

    @cached_property
    def readable(self) -> dict[str, str]:
        """Returns `{key: path from the model}` of all variables, with the names of layers instead of numbers."""
        walked = self._walk(self._root, named=self._named)
        return {self._nodes[number].key: path for number, path in walked if self._nodes[number].key}

    def _find(self, path: str) -> int | None:
        if path not in self._numbers:
            number = self._descend(self._root, path.split("/") if path else [])
            if number is None:  # not cached: without names, the layer at a path depends on earlier requests
                return None
            self._numbers[path] = number
        return self._numbers[path]

    def _descend(self, number: int, steps: list[str]) -> int | None:
        """Returns the node `steps` below a node; names of edges and layers may contain slashes: "stack_0/se"."""
        if not steps:
            return number
        for length in range(1, len(steps) + 1):
            child = self._nodes[number].children.get("/".join(steps[:length]))
            if child is not None:
                descendant = self._descend(child, steps[length:])
                if descendant is not None:
                    return descendant
        for length in range(len(steps), 0, -1):
            child = self._layer(number, "/".join(steps[:length]), leaf=length < len(steps))
            if child is not None:
                descendant = self._descend(child, steps[length:])
                if descendant is not None:
                    return descendant
        return None

    def _layer(self, number: int, name: str, leaf: bool) -> int | None:
        """Returns the layer called `name` of a Keras model, whatever its prefix; None if the name is ambiguous."""
        if not self._named:
            return self._layer_by_position(number, name) if leaf else None
        if number not in self._layers:
            self._layers[number] = self._layers_by_name(number)
        return self._layers[number].get(name)

    def _layers_by_name(self, number: int) -> dict[str, int | None]:
        """Returns layers by full name, by the end of it, and by that without the number that Keras appends."""
        whole = [(self._layer_name(layer), layer) for layer in self._numbered_layers(number)]
        ends = [(end, layer) for name, layer in whole for end in _ends(name)]
        unnumbered = [(_SUFFIX.sub("", end), layer) for end, layer in ends]
        return {**_unique(unnumbered), **_unique(ends), **_unique(whole)}

    def _layer_by_position(self, number: int, name: str) -> int | None:
        layers = list(self._numbered_layers(number))
        if not layers:
            return None
        requested = self._requested.setdefault(number, [])
        if name not in requested:
            requested.append(name)
        position = requested.index(name)
        return self._nodes[number].children.get(f"layer_with_weights-{position}")

    def _numbered_layers(self, number: int) -> Iterator[int]:
        """Yields the layers with weights of a Keras model, in its order."""
        edges = self._nodes[number].children
        layers = [(int(match[1]), child) for edge, child in edges.items() if (match := _NUMBERED_LAYER.match(edge))]
        return (child for _, child in sorted(layers))

    def _layer_name(self, number: int) -> str:
        """Returns the common prefix of the full names of a layer's variables."""
        names = [self._nodes[i].full_name.rpartition("/")[0] for i, _ in self._walk(number) if self._nodes[i].full_name]
        return commonpath(names) if names else ""

    def _walk(self, start: int, *, named: bool = False) -> Iterator[tuple[int, str]]:
        """Yields every node that can be reached, nearest first, with a shortest path to it."""
        seen, queue = {start}, deque([(start, "")])
        while queue:
            number, path = queue.popleft()
            yield number, path
            for edge, child in self._nodes[number].children.items():
                if child not in seen:
                    seen.add(child)
                    step = self._layer_name(child) or edge if named and _NUMBERED_LAYER.match(edge) else edge
                    queue.append((child, f"{path}/{step}" if path else step))


def read_objects(checkpoint: Checkpoint) -> Objects:
    """Reads the objects of a TensorFlow 2 checkpoint, from its keys alone if the data file with the graph is missing.

    Raises: CheckpointError if the checkpoint has no object `model`.
    """
    if not checkpoint.tensors:  # an empty checkpoint, to list the weights that a config needs
        return Objects([Node()], 0, named=True)
    if checkpoint.format == CheckpointFormat.EXPORT:
        return Objects(_nodes_of_names(checkpoint.tensors), 0, named=True)
    nodes, named = _nodes_of_graph(checkpoint), True
    if not nodes:
        nodes, named = _nodes_of_keys(checkpoint.tensors), False
    if MODEL not in nodes[0].children:
        edges = ", ".join(list(nodes[0].children)[:5]) or "none"
        raise CheckpointError(
            f"{checkpoint.prefix}: no object 'model' in this checkpoint (found: {edges}). Pass a checkpoint that the "
            "Object Detection API's training or exporter wrote."
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
    values = [attribute for attribute in node.attributes if attribute.checkpoint_key.endswith(VALUE)]
    return Node(children, values[0].checkpoint_key, values[0].full_name) if values else Node(children)


def _nodes_of_names(names: Iterable[str]) -> list[Node]:
    """Returns a tree of the names of a network's weights."""
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
    """Returns a tree of the keys' paths, without optimizer slots, which belong to no object."""
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
    """Returns `a/b/c`, `b/c` and `c` for `a/b/c`."""
    steps = name.split("/")
    return ["/".join(steps[i:]) for i in range(len(steps))]


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int | None]:
    """Returns the layer of each name; None if several layers have it."""
    layers: dict[str, int | None] = {}
    for name, layer in pairs:
        layers[name] = layer if layers.get(name, layer) == layer else None
    return layers


def _unescaped(step: str) -> str:
    return step.replace(".S", "/").replace("..", ".")
