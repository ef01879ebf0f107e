"""The result of an inspection: fields for machines and for people, and problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfreeze.formatting import aligned, amount


@dataclass(frozen=True)
class Field:
    """One property: `value` for JSON, `text` for people, in one or more lines; without text it is not printed."""

    name: str
    value: Any
    text: str


SERVING_FINDINGS = "serving_findings"  # the field of what a model server may reject, though the files are right


@dataclass(frozen=True)
class Inspection:
    """The kind of a path, its properties, and its problems; `parts` are the inspections of a folder's contents."""

    path: Path
    kind: str
    fields: Sequence[Field] = ()
    problems: Sequence[str] = ()
    parts: Sequence[Inspection] = ()

    def __getitem__(self, name: str) -> Any:
        return next(field.value for field in self.fields if field.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the inspection as JSON."""
        record: dict[str, Any] = {"path": str(self.path), "kind": self.kind}
        record |= {field.name: field.value for field in self.fields}
        if self.parts:
            record["parts"] = [part.to_dict() for part in self.parts]
        return record | {"problems": list(self.problems)}

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
        yield f"  {self._conclusion()}"
        yield from (f"  - {problem}" for problem in self.problems)

    def _conclusion(self) -> str:
        if self.problems:
            return amount(len(self.problems), "problem")
        findings = sum(len(field.value) for field in self.fields if field.name == SERVING_FINDINGS)
        if findings:
            return f"no problem found in the files; for serving, see the {amount(findings, 'finding')} above"
        return "no problem found"


def field(name: str, value: Any, text: str | None = None) -> Field:
    """Returns a field whose text is the plain form of its value, unless `text` is given."""
    return Field(name, value, _plain(value) if text is None else text)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {item}" for key, item in value.items())
    return "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
