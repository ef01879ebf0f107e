"""Reads the tables of a flatbuffer, the format of TFLite models and their metadata, by the numbers of their fields."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of a flatbuffer, at a byte of it. Reading beyond the end of the data raises struct.error."""

    data: bytes
    at: int

    def number(self, index: int, kind: str, default: int = 0) -> int:
        """Returns a number of a field, of a type of `struct`."""
        place = self._place(index)
        return _number(self.data, place, kind) if place else default

    def text(self, index: int) -> str:
        """Returns the text of a field; empty if it is absent."""
        return self.content(index, 1).decode("utf-8")

    def content(self, index: int, size: int) -> bytes:
        """Returns the bytes of a vector or text, whose elements have `size` bytes; empty if it is absent."""
        start, length = self._vector(index)
        if start + length * size > len(self.data):
            raise struct.error
        return self.data[start : start + length * size]

    def numbers(self, index: int) -> tuple[int, ...]:
        """Returns the 32-bit numbers of a vector."""
        return tuple(number for (number,) in struct.iter_unpack("<i", self.content(index, 4)))

    def has(self, index: int) -> bool:
        """Returns whether a field is set."""
        return self._place(index) != 0

    def table(self, index: int) -> Table:
        """Returns the table of a field. Raises: struct.error if it is absent."""
        place = self._place(index)
        if not place:
            raise struct.error
        return Table(self.data, place + _number(self.data, place, "I"))

    def tables(self, index: int) -> list[Table]:
        """Returns the tables of a vector."""
        start, length = self._vector(index)
        places = range(start, start + 4 * length, 4)
        return [Table(self.data, place + _number(self.data, place, "I")) for place in places]

    def _vector(self, index: int) -> tuple[int, int]:
        place = self._place(index)
        if not place:
            return 0, 0
        start = place + _number(self.data, place, "I")
        return start + 4, _number(self.data, start, "I")

    def _place(self, index: int) -> int:
        """Returns the byte of a field; 0 if it is absent."""
        offsets = self.at - _number(self.data, self.at, "i")
        slot = 4 + 2 * index
        if slot >= _number(self.data, offsets, "H"):
            return 0
        offset = _number(self.data, offsets + slot, "H")
        return self.at + offset if offset else 0


def root(data: bytes) -> Table:
    """Returns the table that a flatbuffer begins with."""
    return Table(data, _number(data, 0, "I"))


def _number(data: bytes, at: int, kind: str) -> int:
    number: int = struct.unpack_from(f"<{kind}", data, at)[0]
    return number
