"""Parses text-format files, with errors that name the file, the line and the nearest known name."""

import os
import re
import warnings
from collections import Counter
from typing import Any

from google.protobuf import text_format

from unfreeze.callbacks import OnMessage
from unfreeze.config.outline import AFTER_QUOTE, Outline, Stray, outline
from unfreeze.errors import ConfigError
from unfreeze.file_kinds import EMPTY, HEAD_BYTES, kind_of_bytes

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_MOST_KINDS = 10  # of unknown names in one error
_QUOTED_LINE = re.compile(r"^\d+:\d+ : (?:'.*': )?", re.DOTALL)  # the start of text_format's messages


def read_text(path: str | os.PathLike[str], expected: str) -> str:
    """Returns the text of a file, with line feeds as line ends. `expected` is one of the names of `file_kinds`.

    Raises: ConfigError if the file does not exist, cannot be read, is empty, is of another known kind, or is not text.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(HEAD_BYTES)
            if b"\0" not in data or data[:2] in _UTF_16_MARKS:  # does not read the rest of a binary file
                data += file.read()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected {expected}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; expected {expected}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from None
    kind = kind_of_bytes(data[:HEAD_BYTES])
    if kind is not None and kind.name != expected and kind is not EMPTY:
        raise ConfigError(f"{path}: {kind.instead_of(expected)}")
    text = _decoded(data, path, expected).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ConfigError(f"{path}: is empty; expected {expected}")
    return text


def _decoded(data: bytes, path: str | os.PathLike[str], expected: str) -> str:
    # Windows editors write a byte order mark before UTF-8, and PowerShell's redirection writes UTF-16 with one.
    encoding = "utf-16" if data[:2] in _UTF_16_MARKS else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise ConfigError(f"{path}: is not text ({byte}); expected {expected}") from None
    if "\0" in text:
        raise ConfigError(f"{path}: is not text (byte 0x00 at {data.index(0)}); expected {expected}")
    return text


def merge_text(
    text: str,
    message: Any,
    source: str,
    *,
    allow_unknown_fields: bool = False,
    on_warning: OnMessage | None = None,
) -> Outline:
    """Merges text into a message, as protobuf's `text_format.Merge` does, and returns the outline of the text.

    With `allow_unknown_fields`, fields and enum values that the schema does not have are omitted, and `on_warning`, by
    default `warnings.warn`, receives a line for each kind.

    Raises: ConfigError for all unknown fields and enum values together, or for the first syntax error or bad value.
    """
    scan = outline(text, message.DESCRIPTOR)
    if scan.strays and not allow_unknown_fields:
        raise ConfigError(_unknown_names(scan, source))
    try:
        text_format.Merge(_without(text, scan.strays), message)
    except text_format.ParseError as error:
        raise ConfigError(_parse_error(error, scan, source)) from None
    for stray, count in _kinds(scan.strays):
        message_text = f"{source}:{stray.line}: {stray.problem}{_times(count)}; ignored"
        warn(message_text, on_warning)
    return scan


def warn(message: str, on_warning: OnMessage | None) -> None:
    """Calls `on_warning`, or `warnings.warn` if it is None."""
    if on_warning is None:
        warnings.warn(message, stacklevel=5)
    else:
        on_warning(message)


def _unknown_names(scan: Outline, source: str) -> str:
    wrong_brace = _wrong_brace(scan, source)
    if wrong_brace is not None:  # the names after it are only its consequences
        return wrong_brace
    quote = next((number for number, stray in enumerate(scan.strays, 1) if stray.hint == AFTER_QUOTE), None)
    kinds = _kinds(scan.strays[:quote])  # the names after a wrong quote are only its consequences
    lines = [
        f"{source}:{stray.line}: {stray.problem}{_times(count)}" + (f", {stray.hint}" if stray.hint else "")
        for stray, count in kinds[:_MOST_KINDS]
    ]
    if len(kinds) > _MOST_KINDS:
        lines.append(f"and {len(kinds) - _MOST_KINDS} other names")
    return "; ".join(lines) + " (--allow-unknown-fields ignores unknown fields)"


def _kinds(strays: list[Stray]) -> list[tuple[Stray, int]]:
    """Returns the first unknown name of each kind, and how many there are."""
    counts = Counter((stray.problem, stray.hint) for stray in strays)
    firsts = {(stray.problem, stray.hint): stray for stray in reversed(strays)}
    return [(firsts[kind], count) for kind, count in counts.items()]


def _times(count: int) -> str:
    return f" ({count} times)" if count > 1 else ""


def _wrong_brace(scan: Outline, source: str) -> str | None:
    """Returns the error for the first field that a missing or extra brace put into the wrong message, or None."""
    for stray in scan.strays:
        if scan.broken is not None and stray.braces:
            return f"{source}:{stray.line}: {stray.problem}, {stray.hint}: {stray.braces}"
    return None


def _without(text: str, strays: list[Stray]) -> str:
    """Returns the text with unknown fields replaced by blanks, so that lines keep their numbers."""
    for stray in strays:
        blank = "".join("\n" if char == "\n" else " " for char in text[stray.start : stray.end])
        end = stray.end
        if not blank.strip("\n ") and text[end : end + 1] in (",", ";"):  # the separator goes with its field
            blank, end = blank + " ", end + 1
        text = text[: stray.start] + blank + text[end:]
    return text


def _parse_error(error: text_format.ParseError, scan: Outline, source: str) -> str:
    """Returns the error in the words of the outline if it found the fault, otherwise in those of text_format."""
    wrong_brace = _wrong_brace(scan, source)
    if wrong_brace is not None:
        return wrong_brace
    line = error.GetLine()
    for bad_line, problem in scan.bad_values:
        if line is None or bad_line == line:
            return f"{source}:{bad_line}: {problem}"
    if scan.broken is not None:
        return f"{source}:{scan.broken[0]}: {scan.broken[1]}"
    reason = _QUOTED_LINE.sub("", str(error)).strip().rstrip(".")
    return f"{source}:{line}: {reason}" if line is not None else f"{source}: {reason}"
