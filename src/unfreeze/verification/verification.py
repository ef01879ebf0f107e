"""Verify a SavedModel: a list of checks, all of them made, then told together."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.export_record import ExportRecord, read_record
from unfreeze.verification import checks, file_checks, weight_digests
from unfreeze.verification import sample_inputs as trials
from unfreeze.verification.evidence import Model, gather, read_against
from unfreeze.verification.meta_graph import MetaGraph, read_meta_graph
from unfreeze.verification.output_comparison import Tolerances
from unfreeze.verification.report import FAILED, SKIPPED, TITLES, Check, Report
from unfreeze.verification.weight_digests import ExpectedWeight
from unfreeze.verification.workers import WorkerProcesses


def verify_saved_model(
    saved_model: str | Path,
    *,
    weights: Mapping[str, ExpectedWeight] | None = None,
    against: str | Path | Model | None = None,
    against_name: str | None = None,
    in_memory: Model | None = None,
    images: Sequence[str | Path | np.ndarray] = (),
    tolerances: Tolerances | None = None,
    record: ExportRecord | None = None,
    workers: WorkerProcesses | None = None,
    on_progress: Callable[[str], None] = lambda step: None,
) -> Report:
    """Check everything that can be checked of a SavedModel folder; a check that fails does not stop the others.

    Args:
        weights: key of the checkpoint -> its variable and value; default: those of `record`.
        against: a frozen graph (.pb), a SavedModel folder or a function that must answer the same. A function takes
            uint8 pictures `[2, H, W, 3]` and gives the outputs by name.
        against_name: what the report calls it; default: its path.
        in_memory: the model that was saved, as such a function.
        images: pictures to try, files or uint8 `[H, W, 3]`, instead of an artificial one.
        tolerances: how far `against` may differ.
        record: the record of the export; default: the export.json in the folder or beside it.
        workers: worker processes that were started earlier.

    Raises:
        SavedModelError: `saved_model` or `against` is not what it should be.
        ImageError: an image cannot be read.
    """
    folder = Path(saved_model).absolute()
    if not (folder / "saved_model.pb").is_file():
        read_meta_graph(folder)  # raises what is wrong
    record = record or read_record(folder) or ExportRecord()
    other = read_against(against)
    digests = file_checks.file_digests(folder)
    try:
        program = read_meta_graph(folder)
    except SavedModelError as error:
        return unreadable(folder, str(error))
    form, graph = record.input_type, record.graph
    constants = record.has_constant_weights
    usual = trials.STRIDED_SIZE if graph else trials.USUAL_SIZE
    tried = trials.cases([program, other] if isinstance(other, MetaGraph) else [program], images, usual)
    if weights is None:
        weights = weight_digests.recorded_weights(record.weights)
    with ExitStack() as stack:
        workers = workers or stack.enter_context(WorkerProcesses())
        on_progress("loading it in processes of their own")
        evidence = gather(
            folder,
            program,
            tried,
            workers,
            form=form,
            against=other,
            in_memory=in_memory,
            graph=graph,
            constants=constants,
        )
        steps: dict[str, Callable[[], Check]] = {
            "files": lambda: checks.check_files(folder, evidence, digests, record.files),
            "signature": lambda: checks.check_signature(program, graph),
            "weights": lambda: checks.check_weights(evidence, weights),
            "tf2_loader": lambda: checks.check_loader("tf2_loader", evidence, evidence.tf2_loader),
            "batch": lambda: checks.check_batch(folder, evidence, workers),
            "in_memory": lambda: checks.check_in_memory(evidence),
            "tf1_loader": lambda: checks.check_loader("tf1_loader", evidence, evidence.tf1_loader),
            "cpp_loader": lambda: checks.check_loader("cpp_loader", evidence, evidence.cpp_loader),
            "other_signatures": lambda: checks.check_other_signatures(folder, evidence, workers),
            "against": lambda: checks.check_against(evidence, against_name or against, tolerances or Tolerances()),
        }
        if in_memory is None:
            del steps["in_memory"]  # of use to whoever writes a SavedModel, and only there
        made = []
        for name, step in steps.items():
            on_progress(f"checking: {TITLES[name]}")
            made.append(step())
        stored = checks.readable(evidence.variables.result())
        seen = checks.pictures_seen(evidence)
    return Report(
        folder, tuple(made), ExportRecord(weights=weight_digests.weights_record(weights, stored), files=digests), seen
    )


def unreadable(folder: Path, problem: str) -> Report:
    """Report a saved_model.pb that says nothing."""
    rest = (Check(name, SKIPPED, "saved_model.pb cannot be read") for name in TITLES if name != "files")
    return Report(folder, (Check("files", FAILED, problem), *rest))
