"""Messages in private pools: those of a table have the wire and text form that a .proto file would give them."""

import pytest
from google.protobuf import text_format

from unfreeze.protobuf_pool import pool_of_table

POOL = pool_of_table(
    "unfreeze.test",
    {
        "Inner": [("name", 3, "string")],
        "Outer": [
            ("inner", 1, "Inner"),
            ("sizes", 2, "repeated int64"),
            ("tensors", 5, "map<string, bytes>"),
            ("many_inner", 6, "repeated Inner"),
        ],
    },
)


def test_fields_have_the_numbers_and_types_of_the_table() -> None:
    message = POOL.message_class("Outer")(inner={"name": "a"}, sizes=[1, 2], many_inner=[{"name": "b"}])
    message.tensors["x"] = b"\xff"
    assert message.SerializeToString(deterministic=True) == (
        b"\x0a\x03\x1a\x01a" + b"\x12\x02\x01\x02" + b"\x2a\x06\x0a\x01x\x12\x01\xff" + b"\x32\x03\x1a\x01b"
    )
    assert text_format.Parse('sizes: [3] tensors { key: "y" value: "z" }', type(message)()).tensors == {"y": b"z"}


def test_submessages_know_whether_they_are_set() -> None:
    message = POOL.message_class("Outer")()
    assert not message.HasField("inner")
    message.inner.SetInParent()
    assert message.HasField("inner")


def test_unknown_message_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        POOL.message_class("Missing")


def test_two_pools_can_have_messages_of_one_name() -> None:
    other = pool_of_table("unfreeze.test", {"Inner": [("name", 3, "int64")]})
    assert other.message_class("Inner")(name=1).name != POOL.message_class("Inner")(name="1").name
