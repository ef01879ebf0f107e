"""Errors are shortened to one line, and lists to their first values."""

import pytest

from unfreeze.formatting import first_few, first_line

TENSORFLOW = """Graph execution error:

Detected at node 'decode' defined at (most recent call last):
<stack traces unavailable>
{{function_node __inference_f_12}} {{node map/while/DecodePng}} Unknown image file format.
\t [[{{node map/while/DecodePng}}]] [Op:__inference_signature_wrapper_42]"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("wrong\nmore"), "wrong"),
        (ValueError("\n\n  wrong  \n"), "wrong"),
        (ValueError(), "ValueError"),
        ("text\nmore", "text"),
        (RuntimeError(TENSORFLOW), "Unknown image file format."),
        (RuntimeError("Graph execution error:"), "Graph execution error:"),
        (RuntimeError("{{node a}}"), "{{node a}}"),
        (ValueError("x" * 400), "x" * 297 + "..."),
    ],
)
def test_first_line_is_the_one_that_says_what_is_wrong(error: Exception | str, line: str) -> None:
    assert first_line(error) == line


def test_first_few_counts_the_further_values() -> None:
    assert first_few([], 3) == ""
    assert first_few(["a", "b", "c"], 3) == "a, b, c"
    assert first_few(range(1, 6), 3) == "1, 2, 3 and 2 more"
