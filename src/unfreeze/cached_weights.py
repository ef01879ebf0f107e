"""Finds operations whose weights depend on the request, which oneDNN would keep from the first request.

With TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 some kernels reorder their second operand at the first call and use that copy at
every later one. That is correct if the operand comes from constants and variables only.

Which kernels do so, from the callers of `AreWeightsFrozen()` in tensorflow/core/kernels/mkl: mkl_conv_ops.cc (Conv2D,
DepthwiseConv2dNative, Conv3D, fused or not), mkl_matmul_op_fused.cc (MatMul fused with a bias) and mkl_qmatmul_op.cc.
Measured with TensorFlow 2.21, two calls with different operands: Conv2D, depthwise and Conv3D keep the first, as do
MatMul + BiasAdd and MatMul + a vector; MatMul alone or with Relu, BatchMatMulV2 (fused too), Einsum and
Conv2DBackpropInput do not. The last is checked too, since other versions of TensorFlow may cache there as well.

A MatMul is fused by Grappler's remapper if a BiasAdd, or an addition of a vector, consumes its result
(`FindContractionWithBias`, tensorflow/core/grappler/optimizers/remapper.cc). Other optimizers run before, so
the addition is searched behind operations that they may remove; a result that leaves a function counts as fused.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Operations whose second input is their weights, also in their fused, oneDNN and quantized forms.
WEIGHTS = re.compile(
    r"_?(Mkl|Native|Fused|Quantized)*"
    r"(Conv|Conv2D|Conv3D|DepthwiseConv2D|DepthwiseConv2dNative|Conv[23]DBackpropInput(V2)?|"
    r"DepthwiseConv2dNativeBackpropInput)"
    r"((With|And)\w+)?"
)
FUSED_PRODUCTS = re.compile(r"_?(Mkl|Native)*(FusedMatMul|QuantizedMatMul\w*|QuantizedFusedMatMul\w*)")

ADDITIONS = {"Add", "AddN", "AddV2", "BiasAdd", "BiasAddV1"}
# Operations that Grappler may remove or move, so that an addition behind them can join the MatMul before them.
TRANSPARENT = {
    "BatchToSpaceND", "Cast", "CheckNumerics", "ConcatV2", "Enter", "EnsureShape", "Exit", "ExpandDims", "Identity",
    "IdentityN", "Merge", "Mul", "Neg", "NextIteration", "Pack", "PreventGradient", "RealDiv", "Reshape", "Snapshot",
    "SpaceToBatchND", "Squeeze", "StopGradient", "Sub", "Switch", "Transpose",
}  # fmt: skip
CHANGING_RANK = {"ExpandDims", "Pack", "Squeeze"}
FORWARDING = {"Identity", "IdentityN", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape"}

VARIABLES = {"VarHandleOp", "Variable", "VariableV2"}
# Stateful by their definition, but no more than a read of their inputs.
READS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "Enter", "RefEnter"}
# Not ScatterNd, which returns a new tensor.
WRITES = re.compile(r"(Resource)?(Assign|Apply|SparseApply|StridedSliceAssign|Scatter(?!Nd$|NdNonAliasing))\w*")
CALLS = {"PartitionedCall", "StatefulPartitionedCall", "TPUPartitionedCall"}
LOOPS = {"While", "StatelessWhile"}
BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
INPUTS = {"Placeholder", "PlaceholderV2", "PlaceholderWithDefault", "_Arg"}

SERVE = "serve"
NOT_FOR_REQUESTS = {"__saved_model_init_op", "__saved_model_train_op"}

# The number of a value that is the same in every request; None for a value that may differ.
Value = int | None
Values = list[Value] | Value


def request_dependent_weights(saved_model: str | os.PathLike[str]) -> str | None:
    """Returns the first operation of a SavedModel whose weights depend on the request, or None if there is none.

    Checks what is reachable from the signatures of the graph tagged `serve`.

    Raises: OSError, DecodeError if saved_model.pb cannot be read.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((Path(saved_model) / "saved_model.pb").read_bytes())
    graphs = [graph for graph in saved.meta_graphs if SERVE in graph.meta_info_def.tags]
    for graph in graphs or saved.meta_graphs:
        signatures = [
            (list(_tensor_names(definition.inputs.values())), list(_tensor_names(definition.outputs.values())))
            for name, definition in sorted(graph.signature_def.items())
            if name not in NOT_FOR_REQUESTS
        ]
        if found := request_dependent_weights_of_graph(graph.graph_def, signatures):
            return found
    return None


def request_dependent_weights_of_graph(
    graph_def: Any, signatures: Iterable[tuple[Sequence[str], Sequence[str]]]
) -> str | None:
    """Returns the first such operation of a GraphDef, or None; `signatures` are the names of inputs and outputs."""
    functions = [_Graph.from_function(function) for function in graph_def.library.function]
    main = _Graph("", {node.name: node for node in graph_def.node})
    walk = _Walk({function.name: function for function in functions}, main)
    signatures = list(signatures)
    while True:
        written_before = set(walk.written)
        for inputs, outputs in signatures:
            walk.visit_signature(inputs, outputs)
        if walk.offender or walk.written == written_before:
            return walk.offender
        walk.forget()  # a request changes these variables, so what is read from them may differ


def _tensor_names(infos: Iterable[Any]) -> Iterator[str]:
    """Yields the names of the tensors of a signature, including those of sparse and composite tensors."""
    for info in infos:
        kind = info.WhichOneof("encoding")
        if kind == "coo_sparse":
            sparse = info.coo_sparse
            yield from (sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
        elif kind == "composite_tensor":
            yield from _tensor_names(info.composite_tensor.components)
        else:
            yield info.name


@dataclass
class _Graph:
    """The nodes of a graph or of a function; a function also has the names of its arguments and returned tensors."""

    name: str
    nodes: Mapping[str, Any]
    arguments: Sequence[str] = ()
    returns: Sequence[str] = ()
    _consumers: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def from_function(cls, function: Any) -> _Graph:
        signature = function.signature
        return cls(
            signature.name,
            {node.name: node for node in function.node_def},
            [argument.name for argument in signature.input_arg],
            [function.ret[output.name] for output in signature.output_arg],
        )

    def unchanged_arguments(self) -> set[int]:
        """Returns the positions at which the function returns its own argument of that position."""
        positions = {name: position for position, name in enumerate(self.arguments)}
        return {
            index for index, reference in enumerate(self.returns) if positions.get(self._source(reference)) == index
        }

    def _source(self, reference: str) -> str:
        """Returns the node or argument that a tensor comes from, before operations that only forward it."""
        node = self.nodes.get(_node_of(reference))
        while node is not None and node.op in FORWARDING:
            index = _index_of(reference) if node.op == "IdentityN" else 0
            reference = node.input[index]
            node = self.nodes.get(_node_of(reference))
        return _node_of(reference)

    def rank_behind(self, node: Any, rank: int | None) -> int | None:
        """Returns the rank of the output of a TRANSPARENT operation with an input of this rank, None if unknown."""
        if node.op == "Reshape":
            shape = self.nodes.get(self._source(node.input[1]))
            if shape is not None and shape.op == "Const":
                return next((dim.size for dim in shape.attr["value"].tensor.tensor_shape.dim), None)
            return shape.attr["N"].i if shape is not None and shape.op == "Pack" else None
        return None if node.op in CHANGING_RANK else rank

    def consumers(self, node: str) -> list[Any]:
        if not self._consumers:
            consumers = defaultdict(list)
            for consumer in self.nodes.values():
                for reference in _data_inputs(consumer):
                    consumers[_node_of(reference)].append(consumer)
            self._consumers = dict(consumers)
        return self._consumers.get(node, [])

    def ordered(self, roots: Iterable[str] | None, fed: set[str]) -> list[Any]:
        """Returns the nodes that the roots need (None: all), each after its inputs; loops are cut at NextIteration."""
        order: list[Any] = []
        state: dict[str, bool] = {}  # False while its inputs are visited, True once it is in `order`
        pending = list(self.nodes if roots is None else map(_node_of, roots))
        while pending:
            stack = [pending.pop()]
            while stack:
                name = stack[-1]
                node = self.nodes.get(name)
                if node is None or state.get(name):
                    stack.pop()
                elif name in state:
                    state[name] = True
                    order.append(node)
                    stack.pop()
                else:
                    state[name] = False
                    inputs = [] if name in fed else [_node_of(reference) for reference in node.input]
                    is_merge = node.op in ("Merge", "RefMerge")
                    loop_ends = [
                        name for name in inputs if is_merge and name in self.nodes and _is_next(self.nodes[name])
                    ]
                    pending += loop_ends
                    stack += [name for name in inputs if name not in state and name not in loop_ends]
        return order


def _is_next(node: Any) -> bool:
    return node.op in ("NextIteration", "RefNextIteration")


def _node_of(reference: str) -> str:
    """Returns the node of `^node`, `node`, `node:1` or, in a function, `node:output:1`."""
    return reference.lstrip("^").partition(":")[0]


def _data_inputs(node: Any) -> list[str]:
    """Returns the inputs of a node that are tensors, without its control inputs."""
    return [reference for reference in node.input if not reference.startswith("^")]


def _index_of(reference: str) -> int:
    last = reference.rpartition(":")[2]
    return int(last) if ":" in reference and last.isdigit() else 0


class _Walk:
    """Follows values through a graph and its functions, and records the first operation with changing weights.

    A value that is the same in every request has a number, which is equal for equal computations. Callers of a function
    may share its kernels, so an operation that gets weights with two numbers counts as changing.
    """

    def __init__(self, functions: Mapping[str, _Graph], main: _Graph) -> None:
        self.functions, self.main = functions, main
        self.offender: str | None = None
        self.written: set[Value] = set()  # the handles of variables that a request assigns
        self._numbers: dict[Hashable, int] = {}
        self._shared_names: dict[
            Value, str
        ] = {}  # the shared_name of variables: operations with one shared name share a variable
        self.forget()

    def forget(self) -> None:
        """Starts again, but remembers which variables are written."""
        self._weights: dict[tuple[str, str], Value] = {}
        self._results: dict[tuple[str, tuple[Value, ...]], list[Value]] = {}
        self._active: list[str] = []

    def visit_signature(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._visit(self.main, {}, outputs, {_node_of(name) for name in inputs})

    def _visit(
        self, graph: _Graph, arguments: dict[str, Value], roots: Iterable[str] | None, fed: set[str]
    ) -> dict[str, Values]:
        """Returns the values of each node: a list has one for each output, a single value is for all outputs."""
        values: dict[str, Values] = {name: [value] for name, value in arguments.items()}
        for node in graph.ordered(roots, fed):
            if node.name in fed:
                values[node.name] = None
                continue
            inputs = [self._value(values, reference) for reference in _data_inputs(node)]
            try:
                self._note_write(graph, node, inputs)
                self._check_weights(graph, node, inputs)
                values[node.name] = self._values(graph, node, inputs)
            except (IndexError, KeyError, ValueError):  # a malformed node, which the loader rejects
                self._offend(graph, node)
                values[node.name] = None
        return values

    def _value(self, values: Mapping[str, Values], reference: str) -> Value:
        value = values.get(_node_of(reference))
        if isinstance(value, list):
            index = _index_of(reference)
            return value[index] if index < len(value) else None
        return None if value is None else self._number("output", value, reference.partition(":")[2])

    def _number(self, *computation: Hashable) -> int:
        return self._numbers.setdefault(computation, len(self._numbers))

    def _note_write(self, graph: _Graph, node: Any, inputs: Sequence[Value]) -> None:
        if not WRITES.fullmatch(node.op) or not inputs:
            return
        producer = graph.nodes.get(_node_of(node.input[0]))
        if inputs[0] is not None or producer is None or producer.op not in VARIABLES:
            self.written.add(inputs[0])  # None: it is not known which variable

    def _check_weights(self, graph: _Graph, node: Any, inputs: Sequence[Value]) -> None:
        product = node.op == "MatMul"
        if not (product or WEIGHTS.fullmatch(node.op) or FUSED_PRODUCTS.fullmatch(node.op)) or len(inputs) < 2:
            return
        weights = inputs[1]
        same = weights is not None and self._weights.setdefault((graph.name, node.name), weights) == weights
        if not same and (not product or self._is_added_to(graph, node)):
            self._offend(graph, node)

    def _offend(self, graph: _Graph, node: Any) -> None:
        place = f" in function {graph.name}" if graph.name else ""
        self.offender = self.offender or f"{node.op} {node.name}{place}"

    def _is_added_to(self, graph: _Graph, product: Any) -> bool:
        """Returns whether an addition that Grappler may fuse into a MatMul uses its result while it is a matrix."""
        places: list[tuple[str, int | None]] = [(product.name, 2)]  # a node and the rank of its result
        seen = set(places)
        returned = {_node_of(reference) for reference in graph.returns}
        while places:
            name, rank = places.pop()
            if name in returned:
                return True
            for consumer in graph.consumers(name):
                if self._called(consumer) or (consumer.op in ADDITIONS and rank in (2, None)):
                    return True
                place = (consumer.name, graph.rank_behind(consumer, rank))
                if consumer.op in TRANSPARENT and place not in seen:
                    seen.add(place)
                    places.append(place)
        return False

    def _called(self, node: Any) -> list[str]:
        """Returns the functions that a node runs."""
        names = [value.func.name for value in node.attr.values() if value.HasField("func")]
        names += [function.name for value in node.attr.values() for function in value.list.func]
        return [node.op, *names] if node.op in self.functions else names

    def _values(self, graph: _Graph, node: Any, inputs: list[Value]) -> Values:
        op = node.op
        if op in INPUTS:
            return None
        if op == "Const":
            return [self._number("Const", graph.name, node.name)]
        if op in VARIABLES:
            variable = self._number("variable", node.name)
            self._shared_names[variable] = node.attr["shared_name"].s.decode() or node.name
            return [None if op != "VarHandleOp" and self._is_written(variable) else variable]
        if op in FORWARDING:
            return inputs
        if op in ("Switch", "RefSwitch"):
            return [inputs[0], inputs[0]]
        if op in ("Merge", "RefMerge"):
            return [self._merged(graph, node, inputs), None]
        if op in CALLS or op in self.functions:
            return self._call(node.attr["f"].func.name if op in CALLS else op, inputs)
        if op in LOOPS:
            return self._loop(node, inputs)
        if op in BRANCHES:
            return self._branches(node, inputs)
        if called := self._called(node):  # such as the function that a dataset maps
            for name in called:
                self._call(name, [None] * len(self.functions[name].arguments if name in self.functions else ()))
            return None
        if None in inputs or _is_stateful(op) or (op in READS and self._is_written(inputs[0])):
            return None
        attributes = (
            (name, value.SerializeToString(deterministic=True))
            for name, value in sorted(node.attr.items())
            if not name.startswith("_")
        )
        return self._number(op, tuple(attributes), tuple(inputs))

    def _is_written(self, variable: Value) -> bool:
        written = {self._shared_names.get(handle) for handle in self.written}  # None: it is not known which
        name = self._shared_names.get(variable)
        return bool(written) and (None in written or name is None or name in written)

    def _merged(self, graph: _Graph, node: Any, inputs: Sequence[Value]) -> Value:
        """Returns the value of a Merge: the end of a conditional, or a loop variable that may be unchanged."""
        references = _data_inputs(node)
        loop_ends = [reference for reference in references if _is_next(graph.nodes[_node_of(reference)])]
        if not loop_ends:
            return inputs[0] if len(set(inputs)) == 1 else None
        [first] = [value for value, name in zip(inputs, references, strict=True) if name not in loop_ends]
        source = graph.nodes[_node_of(loop_ends[0])]
        while source.op in FORWARDING or _is_next(source) or source.op in ("Switch", "RefSwitch"):
            source = graph.nodes[_node_of(source.input[0])]
        return first if source.name == node.name else None

    def _call(self, name: str, arguments: Sequence[Value]) -> list[Value]:
        """Returns the values that a function returns."""
        graph = self.functions.get(name)
        if graph is None or name in self._active:  # a gradient, say, or a recursion
            return []
        key = (name, tuple(arguments))
        if key not in self._results:
            self._active.append(name)
            values = self._visit(graph, dict(zip(graph.arguments, arguments, strict=False)), None, set())
            self._active.pop()
            self._results[key] = [self._value(values, reference) for reference in graph.returns]
        return self._results[key]

    def _loop(self, node: Any, inputs: Sequence[Value]) -> list[Value]:
        """Returns the values of loop variables: those that the body returns unchanged are the same in every request."""
        body = self.functions.get(node.attr["body"].func.name)
        unchanged = body.unchanged_arguments() if body else set()
        carried = [value if index in unchanged else None for index, value in enumerate(inputs)]
        for function in ("cond", "body"):
            self._call(node.attr[function].func.name, carried)
        return carried

    def _branches(self, node: Any, inputs: Sequence[Value]) -> list[Value]:
        results = [self._call(name, inputs[1:]) for name in self._called(node)]
        outputs = [tuple(values) for values in zip(*results, strict=False)]
        return [
            None if inputs[0] is None or None in values else self._number("If", inputs[0], values) for values in outputs
        ]


def _is_stateful(op: str) -> bool:
    """Returns whether an operation's results may differ between calls; unregistered operations count as stateful."""
    from tensorflow.python.framework import op_def_registry  # no public name for it

    definition = op_def_registry.get(op)
    return op not in READS and (definition is None or definition.is_stateful)
