"""What a worker is asked, and what it answers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unfreeze.verification.images import Feed

HEADINGS = ("Graph execution error:", "Detected at node", "Node: ")  # lines of TensorFlow above what is wrong


@dataclass(frozen=True)
class Call:
    """A question to a loaded SavedModel.

    `input_tensor` and the values of `outputs` are names in the graph. Of the `feeds` the first that is understood is
    used: one string may be a picture or a tf.Example. `side` are the other inputs: tensor and value by key.
    """

    signature: str
    input: str
    input_tensor: str
    outputs: Mapping[str, str]
    feeds: Sequence[Feed]
    side: Mapping[str, tuple[str, Feed]] = field(default_factory=dict)

    def fed(self, feed: Feed) -> dict[str, Feed]:
        """Every input by the name of its tensor."""
        return {self.input_tensor: feed, **dict(self.side.values())}


@dataclass(frozen=True)
class Answers:
    """What a loader gave: for each call its answer, or what went wrong, and how long it all took."""

    answers: list[dict[str, np.ndarray] | str]
    load_s: float
    first_s: float
    last_s: float


def answers(run: Callable[[Call, Feed], dict[str, np.ndarray]], calls: Sequence[Call], load_s: float) -> Answers:
    """Ask every call; one that fails does not keep the others from being asked."""
    times: list[float] = []
    given: list[dict[str, np.ndarray] | str] = []
    for call in calls:
        start = time.perf_counter()
        given.append(_answer(run, call))
        times.append(time.perf_counter() - start)
    return Answers(given, load_s, times[0] if times else 0.0, times[-1] if times else 0.0)


def one_line(error: BaseException) -> str:
    """What an error says in its first line, at a readable length; of a session's the one behind its headings."""
    lines = [line.strip() for line in str(getattr(error, "message", "") or error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(HEADINGS)] or lines
    text = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    return text if len(text) <= 300 else text[:297] + "..."


def _answer(run: Callable[[Call, Feed], dict[str, np.ndarray]], call: Call) -> dict[str, np.ndarray] | str:
    problem = "it takes no picture"
    for place, feed in enumerate(call.feeds):
        try:
            return run(call, feed)
        except Exception as error:
            problem = one_line(error) if place == 0 else problem
    return problem
