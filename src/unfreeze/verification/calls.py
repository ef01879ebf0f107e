"""One call of a loaded model, and what it returns. The worker processes receive calls and send back results."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unfreeze.verification.failures import Failure
from unfreeze.verification.feeds import Feed

Outputs = dict[str, np.ndarray]
Batch = tuple[int, ...]  # the indices of a sample input's images that are in the batch


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a signature, with a batch of images of one sample input.

    `input_tensor` and the values of `outputs` are names in the graph. `feeds` are the forms that the batch can have,
    since a string may be an encoded image or a tf.Example: the first one that the model accepts is used. `side_inputs`
    are the other inputs: tensor and value by key. Two calls are never equal, even with the same arguments.
    """

    signature: str
    input: str
    input_tensor: str
    outputs: Mapping[str, str]
    feeds: Sequence[Feed]
    side_inputs: Mapping[str, tuple[str, Feed]] = field(default_factory=dict)
    sample: str = ""
    batch: Batch = (0,)

    def fed_by_key(self, feed: Feed) -> dict[str, Feed]:
        """Returns the value of every input by its key in the signature."""
        return {self.input: feed, **{key: value for key, (_, value) in self.side_inputs.items()}}

    def fed_by_tensor(self, feed: Feed) -> dict[str, Feed]:
        """Returns the value of every input by the name of its tensor."""
        return {self.input_tensor: feed, **dict(self.side_inputs.values())}


@dataclass(frozen=True)
class Results:
    """The results of one model: the outputs or the failure of each call, and how long loading and calling took."""

    outputs: list[Outputs | Failure]
    load_s: float
    first_s: float
    last_s: float

    def all_outputs(self) -> list[Outputs] | Failure:
        """Returns the outputs of all calls, or the first failure."""
        outputs: list[Outputs] = []
        for result in self.outputs:
            if isinstance(result, Failure):
                return result
            outputs.append(result)
        return outputs


Run = Callable[[Call, Feed], Outputs]


def run_calls(run: Run, calls: Sequence[Call], load_s: float) -> Results:
    """Runs every call; one that fails does not stop the others."""
    times: list[float] = []
    outputs: list[Outputs | Failure] = []
    for call in calls:
        start = time.perf_counter()
        outputs.append(_run_first_accepted_feed(run, call))
        times.append(time.perf_counter() - start)
    return Results(outputs, load_s, times[0] if times else 0.0, times[-1] if times else 0.0)


def _run_first_accepted_feed(run: Run, call: Call) -> Outputs | Failure:
    failures = []
    for feed in call.feeds:
        try:
            return run(call, feed)
        except Exception as error:
            failures.append(Failure.of(error))
    return failures[0] if failures else Failure("the input takes no images")
