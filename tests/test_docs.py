"""The pages that a script writes are up to date, and tests that a page names are there."""

import ast
import re
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_supported_models_are_those_of_the_tables() -> None:
    spec = spec_from_loader("supported", SourceFileLoader("supported", str(ROOT / "scripts" / "supported")))
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == (ROOT / "docs" / "supported.md").read_text(), "run scripts/supported"


def test_every_pitfall_names_an_existing_test() -> None:
    page = (ROOT / "docs" / "pitfalls.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| pitfall")]
    assert rows
    assert [row for row in rows if "::test_" not in row] == []
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", page))
    there = {
        (path.name, node.name)
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named - there == set()
