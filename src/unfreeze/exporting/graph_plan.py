"""Plans the export of a frozen graph: its inputs and outputs, and which of its constants become variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tensorflow.core.framework import graph_pb2

from unfreeze.callbacks import OnMessage, ignore
from unfreeze.config import read_pipeline_config
from unfreeze.errors import ConfigError, UnsupportedError, WeightsError
from unfreeze.graphs import (
    Endpoints,
    FrozenGraph,
    Parameters,
    find_endpoints,
    find_parameters,
    prune,
    read_frozen_graph,
    reporting_damage,
    require_harmless,
)
from unfreeze.graphs.files import Place
from unfreeze.inspection.graphs import constant_fields
from unfreeze.inspection.inspection import Inspection, field
from unfreeze.model_paths import find_pipeline_config
from unfreeze.savedmodel import GraphInput
from unfreeze.weights import MOVING_AVERAGE, Checkpoint, CheckpointFormat, open_checkpoint, training_state


@dataclass(frozen=True)
class GraphPlan:
    """The plan for the export of a frozen graph.

    `sources` are the tensors of the checkpoint whose values the variables take, by variable; it is empty where the
    variables keep the values of the graph.
    """

    frozen: FrozenGraph
    endpoints: Endpoints
    inputs: Sequence[GraphInput]
    parameters: Parameters
    checkpoint: Checkpoint | None
    sources: Mapping[str, str]

    def value(self, name: str) -> np.ndarray:
        """Returns the value of a variable."""
        if self.checkpoint is not None:
            return self.checkpoint.read(self.sources[name])
        return self.frozen.tensor(self._places[name])

    def without_graph(self) -> GraphPlan:
        """Returns the plan without the nodes of the graph, which are not needed any more once it is written."""
        graph = graph_pb2.GraphDef(versions=self.frozen.graph.versions)
        return replace(self, frozen=replace(self.frozen, graph=graph))

    @cached_property
    def _places(self) -> Mapping[str, Place]:
        return {parameter.name: parameter.place for parameter in self.parameters.variables}


@reporting_damage
def plan_graph(
    graph: str | Path,
    trained_checkpoint_prefix: str | Path | None = None,
    pipeline_config_path: str | Path | None = None,
    graph_inputs: Mapping[str, str] | None = None,
    graph_outputs: Mapping[str, str] | None = None,
    *,
    step: int | None = None,
    on_warning: OnMessage = ignore,
) -> GraphPlan:
    """Reads a frozen graph and returns the plan for its export; runs nothing in it.

    Raises:
        UnsupportedError, SavedModelError, CheckpointError, WeightsError.
    """
    frozen = read_frozen_graph(graph)
    if not frozen.signatures:
        require_harmless(frozen)
    endpoints = find_endpoints(frozen, graph_inputs, graph_outputs)
    placeholders = prune(frozen, endpoints)
    inputs = [GraphInput(key, placeholders[key], end.dtype, end.shape) for key, end in endpoints.inputs.items()]
    if frozen.signatures:  # a SavedModel also has operations that save and restore, which are pruned by now
        require_harmless(frozen)
    if trained_checkpoint_prefix is None:
        parameters = find_parameters(frozen)
        if not parameters.variables:
            raise UnsupportedError(
                f"{graph}: no weights: none of its constants is a parameter; pass the frozen graph of a network"
            )
        return GraphPlan(frozen, endpoints, inputs, parameters, None, {})
    checkpoint = open_checkpoint(trained_checkpoint_prefix, step)
    for note in checkpoint.notes:
        on_warning(note)
    if checkpoint.format == CheckpointFormat.TF2:
        raise UnsupportedError(
            f"not supported yet: {checkpoint.prefix} is a TensorFlow 2 checkpoint, whose keys are not the names in a "
            "frozen graph; omit --trained-checkpoint-prefix, or export the checkpoint with its pipeline.config"
        )
    parameters = find_parameters(frozen, {name: tensor.shape for name, tensor in checkpoint.tensors.items()})
    _require_same_model(frozen, parameters, checkpoint)
    averaged = _uses_moving_averages(checkpoint, pipeline_config_path)
    return GraphPlan(frozen, endpoints, inputs, parameters, checkpoint, _sources(parameters, checkpoint, averaged))


def describe_plan(plan: GraphPlan) -> Inspection:
    """Returns what `--dry-run` prints: inputs, outputs, and each constant with the reason for its treatment."""
    inputs = {key: f"{end.tensor} {end.dtype.name}" for key, end in plan.endpoints.inputs.items()}
    outputs = {key: f"{end.tensor} {end.dtype.name}" for key, end in plan.endpoints.outputs.items()}
    constants = constant_fields(plan.parameters)
    return Inspection(
        plan.frozen.path, "frozen graph", [field("inputs", inputs), field("outputs", outputs), *constants]
    )


def _uses_moving_averages(checkpoint: Checkpoint, pipeline_config_path: str | Path | None) -> bool:
    """Returns whether the checkpoint's config uses moving averages; false without a config."""
    try:
        path = find_pipeline_config(checkpoint.prefix, pipeline_config_path)
    except ConfigError:
        return False
    return bool(read_pipeline_config(path, allow_unknown_fields=True).eval_config.use_moving_averages)


def _sources(parameters: Parameters, checkpoint: Checkpoint, averaged: bool) -> dict[str, str]:
    """Returns the tensor of the checkpoint whose value each variable takes."""
    names = sorted(parameter.name for parameter in parameters.variables)
    moving_averages = {name: name + MOVING_AVERAGE for name in names if averaged}
    return {name: key if (key := moving_averages.get(name, name)) in checkpoint.tensors else name for name in names}


def _require_same_model(frozen: FrozenGraph, parameters: Parameters, checkpoint: Checkpoint) -> None:
    """Raises WeightsError if names, shapes and dtypes show that the graph was not frozen from this checkpoint."""
    names = {parameter.name for parameter in parameters.variables}
    problems = [*_differences(parameters, checkpoint), *_missing_weights(names, checkpoint)]
    if not names:
        problems.append("no constant of the graph has the name of a tensor in the checkpoint")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{checkpoint.prefix} does not belong to {frozen.path}: {'; '.join(problems[:3])}{more}; pass the "
            "checkpoint that the graph was frozen from, or omit --trained-checkpoint-prefix"
        )


def _differences(parameters: Parameters, checkpoint: Checkpoint) -> list[str]:
    """Describes each variable that the checkpoint lacks, or has with another shape or dtype."""
    problems = []
    for parameter in parameters.variables:
        tensor = checkpoint.tensors.get(parameter.name)
        if tensor is None:
            problems.append(f"the checkpoint has no {parameter.name} {list(parameter.shape)}")
        elif (tensor.shape, tensor.dtype) != (parameter.shape, parameter.dtype.name):
            problems.append(
                f"{parameter.name} is {parameter.dtype.name} {list(parameter.shape)} in the graph, {tensor.dtype} "
                f"{list(tensor.shape)} in the checkpoint"
            )
    return problems


def _missing_weights(names: set[str], checkpoint: Checkpoint) -> list[str]:
    """Describes each weight of the checkpoint that the graph lacks although it has others of the same scope."""
    scopes = {name.rpartition("/")[0] for name in names}
    missing = [
        name
        for name in checkpoint.tensors
        if name not in names and not training_state(name) and _scopes(name) & scopes and name.rpartition("/")[0]
    ]
    return [f"the graph has no {name} (an optimization may have merged it into others)" for name in missing]


def _scopes(name: str) -> set[str]:
    """Returns a variable's scope and the one around it: of `Conv/BatchNorm/gamma`, `Conv/BatchNorm` and `Conv`."""
    scope = name.rpartition("/")[0]
    return {scope, scope.rpartition("/")[0]} - {""}
