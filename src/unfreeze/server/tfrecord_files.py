"""Files of TFRecords that stay readable after the process was killed, or when the disk is full.

A file is called NAME.tfrecord.partial while records are appended to it, and NAME.tfrecord when it is closed. Only a
partial file can end within a record; `recover` cuts such an end off at the next start.

Source of the format: tensorflow/core/lib/io/record_writer.h.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import google_crc32c

try:
    import fcntl
except ImportError:  # Windows: files of a process that was killed are not recovered
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".tfrecord"
PARTIAL_SUFFIX = f"{SUFFIX}.partial"
LENGTH = struct.Struct("<Q")
CHECKSUM = struct.Struct("<I")
HEADER_BYTES = LENGTH.size + CHECKSUM.size
OVERHEAD_BYTES = HEADER_BYTES + CHECKSUM.size


class RecordFile:
    """A file of TFRecords that this process appends to."""

    def __init__(self, path: Path) -> None:
        """Creates the file as `path` with the suffix of partial files. Raises: OSError."""
        self.path = path
        self.partial_path = path.with_name(path.name + ".partial")
        self.records = 0
        self.size_bytes = 0
        self._file = os.open(
            self.partial_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644
        )
        if fcntl:
            lock(self._file)  # so that another server with this prefix does not recover it

    def append(self, record: bytes) -> None:
        """Appends a record. Raises: OSError; the file then ends with the record before."""
        framed = frame(record)
        try:
            written = os.write(self._file, framed)
            while written < len(framed):  # the disk may be full: the next call raises the reason
                written += os.write(self._file, framed[written:])
        except OSError:
            os.ftruncate(self._file, self.size_bytes)
            raise
        self.size_bytes += len(framed)
        self.records += 1

    def close(self) -> None:
        """Gives the file its final name, or removes it if it has no records."""
        os.close(self._file)
        if self.records:
            self.partial_path.rename(self.path)
        else:
            self.partial_path.unlink()


def frame(record: bytes) -> bytes:
    """Returns a record as its bytes in a file: length, checksum, data, checksum."""
    length = LENGTH.pack(len(record))
    return b"".join((length, checksum(length), record, checksum(record)))


def checksum(data: bytes) -> bytes:
    """Returns the masked CRC-32C of a record's length or data. Source: tensorflow/core/lib/hash/crc32c.h."""
    crc = google_crc32c.value(data)
    return CHECKSUM.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def complete_records(path: Path) -> tuple[int, int]:
    """Returns the number of complete records at the start of a file, and their size in bytes.

    Only lengths are read and checked, since an interrupted write leaves the data before it as it was.
    """
    records = end = 0
    size_bytes = path.stat().st_size
    with open(path, "rb") as file:
        while end + OVERHEAD_BYTES <= size_bytes:
            file.seek(end)
            header = file.read(HEADER_BYTES)
            length = header[: LENGTH.size]
            next_end = end + OVERHEAD_BYTES + LENGTH.unpack(length)[0]
            if header[LENGTH.size :] != checksum(length) or next_end > size_bytes:
                break
            records, end = records + 1, next_end
    return records, end


def recover(path: Path) -> int | None:
    """Cuts an incomplete record off the end of a partial file, gives the file its final name, and returns its records.

    Returns None if a running process appends to the file. Raises: OSError.
    """
    with locked(path) as free:
        if not free:
            return None
        records, end = complete_records(path)
        os.truncate(path, end)
        if records:
            path.rename(path.with_name(path.name.removesuffix(".partial")))
        else:
            path.unlink()
        return records


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Locks a file for a block, and yields whether no other process has it locked."""
    if not fcntl:
        yield False
        return
    file = os.open(path, os.O_RDWR)
    try:
        yield lock(file)
    finally:
        os.close(file)


def lock(file: int) -> bool:
    """Locks an open file until it is closed, and returns whether that was possible."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True
