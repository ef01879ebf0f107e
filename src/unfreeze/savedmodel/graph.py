"""Builds the graph of a SavedModel, which the TF1 loader and the C++ loader of TensorFlow Serving run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saver_pb2


@dataclass(frozen=True)
class TensorNames:
    """The names of a signature's tensors in the graph, for clients that feed and fetch by these.

    `inputs`: key -> node; others are named after the signature. `call`: the node whose outputs are those of the
    signature, in the order of their keys. `outputs_by_key`: each output is a node of its own, with its key as the name.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    call: str = ""
    outputs_by_key: bool = False


# As in SavedModels of TensorFlow 2: the outputs are StatefulPartitionedCall:0, :1, …
TF2_NAMES = TensorNames(call="StatefulPartitionedCall")


class MainGraph:
    """Nodes for the variables, for calls of the signatures' functions, and to save, restore and initialize."""

    INITIALIZER = "init"

    def __init__(self) -> None:
        self._graph = graph_pb2.GraphDef()
        self.saver_def = saver_pb2.SaverDef()

    def handle(self, name: str, dtype: tf.DType, shape: Any) -> str:
        """Adds a variable; returns its node."""
        node = self._add(self.node_name(name), "VarHandleOp")
        node.attr["shared_name"].s = name.encode()
        node.attr["dtype"].type = dtype.as_datatype_enum
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
        return str(node.name)

    def placeholder(self, name: str, dtype: tf.DType, shape: Any) -> str:
        """Adds an input; returns its node."""
        node = self._add(name, "Placeholder")
        node.attr["dtype"].type = dtype.as_datatype_enum
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
        return str(node.name)

    def signature(
        self, name: str, concrete: Any, captured: Sequence[str], tensor_names: TensorNames
    ) -> meta_graph_pb2.SignatureDef:
        """Adds a call of a signature's function on new inputs; returns the SignatureDef."""
        signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
        inputs = concrete.inputs[: len(concrete.inputs) - len(captured)]
        placeholders = []
        for tensor in inputs:
            key = tensor.op.get_attr("_user_specified_name").decode()
            node = tensor_names.inputs.get(key, f"{name}_{key}")
            placeholders.append(self.placeholder(node, tensor.dtype, tensor.shape))
            _describe(signature.inputs[key], f"{node}:0", tensor)
        call = tensor_names.call or f"{name}_call"
        self._call(call, concrete, [*placeholders, *captured])
        for i, key in enumerate(sorted(concrete.structured_outputs)):
            tensor = concrete.structured_outputs[key]
            if tensor_names.outputs_by_key:
                self._add(key, "Identity", f"{call}:{i}").attr["T"].type = tensor.dtype.as_datatype_enum
            _describe(signature.outputs[key], f"{key}:0" if tensor_names.outputs_by_key else f"{call}:{i}", tensor)
        return signature

    def initializer(self, concrete: Any, captured: Sequence[str]) -> None:
        """Adds the node that every loader runs after the variables are restored."""
        self._call("init_call", concrete, captured)
        self._add(self.INITIALIZER, "NoOp", "^init_call")

    def saver(self, variables: Mapping[str, tuple[str, tf.DType]]) -> None:
        """Adds one operation to save all variables and one to restore them; `variables`: key -> (node, dtype)."""
        filename = self.placeholder("saver_filename", tf.string, [])
        keys = sorted(variables)
        types = [variables[key][1].as_datatype_enum for key in keys]
        self._strings("save/names", keys)
        self._strings("save/slices", [""] * len(keys))
        for i, key in enumerate(keys):
            node = self._add(f"save/read_{i}", "ReadVariableOp", variables[key][0])
            node.attr["dtype"].type = types[i]
        save = self._add(
            "save/SaveV2",
            "SaveV2",
            filename,
            "save/names",
            "save/slices",
            *(f"save/read_{i}" for i in range(len(keys))),
        )
        save.attr["dtypes"].list.type.extend(types)
        saved = self._add("save/saved", "Identity", filename, "^save/SaveV2")
        saved.attr["T"].type = tf.string.as_datatype_enum
        restore = self._add("save/RestoreV2", "RestoreV2", filename, "save/names", "save/slices")
        restore.attr["dtypes"].list.type.extend(types)
        for i, key in enumerate(keys):
            node = self._add(
                f"save/assign_{i}",
                "AssignVariableOp",
                variables[key][0],
                f"save/RestoreV2:{i}" if i else "save/RestoreV2",
            )
            node.attr["dtype"].type = types[i]
        self._add("save/restored", "NoOp", *(f"^save/assign_{i}" for i in range(len(keys))))
        self.saver_def.filename_tensor_name = filename + ":0"
        self.saver_def.save_tensor_name = "save/saved:0"
        self.saver_def.restore_op_name = "save/restored"
        self.saver_def.version = saver_pb2.SaverDef.V2

    def to_graph_def(self, concretes: Sequence[Any]) -> graph_pb2.GraphDef:
        """Returns the graph with the functions that it calls, directly or not."""
        holder = tf.Graph()
        for concrete in concretes:
            concrete.add_to_graph(holder)
        library = holder.as_graph_def()
        self._graph.library.CopyFrom(library.library)
        self._graph.versions.CopyFrom(library.versions)
        for function in self._graph.library.function:
            for node in function.node_def:
                # Shapes are inferred again on loading, and the Python location of a node is of no use then.
                node.attr.pop("_output_shapes", None)
                node.ClearField("experimental_debug_info")
            share_constants(function)
        return self._graph

    @staticmethod
    def node_name(name: str) -> str:
        """Returns a valid node name for a name of the checkpoint: only some characters, and no "_" in front."""
        valid = "".join(char if char.isalnum() or char in "_.\\/-" else "_" for char in name)
        return valid if valid[:1].isalnum() else f"v{valid}"

    def _call(self, name: str, concrete: Any, inputs: Sequence[str]) -> None:
        node = self._add(name, "StatefulPartitionedCall", *inputs)
        node.attr["f"].func.name = concrete.name.decode() if isinstance(concrete.name, bytes) else concrete.name
        node.attr["Tin"].list.type.extend(tensor.dtype.as_datatype_enum for tensor in concrete.inputs)
        node.attr["Tout"].list.type.extend(tensor.dtype.as_datatype_enum for tensor in concrete.outputs)

    def _strings(self, name: str, values: Sequence[str]) -> None:
        node = self._add(name, "Const")
        node.attr["dtype"].type = tf.string.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values, dtype=tf.string, shape=[len(values)]))

    def _add(self, name: str, op: str, *inputs: str) -> Any:
        return self._graph.node.add(name=name, op=op, input=inputs)


def share_constants(function: function_pb2.FunctionDef) -> None:
    """Keeps one of each set of equal constants; half of the nodes of a traced network are repeated axes and sizes."""
    kept: dict[bytes, str] = {}
    replaced: dict[str, str] = {}
    nodes = []
    for node in function.node_def:
        if node.op == "Const" and not node.input:
            first = kept.setdefault(node.attr["value"].SerializeToString(deterministic=True), node.name)
            if first != node.name:
                replaced[node.name] = first
                continue
        nodes.append(node)
    for node in nodes:
        for position, name in enumerate(node.input):
            node.input[position] = _renamed(name, replaced)
    for key, name in function.ret.items():
        function.ret[key] = _renamed(name, replaced)
    del function.node_def[:]
    function.node_def.extend(nodes)


def _renamed(name: str, replaced: Mapping[str, str]) -> str:
    """Returns an input of a function's node, `node:output:0` or `^node`, with its node replaced."""
    control = name[:1] == "^"
    node, colon, output = name[control:].partition(":")
    return f"{'^' * control}{replaced.get(node, node)}{colon}{output}"


def _describe(info: Any, name: str, tensor: Any) -> None:
    info.name = name
    info.dtype = tensor.dtype.as_datatype_enum
    info.tensor_shape.CopyFrom(tensor.shape.as_proto())
