"""The names of enum values in a message, where protobuf gives numbers."""

from google.protobuf.message import Message


def enum_name(message: Message, field: str) -> str:
    """Returns the name of an enum field's value: `RELU_6` where the field has 2."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    if enum is None:
        raise TypeError(f"{message.DESCRIPTOR.name}.{field} is not an enum")
    return str(enum.values_by_number[getattr(message, field)].name)
