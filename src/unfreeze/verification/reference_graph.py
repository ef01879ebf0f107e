"""A SavedModel beside the frozen graph that it was, each run as it is written.

The runtime's optimizer of graphs folds constants into each other, but not variables, so that other numbers are rounded.
Without it the two are the same sums in the same order, and must be equal to the last bit.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from unfreeze.export_record import GraphSource
from unfreeze.verification import sample_inputs as trials
from unfreeze.verification.calls import Answers
from unfreeze.verification.output_comparison import furthest
from unfreeze.verification.sample_inputs import Asked
from unfreeze.verification.workers import Reply, WorkerProcesses

Pair = Reply[tuple[Answers, Answers]]

# In the record of a graph: that its answer to a picture depends on what else is in the batch.
MIXES_BATCH = "mixes_batch"


@dataclass(frozen=True)
class Twin:
    """The SavedModel in `folder`, and the graph in the file, or the SavedModel, `path`.

    `graph` tells how the tensors of a file are called; a SavedModel has the same signature.
    """

    folder: Path
    path: Path
    graph: GraphSource
    workers: WorkerProcesses

    def ask(self, asked: Sequence[Asked]) -> "Future[Pair]":
        """Ask both, without the optimizer."""
        ours = [each.call for each in asked]
        theirs = ours if self.path.is_dir() else [trials.of_graph(call, self.graph) for call in ours]
        return self.workers.tf2.ask("unoptimized", str(self.folder), ours, str(self.path), theirs)


def largest_difference(reply: Pair) -> float | str:
    """The largest difference of all outputs; or why they were not compared."""
    if reply.result is None:
        return reply.problem
    largest = 0.0
    for ours, theirs in zip(reply.result[0].answers, reply.result[1].answers, strict=True):
        if isinstance(ours, str) or isinstance(theirs, str):
            return ours if isinstance(ours, str) else str(theirs)
        if set(ours) != set(theirs):
            return f"one has {', '.join(sorted(set(ours) ^ set(theirs)))}, the other not"
        largest = max([largest, *(furthest(ours[name], value) for name, value in theirs.items())])
    return largest
