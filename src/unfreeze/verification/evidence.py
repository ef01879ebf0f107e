"""What the worker processes are asked about a SavedModel, all at once, and where their answers arrive."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.export_record import GraphSource
from unfreeze.verification import sample_inputs as trials
from unfreeze.verification.calls import Answers, one_line
from unfreeze.verification.meta_graph import MetaGraph, read_meta_graph
from unfreeze.verification.reference_graph import Pair, Twin, largest_difference
from unfreeze.verification.sample_inputs import SERVING, Answer, Asked, Case
from unfreeze.verification.weight_digests import TensorDigest
from unfreeze.verification.workers import Reply, WorkerProcesses

Model = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Loaded:
    """What a loader was asked, and its reply to come."""

    asked: list[Asked]
    reply: "Future[Reply[Answers]]"

    def answer(self, asked: Asked) -> Answer | str | None:
        """Give the answer to one question, or what went wrong; None if it was not asked, or nothing came back."""
        answers = self.reply.result().result
        if answers is None:
            return None
        return next((each for own, each in zip(self.asked, answers.answers, strict=True) if own is asked), None)

    def first(self, case: Case, signature: str = SERVING) -> Answer | None:
        """Give a signature's answer to the first picture of a case; None where there is none."""
        answers = self.reply.result().result
        return trials.first(self.asked, answers, case, signature) if answers else None

    def pair(self, case: Case, signature: str = SERVING, *, singles: bool = False) -> Answer | None:
        """Give a signature's answer to both pictures of a case; None where there is none."""
        answers = self.reply.result().result
        return trials.pair(self.asked, answers, case, signature, singles=singles) if answers else None


@dataclass(frozen=True)
class Evidence:
    """Everything that was asked for, in the order in which the workers come to it.

    `graph` says of a SavedModel that was a frozen graph how its inputs and outputs are called there. `twin` can ask
    that graph, and `unoptimized` are the answers of both to the first picture of each case. With `constants` the
    weights are constants of the graph, and `variables` are all of these.
    """

    program: MetaGraph
    tried: list[Case]
    others: list[Asked]
    variables: "Future[Reply[dict[str, TensorDigest | str]]]"
    tf2_loader: Loaded
    tf1_loader: Loaded
    cpp_loader: Loaded
    against: "Loaded | Future[Reply[Answers]] | list[Answer] | str | None"
    in_memory: list[Answer] | str | None
    form: str | None = None
    graph: GraphSource | None = None
    twin: Twin | None = None
    unoptimized: "Future[Pair] | None" = None
    constants: bool = False

    @cached_property
    def as_written(self) -> Answers | None:
        """What the frozen graph answers to all that the TF2 loader is asked, where no optimizer changes a graph.

        None where there is no such graph, or the SavedModel's answers, without one too, are not equal bit for bit.
        """
        reply = None if self.twin is None else self.twin.ask(self.tf2_loader.asked).result()
        return reply.result[1] if reply and reply.result and largest_difference(reply) == 0.0 else None

    def first(self, case: Case) -> Answer | None:
        """Give the TF2 loader's answer to the first picture, which other loaders and signatures are held against."""
        return self.tf2_loader.first(case)

    def reference(self, case: Case) -> Answer | None:
        """Give the answer that other models are held against: the TF2 loader's, to each picture alone."""
        return self.tf2_loader.pair(case, singles=True)

    def together(self, case: Case) -> Answer | None:
        """Give the TF2 loader's answer to both pictures at once."""
        return self.tf2_loader.pair(case)


def gather(
    folder: Path,
    program: MetaGraph,
    tried: list[Case],
    workers: WorkerProcesses,
    *,
    form: str | None,
    against: MetaGraph | Path | Model | None,
    in_memory: Model | None,
    graph: GraphSource | None = None,
    constants: bool = False,
) -> Evidence:
    """Ask the workers everything, and meanwhile the functions in this process."""
    serving = program.signatures.get(SERVING)
    every, first = [], []
    if serving is not None and (trials.takes_pictures(serving) or (graph and trials.takes_numbers(serving))):
        every = trials.questions(serving, tried, trials.alone_and_together(serving), form=form)
        first = trials.questions(serving, tried, trials.first_alone(serving), form=form)
    others = other_questions(program, tried)
    # Half of the other signatures for each of the two that start at once, if they do.
    for_tf1 = others_of(others, slice(1, None, 2)) if workers.tf1 is not workers.tf2 else []
    for_cpp = [each for each in others if each not in for_tf1]
    cpp_loader = Loaded([*first, *for_cpp], workers.c_api.ask("cpp_loader", str(folder), calls([*first, *for_cpp])))
    tf2_loader = Loaded(every, workers.tf2.ask("tf2_loader", str(folder), calls(every)))
    variables = workers.tf1.ask("constants" if constants else "variables", str(folder))
    tf1_loader = Loaded([*first, *for_tf1], workers.tf1.ask("tf1_loader", str(folder), calls([*first, *for_tf1])))
    compared: Any = None
    twin = None
    if isinstance(against, MetaGraph):
        theirs = against.signatures[SERVING]
        asked = trials.questions(theirs, tried, trials.alone_and_together(theirs))
        compared = Loaded(asked, workers.tf1.ask("either_loader", str(against.path.parent), calls(asked)))
        twin = Twin(folder, against.path.parent, graph, workers) if graph else None
    elif isinstance(against, Path) and graph:
        alone = [each for each in every if len(each.batch) == 1] or every
        there = [trials.of_graph(each.call, graph) for each in alone]
        compared = Loaded(alone, workers.tf1.ask("graph", str(against), there))
        twin = Twin(folder, against, graph, workers)
    elif isinstance(against, Path):
        singles = [case.pictures[place : place + 1] for case in tried for place in (0, 1)]
        compared = workers.tf1.ask("frozen_graph", str(against), singles)
    elif against is not None:
        compared = ask_function(against, tried)
    unoptimized = None if twin is None else twin.ask(first)
    return Evidence(
        program=program,
        tried=tried,
        others=others,
        variables=variables,
        tf2_loader=tf2_loader,
        tf1_loader=tf1_loader,
        cpp_loader=cpp_loader,
        against=compared,
        in_memory=None if in_memory is None else ask_function(in_memory, tried),
        form=form,
        graph=graph,
        twin=twin,
        unoptimized=unoptimized,
        constants=constants,
    )


def other_questions(program: MetaGraph, tried: Sequence[Case]) -> list[Asked]:
    """Ask every signature but the serving one that takes pictures for the first of each case."""
    return [
        question
        for name, signature in sorted(program.signatures.items())
        if name != SERVING and not program.is_serving(name) and trials.takes_pictures(signature)
        for question in trials.questions(signature, tried, trials.first_alone(signature))
    ]


def others_of(others: Sequence[Asked], which: slice) -> list[Asked]:
    """Give the questions to some of the signatures."""
    names = list(dict.fromkeys(each.call.signature for each in others))[which]
    return [each for each in others if each.call.signature in names]


def calls(asked: Sequence[Asked]) -> list[Any]:
    """Give what is sent to a worker."""
    return [each.call for each in asked]


def ask_function(function: Model, tried: Sequence[Case]) -> list[Answer] | str:
    """Ask a Python function for both pictures of each case at once; where it fails, say how."""
    try:
        return [{name: np.asarray(value) for name, value in function(case.pictures).items()} for case in tried]
    except Exception as error:
        return one_line(error)


def read_against(against: str | Path | Model | None) -> MetaGraph | Path | Model | None:
    """Tell what the other side is: a SavedModel, a frozen graph, or a function.

    Raises:
        SavedModelError: it is none of them.
    """
    if against is None or callable(against):
        return against
    path = Path(against).absolute()
    if path.is_dir():
        program = read_meta_graph(path)
        if SERVING not in program.signatures or not trials.takes_pictures(program.signatures[SERVING]):
            raise SavedModelError(f"{against}: cannot be compared with, it has no {SERVING} that takes pictures")
        return program
    if path.is_file() and path.suffix == ".pb":
        return path
    what = "neither a SavedModel folder nor a frozen graph (.pb)" if path.exists() else "no such file or folder"
    raise SavedModelError(f"{against}: {what}")
