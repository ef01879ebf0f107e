"""The reference: the model that a SavedModel is compared with."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.export_record import GraphSource
from unfreeze.verification.calls import Call, Outputs, Results
from unfreeze.verification.failures import Failure
from unfreeze.verification.loader_run import LoaderRun, concatenated
from unfreeze.verification.meta_graph import MetaGraph, read_meta_graph
from unfreeze.verification.output_comparison import largest_difference
from unfreeze.verification.sample_calls import (
    SERVING,
    all_batches,
    call_of_source_graph,
    calls_of,
    takes_images,
)
from unfreeze.verification.sample_inputs import SampleInput
from unfreeze.verification.steps import Step
from unfreeze.verification.workers import WorkerProcesses

Model = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # uint8 images [2, H, W, 3] -> outputs by name
PendingOutputs = Callable[[], "list[Outputs] | Failure"]  # waits for the outputs [2, …] for each sample input


@dataclass(frozen=True)
class FrozenGraph:
    """The file of a frozen graph (.pb)."""

    path: Path


Reference = MetaGraph | FrozenGraph | Model


def read_reference(against: str | Path | Model | None) -> Reference | None:
    """Returns what `against` names: a SavedModel folder, a frozen graph or a function.

    Raises: SavedModelError if it is none of them.
    """
    if against is None or callable(against):
        return against
    path = Path(against).absolute()
    if path.is_dir():
        meta_graph = read_meta_graph(path)
        if SERVING not in meta_graph.signatures or not takes_images(meta_graph.signatures[SERVING]):
            raise SavedModelError(
                f"{against}: cannot be compared with: it has no {SERVING} that takes images. Pass another model."
            )
        return meta_graph
    if path.is_file() and path.suffix == ".pb":
        return FrozenGraph(path)
    problem = "neither a SavedModel folder nor a frozen graph (.pb)" if path.exists() else "no such file or folder"
    raise SavedModelError(f"{against}: {problem}")


def start_reference(
    reference: Reference,
    samples: Sequence[SampleInput],
    serving_calls: Sequence[Call],
    source_graph: GraphSource | None,
    workers: WorkerProcesses,
) -> PendingOutputs:
    """Starts the runs of the reference.

    Args:
        serving_calls: those of the SavedModel; its source graph gets the same ones.
    """
    worker = workers.tf1
    if isinstance(reference, MetaGraph):
        signature = reference.signatures[SERVING]
        calls = calls_of(signature, samples, all_batches(signature))
        future = worker.submit(Step.ANY_LOADER, str(reference.path.parent), calls)
        return lambda: outputs_of_samples(LoaderRun(calls, future.result), samples)
    if isinstance(reference, FrozenGraph) and source_graph:
        calls = [call for call in serving_calls if len(call.batch) == 1] or list(serving_calls)
        source_calls = [call_of_source_graph(call, source_graph) for call in calls]
        future = worker.submit(Step.GRAPH, str(reference.path), source_calls)
        return lambda: outputs_of_samples(LoaderRun(calls, future.result), samples)
    if isinstance(reference, FrozenGraph):
        images = [sample.images[index : index + 1] for sample in samples for index in (0, 1)]
        future = worker.submit(Step.OBJECT_DETECTION_GRAPH, str(reference.path), images)
        return lambda: outputs_of_image_pairs(future.result())
    outputs = run_function(reference, samples)
    return lambda: outputs


def outputs_of_samples(run: LoaderRun, samples: Sequence[SampleInput]) -> list[Outputs] | Failure:
    """Returns the outputs for both images of each sample input, or the first failure."""
    outputs = _all_outputs(run.results())
    return outputs if isinstance(outputs, Failure) else [run.singles(sample) or {} for sample in samples]


def outputs_of_image_pairs(results: Results | Failure) -> list[Outputs] | Failure:
    """Joins the outputs for single images, two for each sample input, or returns the first failure."""
    outputs = _all_outputs(results)
    if isinstance(outputs, Failure):
        return outputs
    return [concatenated(outputs[index : index + 2]) for index in range(0, len(outputs), 2)]


def _all_outputs(results: Results | Failure) -> list[Outputs] | Failure:
    return results if isinstance(results, Failure) else results.all_outputs()


def run_function(function: Model, samples: Sequence[SampleInput]) -> list[Outputs] | Failure:
    """Runs a Python function on both images of each sample input."""
    try:
        return [{name: np.asarray(value) for name, value in function(sample.images).items()} for sample in samples]
    except Exception as error:
        return Failure.of(error)


@dataclass(frozen=True)
class ReferenceGraph:
    """A SavedModel in `folder` beside the frozen graph or frozen SavedModel `path` that it was exported from.

    The runtime's graph optimizer folds constants into each other, but not variables, so the two round different
    numbers. Without the optimizer both compute the same sums in the same order, and must be equal to the last bit.
    """

    folder: Path
    path: Path
    source_graph: GraphSource
    workers: WorkerProcesses

    def run_unoptimized(self, calls: Sequence[Call]) -> "Future[tuple[Results, Results] | Failure]":
        """Starts the calls of both, without the graph optimizer."""
        calls = list(calls)
        source_calls = (
            calls if self.path.is_dir() else [call_of_source_graph(call, self.source_graph) for call in calls]
        )
        return self.workers.tf2.submit(Step.UNOPTIMIZED_PAIR, str(self.folder), calls, str(self.path), source_calls)


def reference_graph(
    folder: Path, reference: Reference, source_graph: GraphSource | None, workers: WorkerProcesses
) -> ReferenceGraph | None:
    """Returns the reference as the graph that the SavedModel in `folder` was exported from, if it is that graph."""
    if source_graph is None:
        return None
    if isinstance(reference, FrozenGraph):
        return ReferenceGraph(folder, reference.path, source_graph, workers)
    if isinstance(reference, MetaGraph):
        return ReferenceGraph(folder, reference.path.parent, source_graph, workers)
    return None


def unoptimized_difference(results: tuple[Results, Results] | Failure) -> float | Failure:
    """Returns the largest difference between the outputs of a pair of models, or why there is none."""
    if isinstance(results, Failure):
        return results
    exported, source = (model.all_outputs() for model in results)
    if isinstance(exported, Failure):
        return exported
    if isinstance(source, Failure):
        return source
    largest = 0.0
    for ours, theirs in zip(exported, source, strict=True):
        if set(ours) != set(theirs):
            return Failure(f"only one of the two has the outputs {', '.join(sorted(set(ours) ^ set(theirs)))}")
        largest = max([largest, *(largest_difference(ours[name], value) for name, value in theirs.items())])
    return largest
