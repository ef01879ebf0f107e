"""Numbers, rows and errors as a report prints them."""

import re
from collections.abc import Iterator, Sequence

TENSORFLOW_HEADINGS = ("Graph execution error", "Detected at node", "Node: ", "<stack traces unavailable>")
NODE_NAMES = re.compile(r"^(\{\{\w+ [^}]*\}\}\s*)+")  # {{function_node __inference_…}} {{node …}}


def amount(number: int, noun: str = "") -> str:
    """Returns a count with its noun: `1,234 tensors`, `1 tensor`."""
    return f"{number:,} {noun}{'s' * (number != 1)}" if noun else f"{number:,}"


def first_few(values: Sequence[object], most: int) -> str:
    """Returns at most `most` values and the number of further ones: `a, b, c and 4 more`."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def megabytes(size_bytes: int) -> str:
    """Returns a size as `24.4 MB`."""
    return f"{size_bytes / 1e6:.1f} MB"


def aligned(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yields rows of a label and a text, with the texts in one column; a text may have several lines."""
    width = max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        first, *others = text.splitlines()
        yield f"  {label:<{width}}  {first}"
        yield from (f"  {'':<{width}}  {line}" for line in others)


def first_line(error: BaseException | str, limit: int = 300) -> str:
    """Returns the first line of an error's message that says something, cut to `limit` characters; else its type.

    Empty lines are skipped, and so are the headings and node names that TensorFlow puts before what is wrong.
    """
    message = str(getattr(error, "message", "") or error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(TENSORFLOW_HEADINGS)] or lines or [type(error).__name__]
    text = NODE_NAMES.sub("", useful[0]) or useful[0]
    return text if len(text) <= limit else text[: limit - 3] + "..."
