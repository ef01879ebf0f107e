"""Scans a text-format file for the lines of its fields and for names that the schema does not have.

protobuf's text_format stops at the first unknown field, or drops all of them silently, and its messages differ between
versions. This scanner reads the same text before it and only finds positions and better messages: the text is still
parsed by text_format, which decides.

`text_format.Tokenizer` is not used: its positions are private attributes (`_line`, `_column`), it has no offsets into
the text, which are needed to remove unknown fields, and it reads a string without closing quote and the rest of the
line as one token.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# The tokens of protobuf's text format. Strings do not span lines.
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<name>[a-zA-Z_][0-9a-zA-Z_+-]*)
      | (?P<number>(?:[0-9+-]|\.[0-9])[0-9a-zA-Z_.+-]*)
      | (?P<string>"(?:\\[^\n]|[^"\\\n])*"|'(?:\\[^\n]|[^'\\\n])*')
      | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPENERS = {"{": "}", "<": ">", "[": "]"}
_BOOLS = {"true", "t", "1", "True", "false", "f", "0", "False"}
_INTEGERS = {"int32": range(-(2**31), 2**31), "uint32": range(2**32)}
_NOT_FINITE = {"inf", "infinity", "nan"}
_HEX = "[0-9a-fA-F]"
# Escapes that are cut short, such as the \U of "C:\Users", or stand for no byte or character: \640, \ud800.
_BAD_ESCAPE = re.compile(
    rf"\\(?:x(?!{_HEX})|u(?!{_HEX}{{4}})|U(?!{_HEX}{{8}})|[4-7][0-7][0-7]|u[dD][89a-fA-F]|U0000[dD][89a-fA-F]|U(?!00(?:0|10)))"
)
# Fields of old versions of the schema whose successors have other names, by message and field.
REPLACED_FIELDS = {
    ("FasterRcnn", "first_stage_only"): "since January 2018 it is number_of_stages: 1 for true, 2 for false",
}
# The hint for the s of 'driver's seat'.
AFTER_QUOTE = (
    "it follows a closing quote: put a value with quotes inside into the other quotes, or write \\ before them"
)
_WORD = re.compile(r"[^\s,;\[\]{}<>]+")


@dataclass(frozen=True)
class Token:
    """One token, at `text[start:end]`."""

    kind: str
    text: str
    start: int
    end: int
    line: int


@dataclass(frozen=True)
class Stray:
    """A field or an enum value that the schema does not have; `text[start:end]` is the whole field."""

    line: int
    start: int
    end: int
    name: str
    problem: str  # "Ssd has no field 'num_clases'"
    hint: str  # "did you mean 'num_classes'?", or empty
    braces: str = ""  # "is a '}' missing …?", for a file whose braces do not match


@dataclass
class Outline:
    """The result of `outline`."""

    strays: list[Stray] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)  # "model.ssd.num_classes" -> its line, the last one if repeated
    roots: list[int] = field(default_factory=list)  # the lines of the fields of the root message, in order
    bad_values: list[tuple[int, str]] = field(default_factory=list)  # line, message
    broken: tuple[int, str] | None = None  # line and message of the error that ended the scan


class _BrokenError(Exception):
    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.at = (line, problem)


@dataclass(frozen=True)
class _Level:
    """An open message."""

    message: Any  # its descriptor
    opener: Token | None  # the name of the field whose value it is; None for the root
    closer: str
    path: str
    closed: "dict[str, _Level]"  # its fields that are messages and are closed already


def outline(text: str, message: Any) -> Outline:
    """Scans the text of a message, given its descriptor, up to the first syntax error."""
    result = Outline()
    try:
        _Scanner(text, result).fields([_Level(message, None, "", "", {})])
    except _BrokenError as error:
        result.broken = error.at
    return result


def _tokens(text: str) -> Iterator[Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            yield Token(str(match.lastgroup), match.group(), match.start(), match.end(), line)
        line += match.group().count("\n")


class _Scanner:
    def __init__(self, text: str, outline: Outline) -> None:
        self.text, self.outline = text, outline
        self.tokens = list(_tokens(text))
        self.at = 0

    @property
    def token(self) -> Token:
        """The next token; at the end of the text, a token of kind "end"."""
        if self.at < len(self.tokens):
            return self.tokens[self.at]
        end = len(self.text)
        return Token("end", "the end of the file", end, end, self.text.rstrip().count("\n") + 1)

    def take(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def took(self, *marks: str) -> bool:
        if self.token.kind != "mark" or self.token.text not in marks:
            return False
        self.at += 1
        return True

    def fields(self, levels: list[_Level]) -> None:
        """Scans the fields of the innermost open message, up to its closing brace or the end of the file."""
        opener, closer = levels[-1].opener, levels[-1].closer
        while True:
            token = self.token
            if token.kind == "end":
                if opener is None:
                    return
                raise _BrokenError(opener.line, f"'{opener.text}' is opened here and never closed")
            if token.text in ("}", ">") and token.kind == "mark":
                if opener is None:
                    raise _BrokenError(token.line, f"'{token.text}' closes nothing")
                if token.text != closer:
                    where = f"'{opener.text}' (line {opener.line})"
                    raise _BrokenError(token.line, f"expected '{closer}' to close {where}, found '{token.text}'")
                return
            self.field(levels)
            if not self.took(","):
                self.took(";")

    def field(self, levels: list[_Level]) -> None:
        level, name = levels[-1], self.token
        if name.text == "[" and name.kind == "mark":
            self.skip_group()
            self.stray(levels, name, self.text[name.start : self.tokens[self.at - 1].end])
            return
        if name.kind != "name":
            raise _BrokenError(name.line, f"expected the name of a field, found {self.shown()}")
        self.take()
        descriptor = level.message.fields_by_name.get(name.text)
        if descriptor is None:
            self.stray(levels, name, name.text)
            return
        path = f"{level.path}.{name.text}".lstrip(".")
        self.outline.lines[path] = name.line
        if level.opener is None:
            self.outline.roots.append(name.line)
        colon = self.took(":")
        if not colon and descriptor.message_type is None:
            raise _BrokenError(name.line, f"expected ':' after '{name.text}', found {self.shown()}")
        if _repeated(descriptor) and self.took("["):
            while not self.took("]"):
                self.value(levels, name, descriptor, path)
                if not self.took(",") and self.token.text != "]":
                    raise _BrokenError(self.token.line, f"expected ',' or ']' in the list, found {self.shown()}")
        else:
            self.value(levels, name, descriptor, path)

    def value(self, levels: list[_Level], name: Token, descriptor: Any, path: str) -> None:
        if descriptor.message_type is None:
            self.scalar(levels[-1], name, descriptor)
            return
        closer = _OPENERS.get(self.token.text, "")
        if not self.took("{", "<"):
            raise _BrokenError(self.token.line, f"expected '{{' after '{name.text}', found {self.shown()}")
        inner = _Level(descriptor.message_type, name, closer, path, {})
        self.fields([*levels, inner])
        self.take()
        levels[-1].closed[name.text] = inner

    def scalar(self, level: _Level, name: Token, descriptor: Any) -> None:
        value = self.token
        shown = self.shown()
        if value.kind in ("end", "mark"):
            raise _BrokenError(value.line, f"'{name.text}' must be {_expected(descriptor)}, found {shown}")
        self.take()
        while value.kind == "string" and self.token.kind == "string":  # adjacent strings are one
            self.take()
        if descriptor.enum_type is not None and value.kind in ("name", "number"):
            self.enum_value(level, name, descriptor, value)
        elif not _fits(descriptor, value):
            problem = f"'{name.text}' of {level.message.name} must be {_expected(descriptor)}, not {shown}"
            self.outline.bad_values.append((value.line, problem))
        elif value.kind == "string" and _BAD_ESCAPE.search(value.text.replace("\\\\", "")):
            problem = f"'{name.text}' of {level.message.name} has a '\\' that starts no escape; write '/' or '\\\\'"
            self.outline.bad_values.append((value.line, problem))

    def enum_value(self, level: _Level, name: Token, descriptor: Any, value: Token) -> None:
        names = descriptor.enum_type.values_by_name
        if value.text in names or value.text in map(str, descriptor.enum_type.values_by_number):
            return
        problem = f"'{name.text}' of {level.message.name} has no value '{value.text}'"
        near = difflib.get_close_matches(value.text.upper(), names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it is one of {', '.join(names)}"
        self.outline.strays.append(Stray(value.line, name.start, value.end, value.text, problem, hint))

    def stray(self, levels: list[_Level], start: Token, name: str) -> None:
        """Records a field that the schema does not have, and skips its value."""
        hint, braces = _hint(levels, name)
        if self.text[: start.start].endswith(("'", '"')):
            hint = AFTER_QUOTE
        self.skip_value()
        end = self.tokens[self.at - 1].end
        problem = f"{levels[-1].message.name} has no field '{name}'"
        self.outline.strays.append(Stray(start.line, start.start, end, name, problem, hint, braces))

    def skip_value(self) -> None:
        """Skips `: value` or `{ … }`; after a name with neither, such as the s of `"path"s`, skips nothing."""
        colon = self.took(":")
        if self.token.kind == "mark" and self.token.text in _OPENERS:
            self.skip_group()
        elif colon and self.token.kind in ("name", "number"):
            self.take()
        elif colon:
            while self.token.kind == "string":
                self.take()

    def skip_group(self) -> None:
        opener = self.take()
        closers = [_OPENERS[opener.text]]
        while closers:
            if self.token.kind == "end":
                raise _BrokenError(opener.line, f"'{opener.text}' is opened here and never closed")
            token = self.take()
            if token.kind == "mark" and token.text in _OPENERS:
                closers.append(_OPENERS[token.text])
            elif token.kind == "mark" and token.text == closers[-1]:
                closers.pop()

    def shown(self) -> str:
        """Returns the next token as an error shows it: up to the next space."""
        if self.token.kind == "end":
            return self.token.text
        if self.token.text in ("'", '"'):
            return "a string without its closing quote"
        word = _WORD.match(self.text, self.token.start)
        return self.token.text if self.token.kind == "string" or word is None else word.group()[:40]


def _hint(levels: list[_Level], name: str) -> tuple[str, str]:
    """Returns where an unknown name may belong, and which brace may be missing or extra."""
    level = levels[-1]
    replacement = REPLACED_FIELDS.get((level.message.name, name))
    if replacement is not None:
        return replacement, ""
    for outer in reversed(levels[:-1]):
        if name in outer.message.fields_by_name and level.opener is not None:
            opener = f"'{level.opener.text}' (line {level.opener.line})"
            return f"but {outer.message.name} has", f"is a '}}' missing between {opener} and here?"
    inner = _closed_with(level, name)
    if inner is not None:
        return f"but '{inner}' has", "is there an extra '}' above?"
    near = _close(level, name)
    if near:
        return f"did you mean '{near[0]}'?", ""
    children = [field for field in level.message.fields if field.message_type is not None]
    homes = [field.name for field in children if name in field.message_type.fields_by_name]
    return ("it belongs inside " + " or ".join(f"'{home}'" for home in homes) if homes else ""), ""


def _closed_with(level: _Level, name: str) -> str | None:
    """Returns the field, closed before this position, whose message has a field of that name."""
    for child, inner in level.closed.items():
        if name in inner.message.fields_by_name:
            return child
        deeper = _closed_with(inner, name)
        if deeper is not None:
            return deeper
    return None


def _close(level: _Level, name: str) -> list[str]:
    return difflib.get_close_matches(name, level.message.fields_by_name, n=1, cutoff=0.6)


def _repeated(descriptor: Any) -> bool:
    # protobuf 7 has no `label` on field descriptors, protobuf 4 no `is_repeated`.
    if hasattr(descriptor, "is_repeated"):
        return bool(descriptor.is_repeated)
    return bool(descriptor.label == descriptor.LABEL_REPEATED)


def _kind(descriptor: Any) -> str:
    kinds = {
        descriptor.TYPE_BOOL: "bool",
        descriptor.TYPE_INT32: "int32",
        descriptor.TYPE_UINT32: "uint32",
        descriptor.TYPE_FLOAT: "float",
        descriptor.TYPE_STRING: "string",
        descriptor.TYPE_ENUM: "enum",
    }
    return kinds[descriptor.type]


def _expected(descriptor: Any) -> str:
    kind = _kind(descriptor)
    if kind == "enum":
        return f"one of {', '.join(descriptor.enum_type.values_by_name)}"
    return {
        "bool": "true or false",
        "int32": "a whole number (int32)",
        "uint32": "a whole number that is not negative (uint32)",
        "float": "a number",
        "string": "text in quotes",
    }[kind]


def _fits(descriptor: Any, value: Token) -> bool:
    """Returns whether a value has the type of its field; text_format decides, this only finds a better message."""
    kind = _kind(descriptor)
    if kind == "string":
        return value.kind == "string"
    if kind == "bool":
        return value.text in _BOOLS
    if kind in _INTEGERS:
        try:
            return int(value.text, 0) in _INTEGERS[kind]
        except ValueError:
            return False
    try:
        return value.text.lower().lstrip("+-") in _NOT_FINITE or float(value.text.rstrip("fF")) is not None
    except ValueError:
        return False
