"""The operations of a graph: which of them must not run, their inputs and outputs, and the functions they call."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry  # no public name for it

from unfreeze.errors import UnsupportedError
from unfreeze.graphs.files import FrozenGraph

# Operations that read or write files, open connections, or run Python.
HARMFUL = re.compile(
    r"""(?x)
    ReadFile|WriteFile|MatchingFiles|.*Reader.*|.*FileSystem.*|LoadAndRemapMatrix|GenerateVocabRemapping
    |InitializeTableFromTextFile(V2)?|.*PyFunc.*|EagerPyFunc
    |Save(V2|Slices)?|DistributedSave|Restore(V2|Slice)?|MergeV2Checkpoints|.*ShardedFile.*|.*Checkpoint.*
    |.*Summary(File|Db)?Writer.*|Write.*Summary|WriteRawProtoSummary|ImportEvent|Flush.*Writer
    |.*Dataset.*|.*Iterator.*|.*DataService.*|.*DumpToFile.*|RecordInput
    |(En|De)codeProto(V2)?|Debug(Identity|NanCount|NumericSummary).*
    |RemoteCall|RemoteFusedGraphExecute|_?(Host)?(Send|Recv)|Rpc|TryRpc|.*BigQuery.*|.*Bigtable.*
    |Collective.*|Nccl.*|TPU.*|.*ConfigureDistributed.*|.*ShutdownDistributed.*|RegisterDataset.*
    |LoadTPU.*|RetrieveTPU.*|XlaLaunch|_XlaRun|_XlaCompile|TRTEngineOp
    |LoadLibrary|SdcaFprint|.*MutexLock.*
    """
)
# Lookup tables, which are empty until an initializer has run.
TABLES = re.compile(r"(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|(Initialize|Lookup)Table.*")
VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "TemporaryVariable")


def op_def(op: str) -> Any:
    """Returns TensorFlow's definition of an operation; None if it does not know it."""
    return op_def_registry.get(op)


def require_harmless(frozen: FrozenGraph) -> None:
    """Rejects a graph with operations that this TensorFlow does not have, or that do more than compute.

    Raises:
        UnsupportedError: with the names of all of them.
    """
    functions = frozen.functions()
    nodes = [*frozen.graph.node, *(node for function in functions.values() for node in function.node_def)]
    used = {node.op for node in nodes} - set(functions)
    harmful = {op for op in used if HARMFUL.fullmatch(op)} | _writes_files(nodes)
    unknown = {op for op in used - harmful if op_def(op) is None}
    attributes = {name for node in nodes if node.op not in {*functions, *unknown} for name in _unknown_attributes(node)}
    variables = {op for op in used if op in VARIABLES}
    tables = {op for op in used if TABLES.fullmatch(op)}
    if harmful:
        raise UnsupportedError(
            f"not supported yet: {frozen.path}: it has operations that touch files, read data sets, open connections "
            f"or run Python: {_listed(harmful)}; nothing of it was run"
        )
    if unknown:
        raise UnsupportedError(
            f"not supported yet: {frozen.path}: this TensorFlow ({tf.__version__}) does not know the operations "
            f"{_listed(unknown)}; install the TensorFlow that wrote the graph, or a newer one"
        )
    if attributes:
        raise UnsupportedError(
            f"not supported yet: {frozen.path}: this TensorFlow ({tf.__version__}) does not know the attributes "
            f"{_listed(attributes)}; install the TensorFlow that wrote the graph, or a newer one"
        )
    if variables:
        raise UnsupportedError(
            f"not supported yet: {frozen.path}: it is not frozen, it has variables ({_listed(variables)}); "
            "export the checkpoint that belongs to it"
        )
    if tables:
        raise UnsupportedError(
            f"not supported yet: {frozen.path}: it has lookup tables, which an initializer fills: {_listed(tables)}; "
            "export the graph without them"
        )


def _unknown_attributes(node: Any) -> list[str]:
    """Returns `ATTRIBUTE of OPERATION` for each that the operation does not have; names in `_…` are free for all."""
    defined = _attributes(node.op)
    return [f"{name} of {node.op}" for name in node.attr if name not in defined and not name.startswith("_")]


@cache
def _attributes(op: str) -> frozenset[str]:
    definition = op_def(op)
    return frozenset(attr.name for attr in definition.attr) if definition is not None else frozenset()


def without_defaults(node: Any) -> None:
    """Removes attributes that have their default value from a node, which an older runtime may not know."""
    for name, value in _defaults(node.op).items():
        if name in node.attr and node.attr[name].SerializeToString(deterministic=True) == value:
            del node.attr[name]


@cache
def _defaults(op: str) -> dict[str, bytes]:
    definition = op_def(op)
    if definition is None:
        return {}
    return {
        attr.name: attr.default_value.SerializeToString(deterministic=True)
        for attr in definition.attr
        if attr.HasField("default_value")
    }


def _writes_files(nodes: Iterable[Any]) -> set[str]:
    """Returns the PrintV2 nodes that print into a file."""
    return {
        f"PrintV2 to {node.attr['output_stream'].s.decode()}"
        for node in nodes
        if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file:")
    }


def _listed(operations: Iterable[str]) -> str:
    return ", ".join(sorted(operations))


def output_names(node: Any, definition: Any) -> list[tuple[str, int]]:
    """Returns the outputs of a node, each as the name of its argument and the position in it."""
    names = []
    for argument in definition.output_arg:
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        else:
            count = 1
        names += [(argument.name, position) for position in range(count)]
    return names


def output_types(node: Any, definition: Any) -> list[int]:
    """Returns the dtypes of the outputs of a node."""
    types: list[int] = []
    for argument in definition.output_arg:
        if argument.type_list_attr:
            types += node.attr[argument.type_list_attr].list.type
            continue
        default = {attr.name: attr.default_value.type for attr in definition.attr}
        dtype = argument.type or node.attr[argument.type_attr].type or default.get(argument.type_attr, 0)
        types += [dtype] * (node.attr[argument.number_attr].i if argument.number_attr else 1)
    return types


def functions_called(node: Any) -> list[str]:
    """Returns the functions that a node names in its attributes."""
    names = []
    for value in node.attr.values():
        if value.HasField("func"):
            names.append(value.func.name)
        names += [function.name for function in value.list.func]
    return names


def producer(operand: str) -> str:
    """Returns the node that an input comes from: `node`, `node:1`, `^node`, and in functions `node:output:0`."""
    return operand.lstrip("^").split(":")[0]


def unused_name(name: str, taken: Container[str]) -> str:
    """Returns the name, with "_" appended until it is not among the taken ones."""
    while name in taken:
        name += "_"
    return name


def called_arguments(node: Any, functions: Sequence[str]) -> list[tuple[str, int]]:
    """Returns the functions that a node calls with its inputs as arguments, and the input that is the first argument.

    Empty if the node calls none, or passes the arguments in another way.
    """
    if node.op in functions:
        return [(node.op, 0)]
    if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
        return [(node.attr["f"].func.name, 0)]
    if node.op in ("If", "StatelessIf"):
        return [(node.attr[branch].func.name, 1) for branch in ("then_branch", "else_branch")]
    if node.op in ("Case", "StatelessCase"):
        return [(branch.name, 1) for branch in node.attr["branches"].list.func]
    if node.op in ("While", "StatelessWhile"):
        return [(node.attr[part].func.name, 0) for part in ("cond", "body")]
    return []
