"""The protobuf wire format, to read a graph without its weights and to write a large message in pieces."""

from collections.abc import Iterator, Sequence

Value = int | memoryview
VARINT, BYTES = 0, 2  # wire types; the others are numbers of fixed length


def spans(message: bytes | memoryview, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Yields number, wire type, first byte and end of the value of each field between `start` and `end`.

    Raises:
        ValueError: the message is cut short, or is not a protobuf message.
    """
    data, at = memoryview(message), start
    end = len(data) if end is None else end
    while at < end:
        key, at = _varint(data, at, end)
        number, kind, size = key >> 3, key & 7, 0
        if kind == VARINT:
            size = _varint(data, at, end)[1] - at
        elif kind == BYTES:
            size, at = _varint(data, at, end)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {at} is not a field of a protobuf message")
        if number == 0 or at + size > end:
            raise ValueError(f"a field of {size} bytes at byte {at} does not fit into {end} bytes")
        yield number, kind, at, at + size
        at += size


def fields(message: bytes | memoryview) -> Iterator[tuple[int, Value]]:
    """Yields number and value of each field: an int for a varint, else the bytes.

    Raises:
        ValueError: the message is cut short, or is not a protobuf message.
    """
    data = memoryview(message)
    for number, kind, start, end in spans(data):
        yield number, _varint(data, start, end)[0] if kind == VARINT else data[start:end]


def parts(message: bytes | memoryview, number: int) -> Iterator[memoryview]:
    """Yields every length-delimited value of one field: submessages, strings, bytes."""
    for key, value in fields(message):
        if key == number and isinstance(value, memoryview):
            yield value


def text(message: bytes | memoryview, number: int) -> str:
    """Returns the last string of a field; `""` if it is absent."""
    return bytes(([memoryview(b""), *parts(message, number)])[-1]).decode("utf-8")


def integer(message: bytes | memoryview, number: int) -> int:
    """Returns the last varint of a field; 0 if it is absent."""
    return ([0, *(value for key, value in fields(message) if key == number and isinstance(value, int))])[-1]


def entries(message: bytes | memoryview, number: int) -> Iterator[tuple[str, memoryview]]:
    """Yields key and value of a map field whose keys are strings."""
    for entry in parts(message, number):
        yield text(entry, 1), ([memoryview(b""), *parts(entry, 2)])[-1]


def varints(packed: bytes | memoryview) -> Iterator[int]:
    """Yields the numbers of a packed field."""
    data, at = memoryview(packed), 0
    while at < len(data):
        number, at = _varint(data, at, len(data))
        yield number


def without(message: bytes | memoryview, numbers: set[int]) -> bytes:
    """Returns the message without some of its fields, which is a valid message too."""
    data, kept, at = memoryview(message), [], 0
    for number, _, _, end in spans(data):
        if number not in numbers:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def field(number: int, value: bytes) -> bytes:
    """Returns a length-delimited field as it is in a message."""
    return _head(number, len(value)) + value


def nested(number: int, pieces: Sequence[bytes]) -> list[bytes]:
    """Returns such a field in pieces, for a value in pieces: joined, a large value would be in memory twice."""
    return [_head(number, sum(map(len, pieces))), *pieces]


def _head(number: int, size: int) -> bytes:
    return _as_varint(number << 3 | BYTES) + _as_varint(size)


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"it ends in the middle of a number, after {end} bytes")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes ends at byte {at}")


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
