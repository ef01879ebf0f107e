"""Reads a frozen graph without TensorFlow. Source of the numbers: tensorflow/core/framework/{graph,node_def}.proto."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from unfreeze import protobuf_wire as wire
from unfreeze.inspection.description import Constants, Description
from unfreeze.verification.meta_graph import DTYPES, TensorInfo, shape

NOT_OUTPUTS = ("Assert", "Const", "NoOp", "Placeholder")


def read_graph(path: Path) -> Description:
    """Returns the description of a GraphDef; its outputs are the nodes whose result no other node uses.

    Raises: ValueError: the file is cut short, or is not a GraphDef.
    """
    nodes = [(wire.text(node, 1), wire.text(node, 2), node) for node in wire.parts(path.read_bytes(), 1)]
    if not nodes or not all(name and operation for name, operation, _ in nodes):
        raise ValueError("it has no nodes")
    used = {
        bytes(source).decode().lstrip("^").partition(":")[0] for _, _, node in nodes for source in wire.parts(node, 3)
    }
    constants = [len(value) for _, op, node in nodes if op == "Const" for value in wire.parts(node, 5)]
    return Description(
        path=path,
        files=[path],
        inputs={name: _tensor(name, node) for name, operation, node in nodes if operation == "Placeholder"},
        outputs={
            name: _tensor(name, node)
            for name, operation, node in nodes
            if name not in used and operation not in NOT_OUTPUTS
        },
        operations=Counter(operation for _, operation, _ in nodes),
        constants=Constants(len(constants), sum(constants)),
    )


def _tensor(name: str, node: memoryview) -> TensorInfo:
    """Returns data type and shape of a node, as far as its attributes have them."""
    dtype, sizes = 0, None
    for key, attribute in wire.entries(node, 5):
        for number, value in wire.fields(attribute):
            if key in ("dtype", "T") and number == 6 and isinstance(value, int):
                dtype = value
            if key == "shape" and number == 7 and isinstance(value, memoryview):
                sizes = shape(value)
    return TensorInfo(name, DTYPES.get(dtype, f"dtype {dtype}"), sizes)
