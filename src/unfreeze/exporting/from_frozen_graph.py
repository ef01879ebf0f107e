"""Exports a frozen graph as a verified SavedModel, with its weights as variables again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.errors import UnsupportedError
from unfreeze.export_record import ExportRecord, GraphConstant, GraphSource, MovingAverages, file_digest
from unfreeze.exporting.graph_plan import GraphPlan, describe_plan, plan_graph
from unfreeze.exporting.job import CHECKPOINT, Exported, graph_export_job
from unfreeze.exporting.sources import Labels, checkpoint_source, read_labels
from unfreeze.graphs import constants_to_variables
from unfreeze.memory import release_memory
from unfreeze.savedmodel import (
    as_tensor,
    possible_input_types,
    save_tensors,
    signatures_to_write,
    variable_key,
    write_fingerprint,
    write_graph_saved_model,
)
from unfreeze.verification import ExpectedWeight, Report, WorkerProcesses
from unfreeze.weights.saving import write_state_file


def export_frozen_graph(
    graph: str | Path,
    *,
    trained_checkpoint_prefix: str | Path | None = None,
    pipeline_config_path: str | Path | None = None,
    output_directory: str | Path | None = None,
    graph_inputs: Mapping[str, str] | None = None,
    graph_outputs: Mapping[str, str] | None = None,
    input_types: Sequence[str] = (),
    label_map: str | Path | None = None,
    step: int | None = None,
    write_checkpoint: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
    verify: bool = True,
    report_path: str | Path | None = None,
    workers: WorkerProcesses | None = None,
    on_progress: OnMessage = ignore,
    on_warning: OnMessage = ignore,
) -> Exported:
    """Exports a frozen graph as a SavedModel, and verifies it before it is in place.

    The arguments are those of `unfreeze.export` (exporting/export.py), which calls this.

    Raises:
        UnfreezeError: one of its subclasses (errors.py); nothing is left behind. VerificationError: a check failed.
    """
    job = graph_export_job(
        output_directory=output_directory,
        write_checkpoint=write_checkpoint,
        overwrite=overwrite or dry_run,
        verify=verify,
        report_path=report_path,
        workers=workers,
        on_progress=on_progress,
    )
    labels = read_labels(label_map)
    on_progress(f"reading {graph}")
    plan = plan_graph(
        graph,
        trained_checkpoint_prefix,
        pipeline_config_path,
        graph_inputs,
        graph_outputs,
        step=step,
        on_warning=on_warning,
    )
    if dry_run:
        return Exported(job.target, ExportRecord(), None, describe_plan(plan))
    types = _signatures(plan, input_types)
    with job.staged() as staged:
        on_progress(f"writing {len(plan.parameters.variables)} variables")
        with staged.writing():
            _write_saved_model(plan, staged.saved_model, types, labels)
            if write_checkpoint:
                _write_checkpoint(plan, staged.folder)
        plan = plan.without_graph()
        release_memory()  # frees the graph and the functions traced around it
        write_fingerprint(staged.saved_model)
        record = _record(plan, types)
        weights = _expected_weights(plan)
        report = staged.verify(record, weights, against=_unchanged_graph(plan), against_name=str(plan.frozen.path))
        return staged.finish(_with_batch_finding(record, report), weights, report)


def _signatures(plan: GraphPlan, input_types: Sequence[str]) -> tuple[str, ...]:
    """Returns the input types to write.

    Raises:
        UnsupportedError: the input of the graph cannot take a requested input type.
    """
    possible = possible_input_types(plan.inputs)
    for name in input_types:
        if name not in possible:
            supported = ", ".join(possible) or "none, since it has not one input for images with pixels of 0 to 255"
            raise UnsupportedError(
                f"not supported yet: --input-type {name} with {plan.frozen.path}; supported for this graph: {supported}"
            )
    return signatures_to_write(input_types, possible, possible)


def _write_saved_model(plan: GraphPlan, folder: Path, input_types: Sequence[str], labels: Labels | None) -> None:
    write_graph_saved_model(
        constants_to_variables(plan.frozen, plan.parameters.variables),
        plan.inputs,
        plan.endpoints.outputs,
        plan.value,
        folder,
        input_types=input_types,
        label_map=labels,
    )


def _write_checkpoint(plan: GraphPlan, folder: Path) -> None:
    """Writes a TensorFlow 1 checkpoint with each variable under its name, as the Object Detection API restores it."""
    names = [parameter.name for parameter in plan.parameters.variables]
    save_tensors(str(folder / CHECKPOINT), {name: as_tensor(plan.value(name)) for name in names})
    write_state_file(folder, CHECKPOINT)


def _unchanged_graph(plan: GraphPlan) -> Path | None:
    """Returns the graph, for the comparison of outputs; None if the checkpoint changed a weight."""
    path = plan.frozen.path
    unchanged = plan.checkpoint is None or all(
        np.array_equal(plan.value(p.name), plan.frozen.tensor(p.place)) for p in plan.parameters.variables
    )
    if not unchanged:
        return None
    return path.parent if plan.frozen.signatures else path


def _expected_weights(plan: GraphPlan) -> dict[str, ExpectedWeight]:
    """Returns the variable of each weight, and its value, by its key in the checkpoint or its name in the graph."""
    return {
        plan.sources.get(p.name, p.name): ExpectedWeight(variable_key(p.name), partial(plan.value, p.name))
        for p in plan.parameters.variables
    }


def _record(plan: GraphPlan, input_types: Sequence[str]) -> ExportRecord:
    """Returns the part of the record that says what was exported."""
    path = plan.frozen.path
    digest = file_digest(path)
    graph = GraphSource(
        path=str(path),
        size_bytes=digest.size_bytes,
        sha256=digest.sha256,
        producer=plan.frozen.graph.versions.producer,
        inputs={key: end.tensor for key, end in plan.endpoints.inputs.items()},
        outputs={key: end.tensor for key, end in plan.endpoints.outputs.items()},
        variables=[
            GraphConstant(p.place[1], p.place[0], p.shape, p.dtype.name, p.reason, p.name)
            for p in plan.parameters.variables
        ],
        constants=[
            GraphConstant(c.place[1], c.place[0], c.shape, c.dtype.name, c.reason) for c in plan.parameters.constants
        ],
    )
    record = ExportRecord(graph=graph, input_type=input_types[0] if input_types else None, input_types=input_types)
    if plan.checkpoint is None:
        return record
    averaged = sum(name != source for name, source in plan.sources.items())
    return replace(record, checkpoint=checkpoint_source(plan.checkpoint), moving_averages=MovingAverages(averaged))


def _with_batch_finding(record: ExportRecord, report: Report | None) -> ExportRecord:
    """Returns the record with a result of the verification: whether the graph mixes the images of a batch."""
    mixes_batch = report is not None and report.mixes_batch
    return replace(record, graph=record.graph and replace(record.graph, mixes_batch=mixes_batch))
