"""A frozen graph to an unfrozen SavedModel that has been proved: its constants are variables again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from unfreeze import verification
from unfreeze.errors import ConfigError, UnsupportedError, WeightsError
from unfreeze.export_record import RECORD
from unfreeze.exporting.record import (
    Exported,
    Labels,
    Say,
    checkpoint_record,
    labels_of,
    require_report,
    sha256,
    types_to_write,
    verification_record,
    worker_processes,
    write_record,
    written_by,
)
from unfreeze.graphs import (
    Ends,
    FrozenGraph,
    Parameters,
    find_ends,
    find_parameters,
    prune,
    read_frozen,
    require_harmless,
    unfrozen,
)
from unfreeze.inspection.graphs import constant_fields
from unfreeze.inspection.inspection import Inspection, field
from unfreeze.memory import release_memory
from unfreeze.model_paths import find_pipeline_config
from unfreeze.savedmodel import as_tensor, doors, save_tensors, variable_key, write_fingerprint, write_unfrozen
from unfreeze.savedmodel import input_types as possible_input_types
from unfreeze.staging import not_written, staged
from unfreeze.verification.reference_graph import MIXES_BATCH
from unfreeze.weights import MOVING_AVERAGE, Checkpoint, open_checkpoint, training_state

CHECKPOINT = "model.ckpt"
ENTRIES = ("saved_model", RECORD)
CHECKPOINT_ENTRIES = ("checkpoint", f"{CHECKPOINT}.index", f"{CHECKPOINT}.data-00000-of-00001")


@dataclass(frozen=True)
class Plan:
    """What is to be made of a graph: where it takes and gives, and which constants become variables.

    `sources` says which tensor of the checkpoint each variable takes; it is empty where they keep the graph's values.
    """

    frozen: FrozenGraph
    ends: Ends
    placeholders: Mapping[str, str]
    parameters: Parameters
    checkpoint: Checkpoint | None
    sources: Mapping[str, str]

    def value(self, name: str) -> np.ndarray:
        """The value of a variable."""
        if self.checkpoint is not None:
            return self.checkpoint.read(self.sources[name])
        return self.frozen.tensor(self._places[name])

    def without_graph(self) -> Plan:
        """What is left to be known once the graph is written; it is not in memory any more."""
        graph = graph_pb2.GraphDef(versions=self.frozen.graph.versions)
        return replace(self, frozen=replace(self.frozen, graph=graph))

    @cached_property
    def _places(self) -> Mapping[str, Any]:
        return {parameter.name: parameter.place for parameter in self.parameters.found}


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
    workers: verification.WorkerProcesses | None = None,
    on_progress: Say | None = None,
    on_warning: Say | None = None,
) -> Exported:
    """Write a frozen graph as an unfrozen, servable SavedModel, and prove it before it is put in place.

    Args:
        graph: a frozen graph (.pb), or a SavedModel whose weights are constants.
        trained_checkpoint_prefix: a checkpoint of the same training, whose tensors the variables take.
        pipeline_config_path: tells whether those are the moving averages; by default the pipeline.config beside it.
        output_directory: where saved_model/ and export.json go; by default `exported`.
        graph_inputs, graph_outputs: tensors of the graph by signature key, where their names do not show what they
            are.
        input_types: what `serving_default` takes; without it what the graph takes.
        label_map: goes to assets/, and adds the signature `named`, which tells class names.
        step: of the checkpoint, where `trained_checkpoint_prefix` is a folder.
        write_checkpoint: whether to write a TensorFlow 1 checkpoint of the variables too.
        dry_run: report what would be exported (`Exported.dry_run`), and write nothing.
        verify: whether the result is loaded again, run and compared with the frozen graph before it is in place.
        report_path: an HTML file of all that was exported and proved (verbs/html_report.py), also if a check fails.

    Raises:
        UnfreezeError: of the kind that fits (errors.py); nothing is left behind. VerificationError: a check failed.
    """
    say, warn = on_progress or (lambda line: None), on_warning or (lambda line: None)
    html = require_report(report_path, verify=verify, overwrite=overwrite)
    labels = labels_of(label_map)
    target = Path(output_directory) if output_directory is not None else Path("exported")
    entries = (*ENTRIES, *(CHECKPOINT_ENTRIES if write_checkpoint else ()))
    say(f"reading {graph}")
    plan = planned(
        graph,
        trained_checkpoint_prefix,
        pipeline_config_path,
        graph_inputs or {},
        graph_outputs or {},
        step=step,
        on_warning=warn,
    )
    if dry_run:
        return Exported(target, {}, None, described(plan))
    types = _input_types(plan, input_types)
    with (
        staged(target, entries, overwrite=overwrite) as staging,
        worker_processes(verify, workers) as processes,
    ):
        say(f"writing {len(plan.parameters.found)} variables")
        _write(plan, staging, types, labels, write_checkpoint)
        plan = plan.without_graph()
        release_memory()  # of the graph, and of what was traced around it
        write_fingerprint(staging / "saved_model")
        record = _record(plan, types)
        report = None if processes is None else _prove(plan, staging / "saved_model", record, processes, say)
        if report is not None and any(MIXES_BATCH in check.numbers for check in report.checks):
            record["graph"][MIXES_BATCH] = True
        record |= verification_record(report, _weights(plan))
        write_record(staging, record, report, target, html)
        say("putting it in place")
    return Exported(target, record, report)


def planned(
    graph: str | Path,
    trained_checkpoint_prefix: str | Path | None,
    pipeline_config_path: str | Path | None,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    step: int | None = None,
    on_warning: Say = lambda line: None,
) -> Plan:
    """Read a graph and tell what becomes of it; nothing of it is run.

    Raises: UnsupportedError, SavedModelError, CheckpointError, WeightsError.
    """
    frozen = read_frozen(graph)
    if not frozen.signatures:
        require_harmless(frozen)
    ends = find_ends(frozen, inputs, outputs)
    placeholders = prune(frozen, ends)
    if frozen.signatures:  # a SavedModel has more in it, to save and restore
        require_harmless(frozen)
    if trained_checkpoint_prefix is None:
        parameters = find_parameters(frozen)
        if not parameters.found:
            raise UnsupportedError(f"{graph}: it has no weights: none of its constants is a parameter of an operation")
        return Plan(frozen, ends, placeholders, parameters, None, {})
    checkpoint = open_checkpoint(trained_checkpoint_prefix, step)
    for note in checkpoint.notes:
        on_warning(note)
    if checkpoint.format == "tf2":
        raise UnsupportedError(
            f"not supported yet: {checkpoint.prefix} is a checkpoint of TensorFlow 2, whose keys are not the names in "
            "a frozen graph; leave out --trained-checkpoint-prefix, or export the checkpoint with its pipeline.config"
        )
    parameters = find_parameters(frozen, {name: tensor.shape for name, tensor in checkpoint.tensors.items()})
    sources = _sources(frozen, parameters, checkpoint, _averaged(checkpoint, pipeline_config_path))
    return Plan(frozen, ends, placeholders, parameters, checkpoint, sources)


def described(plan: Plan) -> Inspection:
    """What a plan makes of a graph, for `--dry-run` and `inspect`."""
    found, kept = plan.parameters.found, plan.parameters.kept
    inputs = {key: f"{end.tensor} {end.dtype.name}" for key, end in plan.ends.inputs.items()}
    outputs = {key: f"{end.tensor} {end.dtype.name}" for key, end in plan.ends.outputs.items()}
    fields = [field("inputs", inputs), field("outputs", outputs), *constant_fields(found, kept)]
    return Inspection(plan.frozen.path, "frozen graph", fields)


def _averaged(checkpoint: Checkpoint, pipeline_config_path: str | Path | None) -> bool:
    """Whether the config of a checkpoint asks for its moving averages; without a config it does not."""
    try:
        path = find_pipeline_config(checkpoint, pipeline_config_path)
    except ConfigError:
        return False
    from unfreeze.config import read_pipeline_config

    return bool(read_pipeline_config(path, allow_unknown_fields=True).eval_config.use_moving_averages)


def _sources(frozen: FrozenGraph, parameters: Parameters, checkpoint: Checkpoint, averaged: bool) -> dict[str, str]:
    """The tensor of the checkpoint that each variable takes; the names prove that the two belong together.

    Raises: WeightsError when they do not.
    """
    tensors = checkpoint.tensors
    problems = []
    for parameter in parameters.found:
        held = tensors.get(parameter.name)
        if held is None:
            problems.append(f"the checkpoint has no {parameter.name} {list(parameter.shape)}")
        elif (held.shape, held.dtype) != (parameter.shape, parameter.dtype.name):
            problems.append(
                f"{parameter.name} is {parameter.dtype.name} {list(parameter.shape)} in the graph, {held.dtype} "
                f"{list(held.shape)} in the checkpoint"
            )
    names = {parameter.name for parameter in parameters.found}
    scopes = {name.rpartition("/")[0] for name in names}
    left = [
        name
        for name in tensors
        if name not in names and not training_state(name) and _scopes(name) & scopes and name.rpartition("/")[0]
    ]
    problems += [f"the graph has no {name}, which an optimization has merged into others, perhaps" for name in left]
    if not names:
        problems.append("no constant of the graph has the name of a tensor in the checkpoint")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{checkpoint.prefix} does not belong to {frozen.path}: {'; '.join(problems[:3])}{more}; give the "
            "checkpoint that the graph was frozen from, or leave out --trained-checkpoint-prefix"
        )
    return {
        name: name + MOVING_AVERAGE if averaged and name + MOVING_AVERAGE in tensors else name for name in sorted(names)
    }


def _scopes(name: str) -> set[str]:
    """The scope of a variable and the one around it: of `Conv/BatchNorm/gamma` both `Conv/BatchNorm` and `Conv`."""
    scope = name.rpartition("/")[0]
    return {scope, scope.rpartition("/")[0]} - {""}


def _input_types(plan: Plan, given: Sequence[str]) -> tuple[str, ...]:
    possible = possible_input_types(doors(plan.ends, plan.placeholders))
    for name in given:
        if name not in possible:
            told = ", ".join(possible) or "none, since it has not one input for pictures of 0 to 255"
            raise UnsupportedError(
                f"not supported yet: --input-type {name} with {plan.frozen.path}; supported for this graph: {told}"
            )
    return types_to_write(given, possible, possible)


def _write(
    plan: Plan,
    folder: Path,
    types: Sequence[str],
    labels: Labels | None,
    write_checkpoint: bool,
) -> None:
    try:
        write_unfrozen(
            plan.frozen,
            unfrozen(plan.frozen, plan.parameters.found),
            plan.ends,
            doors(plan.ends, plan.placeholders),
            plan.value,
            folder / "saved_model",
            input_types=types,
            label_map=labels,
        )
        if write_checkpoint:
            _write_checkpoint(plan, folder)
    except (OSError, tf.errors.OpError) as error:
        raise not_written(folder.parent, error) from None


def _write_checkpoint(plan: Plan, folder: Path) -> None:
    """A checkpoint of TensorFlow 1: each variable under its name, as the original's training restores it."""
    names = [each.name for each in plan.parameters.found]
    save_tensors(str(folder / CHECKPOINT), {name: as_tensor(plan.value(name)) for name in names})
    (folder / "checkpoint").write_text(
        f'model_checkpoint_path: "{CHECKPOINT}"\nall_model_checkpoint_paths: "{CHECKPOINT}"\n'
    )


def _prove(
    plan: Plan,
    saved_model: Path,
    record: Mapping[str, Any],
    workers: verification.WorkerProcesses,
    say: Callable[[str], None],
) -> verification.Report:
    """All checks; compared with the frozen graph unless a checkpoint has given the variables other values."""
    path = plan.frozen.path
    same = plan.checkpoint is None or all(
        np.array_equal(plan.value(p.name), plan.frozen.tensor(p.place)) for p in plan.parameters.found
    )
    return verification.verify_saved_model(
        saved_model,
        weights=_weights(plan),
        against=(path.parent if plan.frozen.signatures else path) if same else None,
        against_name=str(path),
        record={"input_type": record["input_type"], "graph": record["graph"]},
        workers=workers,
        on_progress=say,
    )


def _weights(plan: Plan) -> dict[str, verification.ExpectedWeight]:
    return {
        plan.sources.get(p.name, p.name): verification.ExpectedWeight(variable_key(p.name), partial(plan.value, p.name))
        for p in plan.parameters.found
    }


def _record(plan: Plan, types: Sequence[str]) -> dict[str, Any]:
    """What was exported from what: export.json."""
    path, checkpoint = plan.frozen.path, plan.checkpoint
    told: dict[str, Any] = {
        **written_by(),
        "graph": {
            "path": str(path),
            "size_bytes": path.stat().st_size,
            "sha256": sha256(path),
            "producer": plan.frozen.graph.versions.producer,
            "inputs": {key: end.tensor for key, end in plan.ends.inputs.items()},
            "outputs": {key: end.tensor for key, end in plan.ends.outputs.items()},
            **{each.name: each.value for each in constant_fields(plan.parameters.found, plan.parameters.kept)},
        },
        "input_type": types[0] if types else None,
        "input_types": list(types),
    }
    if checkpoint is not None:
        told["checkpoint"] = checkpoint_record(checkpoint)
        told["moving_averages"] = {"used": sum(name != source for name, source in plan.sources.items())}
    return told
