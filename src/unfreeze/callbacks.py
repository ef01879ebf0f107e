"""Callbacks by which long work reports to its caller."""

from collections.abc import Callable

OnMessage = Callable[[str], None]  # receives one line: the step that begins, or a warning
OnAdvance = Callable[[int, int], None]  # receives how many items are done, and of how many


def ignore(message: str) -> None:
    """Does nothing with a message: the default of an `OnMessage` argument."""
