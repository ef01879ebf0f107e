"""Protobuf messages in descriptor pools of their own.

A private pool lets messages of the same names, such as those of `object_detection.protos` or of tensorflow-serving-api,
be imported in the same process.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

# Message -> its fields: name, number, and type as a .proto file spells it: "int64", "repeated string", "OtherMessage",
# "repeated OtherMessage" or "map<string, bytes>".
MessageTable = Mapping[str, Sequence[tuple[str, int, str]]]
_MAP = "map<"


class MessagePool:
    """The messages of one package in a descriptor pool that contains nothing else."""

    def __init__(self, package: str, files: Iterable[Any]) -> None:
        self._package = package
        self._pool = descriptor_pool.DescriptorPool()
        for file in files:
            self._pool.AddSerializedFile(file.SerializeToString())

    def message_class(self, name: str) -> Any:
        """Returns the class of a message by its name in the package, such as `Hyperparams` or `Ssd.MaskHead`.

        Raises: KeyError if the package has no such message.
        """
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))

    def enum(self, name: str) -> EnumTypeWrapper:
        """Returns an enum of the package that stands outside of messages.

        Raises: KeyError if the package has no such enum.
        """
        return EnumTypeWrapper(self._pool.FindEnumTypeByName(f"{self._package}.{name}"))


def pool_of_descriptor_set(package: str, descriptor_set: bytes) -> MessagePool:
    """Returns the messages of a descriptor set that protoc wrote."""
    return MessagePool(package, descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file)


def pool_of_table(package: str, messages: MessageTable) -> MessagePool:
    """Returns proto3 messages that are described by a table, for the few that need no .proto file."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        for field_name, number, kind in fields:
            if kind.startswith(_MAP):
                kind = _add_map_entry(message, field_name, kind, package)
            _add_field(message, field_name, number, kind, package)
    return MessagePool(package, [file])


def _add_field(message: Any, name: str, number: int, kind: str, package: str) -> None:
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if kind.startswith("repeated ") else field.LABEL_OPTIONAL
    kind = kind.removeprefix("repeated ")
    scalar = getattr(field, f"TYPE_{kind.upper()}", None)
    if scalar is not None:
        field.type = scalar
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"


def _add_map_entry(message: Any, field_name: str, kind: str, package: str) -> str:
    """Adds the entry message that stands for a map on the wire; returns the type of the field that repeats it."""
    key, value = kind.removeprefix(_MAP).removesuffix(">").split(", ")
    entry = message.nested_type.add(name=f"{field_name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, key, package)
    _add_field(entry, "value", 2, value, package)
    return f"repeated {message.name}.{entry.name}"
