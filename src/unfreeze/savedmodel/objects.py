"""Writes the object graph of a SavedModel, from which `tf.saved_model.load` creates Python objects.

Source: tensorflow/core/protobuf/saved_object_graph.proto and python/saved_model/{load,save}.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_object_graph_pb2, struct_pb2, trackable_object_graph_pb2

VARIABLE_VALUE = "VARIABLE_VALUE"
SUFFIX = "/.ATTRIBUTES/" + VARIABLE_VALUE


def variable_key(name: str) -> str:
    """Returns the key in variables/ of the variable that is `name` in the checkpoint."""
    return name.removesuffix(SUFFIX) + SUFFIX


@dataclass(frozen=True)
class Handle:
    """A variable whose value need not be in memory: its handle, which functions capture, its dtype and shape."""

    handle: tf.Tensor
    dtype: tf.DType
    shape: tf.TensorShape
    trainable: bool


class ObjectGraph:
    """The objects of a SavedModel by number; 0 is the root."""

    def __init__(self) -> None:
        self.saved = saved_object_graph_pb2.SavedObjectGraph()
        self.trackable = trackable_object_graph_pb2.TrackableObjectGraph()
        self.user_object("_generic_user_object")
        self._captured: dict[int, int] = {}

    def child(self, parent: int, name: str, number: int) -> int:
        """Makes object `number` the attribute `name` of object `parent`; returns `number`."""
        self.saved.nodes[parent].children.add(node_id=number, local_name=name)
        self.trackable.nodes[parent].children.add(node_id=number, local_name=name)
        return number

    def user_object(self, identifier: str) -> int:
        """Adds a plain object, a `trackable_list_wrapper` or a `signature_map`; returns its number."""
        number, node = self._add()
        node.user_object.identifier = identifier
        node.user_object.version.producer = node.user_object.version.min_consumer = 1
        return number

    def variable(self, name: str, variable: tf.Variable | Handle) -> int:
        """Adds a variable that is restored from variables/ under `variable_key(name)`; returns its number."""
        number, node = self._add()
        node.variable.dtype = variable.dtype.as_datatype_enum
        node.variable.shape.CopyFrom(variable.shape.as_proto())
        node.variable.trainable = variable.trainable
        node.variable.name = name
        self.trackable.nodes[number].attributes.add(
            name=VARIABLE_VALUE, full_name=name, checkpoint_key=variable_key(name)
        )
        self._captured[id(variable.handle)] = number
        return number

    def computed_variable(self, handle: tf.Tensor, size: int) -> int:
        """Adds a float32 variable `[size]` that an initializer fills and variables/ does not have; returns its number.

        A function keeps captured variables alive, but no other resources, and a signature has to work after the model
        that it was taken from is released.
        """
        number, node = self._add()
        node.variable.dtype = tf.float32.as_datatype_enum
        node.variable.shape.dim.add(size=size)
        node.variable.name = "derived"
        self._captured[id(handle)] = number
        return number

    def initializer(self, create: Any, initialize: Any) -> int:
        """Adds a resource whose creation and initialization a loader runs after restoring; returns its number."""
        number, node = self._add()
        node.resource.device = ""
        self.child(number, "_create_resource", self.function(create, []))
        self.child(number, "_initialize", self.function(initialize, []))
        return number

    def asset(self) -> int:
        """Adds the first file of the assets; returns its number."""
        number, node = self._add()
        node.asset.asset_file_def_index = 0
        return number

    def function(self, concrete: Any, arguments: Sequence[str]) -> int:
        """Adds a function that takes its arguments by position or by name; returns its number."""
        number, node = self._add()
        node.function.concrete_functions.append(_name(concrete))
        node.function.function_spec.fullargspec.CopyFrom(_argument_names(arguments))
        node.function.function_spec.input_signature.tuple_value.values.extend(_specs(concrete))
        self._concrete(concrete, by_name=False)
        return number

    def signature(self, concrete: Any) -> int:
        """Adds a signature, which takes its inputs by name; returns its number."""
        number, node = self._add()
        node.bare_concrete_function.concrete_function_name = _name(concrete)
        node.bare_concrete_function.argument_keywords.extend(spec.tensor_spec_value.name for spec in _specs(concrete))
        node.bare_concrete_function.allowed_positional_arguments = 1
        self._concrete(concrete, by_name=True)
        return number

    def captured(self, concrete: Any) -> list[int]:
        """Returns the objects whose handles a function captures."""
        return [self._captured[id(handle)] for handle in concrete.captured_inputs]

    def _add(self) -> tuple[int, Any]:
        self.trackable.nodes.add()
        return len(self.saved.nodes), self.saved.nodes.add()

    def _concrete(self, concrete: Any, *, by_name: bool) -> None:
        if _name(concrete) in self.saved.concrete_functions:
            return  # serving_default and its input type share their function
        function = self.saved.concrete_functions[_name(concrete)]
        function.bound_inputs.extend(self.captured(concrete))
        positional, named = (function.canonicalized_input_signature.tuple_value.values.add() for _ in range(2))
        positional.tuple_value.SetInParent()
        named.dict_value.SetInParent()
        for spec in _specs(concrete):
            if by_name:
                named.dict_value.fields[spec.tensor_spec_value.name].CopyFrom(spec)
            else:
                positional.tuple_value.values.append(spec)
        outputs = concrete.structured_outputs
        if isinstance(outputs, Mapping):
            for name in sorted(outputs):
                function.output_signature.dict_value.fields[name].CopyFrom(_spec(name, outputs[name]))
        else:
            function.output_signature.CopyFrom(_spec("unknown", outputs))


def _name(concrete: Any) -> str:
    return concrete.name.decode() if isinstance(concrete.name, bytes) else concrete.name


def _specs(concrete: Any) -> list[Any]:
    """Returns the arguments of a function, without captured ones, as values of the object graph."""
    arguments = concrete.inputs[: len(concrete.inputs) - len(concrete.captured_inputs)]
    return [_spec(tensor.op.get_attr("_user_specified_name").decode(), tensor) for tensor in arguments]


def _spec(name: str, tensor: Any) -> Any:
    value = struct_pb2.StructuredValue()
    value.tensor_spec_value.name = name
    value.tensor_spec_value.shape.CopyFrom(tensor.shape.as_proto())
    value.tensor_spec_value.dtype = tensor.dtype.as_datatype_enum
    return value


def _argument_names(arguments: Sequence[str]) -> Any:
    """Returns Python's `FullArgSpec` of a function with these arguments."""
    value = struct_pb2.StructuredValue()
    value.named_tuple_value.name = "FullArgSpec"
    fields = {key: value.named_tuple_value.values.add(key=key).value for key in _FULL_ARG_SPEC}
    for key, field in fields.items():
        getattr(field, _FULL_ARG_SPEC[key]).SetInParent()
    for argument in arguments:
        fields["args"].list_value.values.add(string_value=argument)
    return value


_FULL_ARG_SPEC = {
    "args": "list_value",
    "varargs": "none_value",
    "varkw": "none_value",
    "defaults": "none_value",
    "kwonlyargs": "list_value",
    "kwonlydefaults": "none_value",
    "annotations": "dict_value",
}
