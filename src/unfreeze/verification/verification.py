"""Verifies a SavedModel: runs every check, and collects the results in one report."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import SavedModelError
from unfreeze.export_record import ExportRecord, read_record
from unfreeze.verification import run_checks, static_checks
from unfreeze.verification.file_checks import file_digests
from unfreeze.verification.meta_graph import MetaGraph, read_meta_graph
from unfreeze.verification.output_comparison import Tolerances
from unfreeze.verification.reference import Model, read_reference
from unfreeze.verification.report import TITLES, Check, Report, Status
from unfreeze.verification.runs import Subject, start_runs
from unfreeze.verification.sample_inputs import DETECTOR_SIZE, GRAPH_SIZE, Image, sample_inputs
from unfreeze.verification.weight_digests import ExpectedWeight, recorded_weights, weights_record
from unfreeze.verification.workers import WorkerProcesses


def verify_saved_model(
    saved_model: str | Path,
    *,
    weights: Mapping[str, ExpectedWeight] | None = None,
    against: str | Path | Model | None = None,
    against_name: str | None = None,
    in_memory: Model | None = None,
    images: Sequence[Image] = (),
    tolerances: Tolerances | None = None,
    record: ExportRecord | None = None,
    workers: WorkerProcesses | None = None,
    on_progress: OnMessage = ignore,
) -> Report:
    """Returns the report of all checks of a SavedModel folder; a check that fails does not stop the others.

    Args:
        weights: key of the checkpoint -> its variable and value; default: those of `record`.
        against: a frozen graph (.pb), a SavedModel folder or a function that must return the same outputs. A function
            takes uint8 images `[2, H, W, 3]` and returns the outputs by name.
        against_name: the name of `against` in the report; default: its path.
        in_memory: the model that was saved, as such a function.
        images: images to run, files, uint8 `[H, W, 3]` or sample inputs; default: a generated image.
        tolerances: how far the outputs may differ from those of `against`.
        record: the record of the export; default: the export.json in the folder or beside it.
        workers: worker processes that were started earlier.

    Raises:
        SavedModelError: `saved_model` or `against` is not a model.
        ImageError: an image cannot be read.
    """
    folder = Path(saved_model).absolute()
    if not (folder / "saved_model.pb").is_file():
        read_meta_graph(folder)  # raises what is wrong
    record = record or read_record(folder) or ExportRecord()
    reference = read_reference(against)
    files = file_digests(folder)
    try:
        subject = read_subject(folder, record)
    except SavedModelError as error:
        return unreadable_report(folder, str(error))
    expected = recorded_weights(record.weights) if weights is None else weights
    reference_graphs = [reference] if isinstance(reference, MetaGraph) else []
    default_size = GRAPH_SIZE if subject.source_graph else DETECTOR_SIZE
    samples = sample_inputs([subject.meta_graph, *reference_graphs], images, default_size)
    reference_name = against_name or ("" if callable(against) else str(against))
    with ExitStack() as stack:
        on_progress("starting the loaders")
        processes = workers or stack.enter_context(WorkerProcesses())
        runs = start_runs(subject, samples, processes, reference=reference, in_memory=in_memory)
        steps: dict[str, Callable[[], Check]] = {
            "files": lambda: static_checks.check_files(runs, files, record.files),
            "signature": lambda: static_checks.check_signature(subject),
            "weights": lambda: static_checks.check_weights(runs, expected),
            "tf2_loader": lambda: run_checks.check_loader("tf2_loader", runs),
            "batch": lambda: run_checks.check_batch(runs),
            "in_memory": lambda: run_checks.check_in_memory(runs),
            "tf1_loader": lambda: run_checks.check_loader("tf1_loader", runs),
            "cpp_loader": lambda: run_checks.check_loader("cpp_loader", runs),
            "other_signatures": lambda: run_checks.check_other_signatures(runs),
            "against": lambda: run_checks.check_against(runs, reference_name, tolerances or Tolerances()),
        }
        if in_memory is None:
            del steps["in_memory"]  # only a program that has just saved a model can run it
        results = []
        for name, check in steps.items():
            on_progress(f"checking: {TITLES[name]}")
            results.append(check())
        stored = static_checks.readable(runs.tensors.result())
        return Report(
            folder,
            tuple(results),
            ExportRecord(weights=weights_record(expected, stored), files=files),
            run_checks.image_results(runs),
        )


def read_subject(folder: Path, record: ExportRecord) -> Subject:
    """Returns the SavedModel and what its export recorded about it.

    Raises: SavedModelError if saved_model.pb cannot be read.
    """
    return Subject(
        folder,
        read_meta_graph(folder),
        input_type=record.input_type,
        source_graph=record.graph,
        constants=record.has_constant_weights,
    )


def unreadable_report(folder: Path, problem: str) -> Report:
    """Returns the report of a saved_model.pb that cannot be read: all checks but the first are skipped."""
    skipped = (Check(name, Status.SKIPPED, "saved_model.pb cannot be read") for name in TITLES if name != "files")
    return Report(folder, (Check("files", Status.FAILED, problem), *skipped))
