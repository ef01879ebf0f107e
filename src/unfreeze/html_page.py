"""Templates of HTML pages, which escape every value: names in models and annotations may contain any text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def page_template(path: Path, **filters: Callable[..., str]) -> Template:
    """Returns a template with these filters; it raises an error for a name that has no value."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters.update(filters)
    return environment.from_string(path.read_text(encoding="utf-8"))
