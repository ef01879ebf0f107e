"""The messages of pipeline.config and label maps, from the descriptor set that scripts/compile_protos writes."""

from functools import cache
from pathlib import Path
from typing import Any

from unfreeze.protobuf_pool import MessagePool, pool_of_descriptor_set

PACKAGE = "unfreeze.config"


@cache
def schema_pool() -> MessagePool:
    """Returns all messages of `PACKAGE`."""
    return pool_of_descriptor_set(PACKAGE, Path(__file__).with_name("schema.binpb").read_bytes())


@cache
def message_class(name: str) -> Any:
    """Returns the class of a message by its name in the schema, such as `Hyperparams` or `Ssd.MaskHead`."""
    return schema_pool().message_class(name)


def enum_name(message: Any, field: str) -> str:
    """Returns the name of an enum field's value, where protobuf gives its number: `RELU_6` for 2."""
    values = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number
    return str(values[getattr(message, field)].name)
