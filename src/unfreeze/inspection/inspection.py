"""What an inspection found, once: as aligned lines for a person and as a dictionary for a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.formatting import aligned


@dataclass(frozen=True)
class Field:
    """One thing that is known: `value` for a machine, `text` for a person, in one line or several ("" is not shown)."""

    name: str
    value: Any
    text: str


@dataclass(frozen=True)
class Inspection:
    """What a path is, what is known of it, and what is wrong with it; `parts` are the things in a folder of several."""

    path: Path
    kind: str
    fields: Sequence[Field] = ()
    problems: Sequence[str] = ()
    parts: Sequence[Inspection] = ()

    def __getitem__(self, name: str) -> Any:
        return next(field.value for field in self.fields if field.name == name)

    def to_dict(self) -> dict[str, Any]:
        """The findings as JSON can hold them."""
        found: dict[str, Any] = {"path": str(self.path), "kind": self.kind}
        found |= {field.name: field.value for field in self.fields}
        if self.parts:
            found["parts"] = [part.to_dict() for part in self.parts]
        return found | {"problems": list(self.problems)}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.path}: {self.kind}"
        yield from aligned([(field.name.replace("_", " "), field.text) for field in self.fields if field.text])
        if self.parts:
            for part in self.parts:
                yield ""
                yield from part._lines()
            return
        yield (
            f"  {len(self.problems)} problem{'s' * (len(self.problems) != 1)}"
            if self.problems
            else "  no problem found"
        )
        yield from (f"  - {problem}" for problem in self.problems)


def field(name: str, value: Any, text: str | None = None) -> Field:
    """A field that is text as it is, unless `text` says it better."""
    return Field(name, value, _plain(value) if text is None else text)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {each}" for key, each in value.items())
    return "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
