"""How errors are shortened to one line."""

import pytest

from unfreeze.formatting import first_line

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
