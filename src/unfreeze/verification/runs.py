"""The runs of a SavedModel with every loader, and of the model that it is compared with.

All runs are started at once; the worker processes do them while the checks wait for the results in turn.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path

from unfreeze.export_record import GraphSource
from unfreeze.verification.calls import Call, Outputs, Results
from unfreeze.verification.failures import Failure
from unfreeze.verification.loader_run import LoaderRun
from unfreeze.verification.meta_graph import MetaGraph
from unfreeze.verification.reference import (
    Model,
    PendingOutputs,
    Reference,
    ReferenceGraph,
    reference_graph,
    run_function,
    start_reference,
    unoptimized_difference,
)
from unfreeze.verification.sample_calls import (
    SERVING,
    all_batches,
    calls_of,
    smallest_batch,
    takes_images,
    takes_images_or_numbers,
)
from unfreeze.verification.sample_inputs import SampleInput
from unfreeze.verification.steps import Step
from unfreeze.verification.weight_digests import TensorDigest
from unfreeze.verification.workers import Worker, WorkerProcesses


@dataclass(frozen=True)
class Loader:
    """A way to load a SavedModel: the check of it, and the step of the worker process that runs it."""

    check: str
    step: Step
    worker: Callable[[WorkerProcesses], Worker]


# In the order in which they are started: the TF2 loader has the most calls, and the others are compared with it.
LOADERS = (
    Loader("tf2_loader", Step.TF2_LOADER, attrgetter("tf2")),
    Loader("tf1_loader", Step.TF1_LOADER, attrgetter("tf1")),
    Loader("cpp_loader", Step.CPP_LOADER, attrgetter("c_api")),
)


@dataclass(frozen=True)
class Subject:
    """The SavedModel that is verified, and what its export recorded about it.

    `input_type` is what strings of `serving_default` are, if that is known. `source_graph` is set if the SavedModel was
    exported from a frozen graph. With `constants` the weights are constants of the graph.
    """

    folder: Path
    meta_graph: MetaGraph
    input_type: str | None = None
    source_graph: GraphSource | None = None
    constants: bool = False


@dataclass(frozen=True)
class Runs:
    """The runs that the checks judge.

    `tensors` are the digests of all variables, or of all constants if the weights are constants. `other_calls` are
    those of the signatures besides `serving_default`. `reference` waits for the outputs of the reference;
    `unoptimized` are the results of both models for the first image, without the graph optimizer.
    """

    subject: Subject
    samples: Sequence[SampleInput]
    workers: WorkerProcesses
    tensors: "Future[dict[str, TensorDigest | Failure] | Failure]"
    loaders: Mapping[str, LoaderRun]
    other_calls: Sequence[Call]
    reference: PendingOutputs | None = None
    reference_graph: ReferenceGraph | None = None
    unoptimized: "Future[tuple[Results, Results] | Failure] | None" = None
    in_memory: list[Outputs] | Failure | None = None

    @property
    def tf2(self) -> LoaderRun:
        """The run with the TF2 loader, with which all others are compared."""
        return self.loaders["tf2_loader"]

    @cached_property
    def reference_outputs(self) -> list[Outputs] | Failure | None:
        """The reference's outputs for both images of each sample input; None if there is no reference."""
        return None if self.reference is None else self.reference()

    @cached_property
    def unoptimized_source(self) -> LoaderRun | None:
        """The reference graph's run of all calls of the TF2 loader, without the graph optimizer.

        None if there is no such graph, or if the SavedModel does not equal it bit for bit even without the optimizer.
        """
        if self.reference_graph is None:
            return None
        results = self.reference_graph.run_unoptimized(self.tf2.calls).result()
        if isinstance(results, Failure) or unoptimized_difference(results) != 0.0:
            return None
        return LoaderRun(self.tf2.calls, lambda: results[1])

    def run_again(self, calls: Sequence[Call]) -> LoaderRun:
        """Starts more calls with the TF2 loader."""
        return _start(LOADERS[0], self.subject.folder, calls, self.workers)


def start_runs(
    subject: Subject,
    samples: Sequence[SampleInput],
    workers: WorkerProcesses,
    *,
    reference: Reference | None,
    in_memory: Model | None,
) -> Runs:
    """Starts every run in the worker processes; functions run in this process meanwhile."""
    serving_calls, smallest_calls = _serving_calls(subject, samples)
    other_calls = _calls_of_other_signatures(subject.meta_graph, samples)
    # The TF1 loader takes half of the other signatures if it has a process of its own.
    tf1_calls = _of_every_second_signature(other_calls) if workers.tf1 is not workers.tf2 else []
    calls = {
        "tf2_loader": serving_calls,
        "tf1_loader": [*smallest_calls, *tf1_calls],
        "cpp_loader": [*smallest_calls, *(call for call in other_calls if call not in tf1_calls)],
    }
    tensors = workers.tf1.submit(Step.CONSTANTS if subject.constants else Step.VARIABLES, str(subject.folder))
    loaders = {loader.check: _start(loader, subject.folder, calls[loader.check], workers) for loader in LOADERS}
    pending_reference, graph, unoptimized = None, None, None
    if reference is not None:
        pending_reference = start_reference(reference, samples, serving_calls, subject.source_graph, workers)
        graph = reference_graph(subject.folder, reference, subject.source_graph, workers)
    if graph is not None:
        unoptimized = graph.run_unoptimized(smallest_calls)
    return Runs(
        subject=subject,
        samples=samples,
        workers=workers,
        tensors=tensors,
        loaders=loaders,
        other_calls=other_calls,
        reference=pending_reference,
        reference_graph=graph,
        unoptimized=unoptimized,
        in_memory=None if in_memory is None else run_function(in_memory, samples),
    )


def _start(loader: Loader, folder: Path, calls: Sequence[Call], workers: WorkerProcesses) -> LoaderRun:
    return LoaderRun(calls, loader.worker(workers).submit(loader.step, str(folder), calls).result)


def _serving_calls(subject: Subject, samples: Sequence[SampleInput]) -> tuple[list[Call], list[Call]]:
    """Returns all calls of `serving_default`, and those with the smallest batch; none if it takes no images."""
    signature = subject.meta_graph.signatures.get(SERVING)
    if signature is None or not (
        takes_images(signature) or (subject.source_graph and takes_images_or_numbers(signature))
    ):
        return [], []
    return (
        calls_of(signature, samples, all_batches(signature), input_type=subject.input_type),
        calls_of(signature, samples, smallest_batch(signature), input_type=subject.input_type),
    )


def _calls_of_other_signatures(meta_graph: MetaGraph, samples: Sequence[SampleInput]) -> list[Call]:
    return [
        call
        for name, signature in sorted(meta_graph.signatures.items())
        if name != SERVING and not meta_graph.is_serving(name) and takes_images(signature)
        for call in calls_of(signature, samples, smallest_batch(signature))
    ]


def _of_every_second_signature(calls: Sequence[Call]) -> list[Call]:
    names = list(dict.fromkeys(call.signature for call in calls))[1::2]
    return [call for call in calls if call.signature in names]
