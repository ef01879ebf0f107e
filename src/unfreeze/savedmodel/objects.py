"""The object graph of a SavedModel, from which `tf.saved_model.load` makes Python objects.

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
    """The key in variables/ of the variable that the checkpoint calls `name`."""
    return name.removesuffix(SUFFIX) + SUFFIX


@dataclass(frozen=True)
class Handle:
    """A variable that need not be in memory: its handle, which functions capture, and what it holds."""

    handle: tf.Tensor
    dtype: tf.DType
    shape: tf.TensorShape
    trainable: bool


class ObjectGraph:
    """The objects of a SavedModel, by number; 0 is the root."""

    def __init__(self) -> None:
        self.saved = saved_object_graph_pb2.SavedObjectGraph()
        self.trackable = trackable_object_graph_pb2.TrackableObjectGraph()
        self.user_object("_generic_user_object")
        self._captured: dict[int, int] = {}

    def child(self, parent: int, name: str, number: int) -> int:
        """Makes object `number` the attribute `name` of object `parent`."""
        self.saved.nodes[parent].children.add(node_id=number, local_name=name)
        self.trackable.nodes[parent].children.add(node_id=number, local_name=name)
        return number

    def user_object(self, identifier: str) -> int:
        """A plain object, a `trackable_list_wrapper` or a `signature_map`."""
        number, node = self._add()
        node.user_object.identifier = identifier
        node.user_object.version.producer = node.user_object.version.min_consumer = 1
        return number

    def variable(self, name: str, variable: tf.Variable | Handle) -> int:
        """A variable, restored from variables/ under `variable_key(name)`."""
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
        """A float32 variable `[size]` that has nothing in variables/: an initializer fills it.

        A variable, since a function keeps those that it captures alive, as it does not keep other resources: a
        signature has to answer after the model that it was taken from is gone.
        """
        number, node = self._add()
        node.variable.dtype = tf.float32.as_datatype_enum
        node.variable.shape.dim.add(size=size)
        node.variable.name = "derived"
        self._captured[id(handle)] = number
        return number

    def initializer(self, create: Any, initialize: Any) -> int:
        """What a loader makes and runs once the variables are restored: an otherwise idle resource."""
        number, node = self._add()
        node.resource.device = ""
        self.child(number, "_create_resource", self.function(create, []))
        self.child(number, "_initialize", self.function(initialize, []))
        return number

    def asset(self) -> int:
        """The first file of the assets."""
        number, node = self._add()
        node.asset.asset_file_def_index = 0
        return number

    def function(self, concrete: Any, arguments: Sequence[str]) -> int:
        """A function that takes its arguments by place or by name."""
        number, node = self._add()
        node.function.concrete_functions.append(_name(concrete))
        node.function.function_spec.fullargspec.CopyFrom(_argument_names(arguments))
        node.function.function_spec.input_signature.tuple_value.values.extend(_specs(concrete))
        self._concrete(concrete, by_name=False)
        return number

    def signature(self, concrete: Any) -> int:
        """A signature, which takes its inputs by name."""
        number, node = self._add()
        node.bare_concrete_function.concrete_function_name = _name(concrete)
        node.bare_concrete_function.argument_keywords.extend(spec.tensor_spec_value.name for spec in _specs(concrete))
        node.bare_concrete_function.allowed_positional_arguments = 1
        self._concrete(concrete, by_name=True)
        return number

    def captured(self, concrete: Any) -> list[int]:
        """The objects whose handles a function takes besides its arguments."""
        return [self._captured[id(handle)] for handle in concrete.captured_inputs]

    def _add(self) -> tuple[int, Any]:
        self.trackable.nodes.add()
        return len(self.saved.nodes), self.saved.nodes.add()

    def _concrete(self, concrete: Any, *, by_name: bool) -> None:
        if _name(concrete) in self.saved.concrete_functions:
            return  # serving_default and the input type that it is share their function
        told = self.saved.concrete_functions[_name(concrete)]
        told.bound_inputs.extend(self.captured(concrete))
        places, names = (told.canonicalized_input_signature.tuple_value.values.add() for _ in range(2))
        places.tuple_value.SetInParent()
        names.dict_value.SetInParent()
        for spec in _specs(concrete):
            if by_name:
                names.dict_value.fields[spec.tensor_spec_value.name].CopyFrom(spec)
            else:
                places.tuple_value.values.append(spec)
        outputs = concrete.structured_outputs
        if isinstance(outputs, Mapping):
            for name in sorted(outputs):
                told.output_signature.dict_value.fields[name].CopyFrom(_spec(name, outputs[name]))
        else:
            told.output_signature.CopyFrom(_spec("unknown", outputs))


def _name(concrete: Any) -> str:
    return concrete.name.decode() if isinstance(concrete.name, bytes) else concrete.name


def _specs(concrete: Any) -> list[Any]:
    """The arguments of a function, captured ones left out, as the object graph tells them."""
    taken = concrete.inputs[: len(concrete.inputs) - len(concrete.captured_inputs)]
    return [_spec(tensor.op.get_attr("_user_specified_name").decode(), tensor) for tensor in taken]


def _spec(name: str, tensor: Any) -> Any:
    value = struct_pb2.StructuredValue()
    value.tensor_spec_value.name = name
    value.tensor_spec_value.shape.CopyFrom(tensor.shape.as_proto())
    value.tensor_spec_value.dtype = tensor.dtype.as_datatype_enum
    return value


def _argument_names(arguments: Sequence[str]) -> Any:
    """Python's `FullArgSpec` of a function with these arguments."""
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
