"""The commands and the Python code in the docs, as their readers would run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "digits" / "README.md"]

# Parts of a command that a reader replaces with something of their own, or that a test can't reach.
PLACEHOLDERS = ("://", "BUCKET", "HOST", "ENDPOINT", "…", "...")
ENDLESS = {"serve", "watch"}  # they run until they are stopped; their own tests run them
FORMAT_EXPORTS = tuple(f"build/digits-{name}" for name in ("onnx", "openvino", "tflite", "frozen_graph"))
CLUSTER = "ray"  # test_predict_ray.py


class Command(NamedTuple):
    """A command line of a page: `arguments` begin with `unfreeze` or the name of a module."""

    page: str
    line: int
    arguments: tuple[str, ...]

    @property
    def works_alone(self) -> bool:
        """Whether it works as it stands, without a server, a cloud or an end that a reader brings about."""
        text = " ".join(self.arguments)
        endless = self.arguments[1] in ENDLESS and "--once" not in self.arguments
        elsewhere = endless or "--serve" in self.arguments or CLUSTER in self.arguments
        return not elsewhere and not any(part in text for part in PLACEHOLDERS)

    @property
    def is_of_format(self) -> bool:
        """Whether it writes or uses an export of the example in another format: test_formats.py runs these."""
        return self.works_alone and any(argument.startswith(FORMAT_EXPORTS) for argument in self.arguments)

    @property
    def is_runnable(self) -> bool:
        """Whether it works as it stands, in a folder that has `examples/` and `build/digits`."""
        return self.works_alone and not self.is_of_format


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The line number and the text of each code block of a language."""
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in pattern.finditer(text)]


def commands(page: Path) -> list[Command]:
    """Every `$ unfreeze …` and `$ python -m unfreeze.…` of a page, in order."""
    listed = []
    for start, block in blocks(page, "console"):
        lines = block.split("\n")
        for number, line in enumerate(lines):
            if not line.startswith("$ "):
                continue
            text, following = line[2:], number
            while text.endswith("\\"):
                following += 1
                text = text[:-1] + lines[following]
            words = shlex.split(text, comments=True)
            if words[:2] == ["python", "-m"] and words[2].startswith("unfreeze"):
                words = words[2:]
            if words and words[0].startswith("unfreeze"):
                listed.append(Command(str(page.relative_to(ROOT)), start + number, tuple(words)))
    return listed
