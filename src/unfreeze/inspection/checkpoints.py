"""Inspects a checkpoint or a training folder: contents, problems, and whether its pipeline.config fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unfreeze.config import PipelineConfig
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.errors import CheckpointError, ConfigError, WeightsError
from unfreeze.formatting import amount, megabytes
from unfreeze.inspection.configs import bind, config_fields, read_config
from unfreeze.inspection.inspection import Field, Inspection, field
from unfreeze.model_paths import find_pipeline_config
from unfreeze.weights import (
    Checkpoint,
    CheckpointEntry,
    CheckpointFormat,
    TensorInfo,
    Weights,
    checkpoint_prefix,
    find_checkpoints,
    open_checkpoint,
    read_index,
    training_state,
)

# The scope of the feature extractor -> the architecture that has it.
ARCHITECTURES = {"FeatureExtractor": "ssd", "FirstStageFeatureExtractor": "faster_rcnn"}
FORMATS = {
    CheckpointFormat.TF1: "TensorFlow 1, keyed by variable names",
    CheckpointFormat.TF1_V1: "TensorFlow 1, keyed by variable names, in a single file",
    CheckpointFormat.TF2: "TensorFlow 2, an object graph",
}
NO_CONFIG = "no pipeline.config beside it or in the folder above; an export needs one (--pipeline-config-path)"


def inspect_folder(folder: Path, kind: str = "training folder") -> Inspection:
    """Inspects a folder of checkpoints: lists all, and inspects the one to export, the newest complete one."""
    entries = find_checkpoints(folder)
    complete = [entry for entry in entries if not entry.missing]
    chosen = (complete or entries)[-1]
    lines = [f"{entry.prefix.name}: {entry.missing or 'complete'}" for entry in entries]
    if complete:
        lines[entries.index(chosen)] += ", the one to export" if len(entries) > 1 else ""
    steps = [
        {"name": entry.prefix.name, "step": entry.step, "complete": not entry.missing, "missing": entry.missing}
        for entry in entries
    ]
    incomplete = [f"{entry.prefix.name} is incomplete: {entry.missing}" for entry in entries if entry.missing]
    inspection = _inspect(chosen, kind)
    fields = [field("checkpoints", steps, "\n".join(lines)), *inspection.fields]
    other_problems = [problem for problem in inspection.problems if problem not in incomplete]
    return replace(inspection, path=folder, fields=fields, problems=[*incomplete, *other_problems])


def inspect_checkpoint(path: Path) -> Inspection:
    """Inspects one checkpoint, given its prefix or one of its files."""
    prefix = checkpoint_prefix(path)
    entry = next((entry for entry in find_checkpoints(prefix.parent) if entry.prefix.name == prefix.name), None)
    if entry is None:
        entry = CheckpointEntry(open_checkpoint(path).prefix, None)
    return replace(_inspect(entry, "checkpoint"), path=path)


def _inspect(entry: CheckpointEntry, kind: str) -> Inspection:
    prefix = entry.prefix
    incomplete = [f"{prefix.name} is incomplete: {entry.missing}"] if entry.missing else []
    try:
        checkpoint = read_index(prefix)
    except CheckpointError as error:
        return Inspection(prefix, kind, [field("prefix", str(prefix))], incomplete or [str(error)])
    missing = checkpoint.missing_data()
    problems = incomplete or ([f"{prefix.name} is incomplete: {missing}"] if missing else [])
    fields = [
        field("prefix", str(prefix)),
        field("step", checkpoint.step, "" if checkpoint.step is None else str(checkpoint.step)),
        field("format", checkpoint.format, FORMATS[checkpoint.format]),
        *_tensor_fields(checkpoint),
    ]
    fit_fields, fit_problems = _inspect_fit(checkpoint)
    return Inspection(prefix, kind, [*fields, *fit_fields], [*problems, *fit_problems])


def _tensor_fields(checkpoint: Checkpoint) -> list[Field]:
    """Returns number and size of all tensors and of each kind of them."""
    groups: dict[str, list[TensorInfo]] = {"weights": []}
    for name, tensor in checkpoint.tensors.items():
        groups.setdefault(training_state(name) or "weights", []).append(tensor)
    return [
        _size_field("tensors", list(checkpoint.tensors.values())),
        *(_size_field(*group) for group in groups.items()),
    ]


def _size_field(name: str, tensors: Sequence[TensorInfo]) -> Field:
    parameters = sum(tensor.size for tensor in tensors)
    size_bytes = sum(tensor.size_bytes for tensor in tensors)
    value = {"count": len(tensors), "parameters": parameters, "bytes": size_bytes}
    text = f"{amount(len(tensors))}, {amount(parameters, 'parameter')}, {megabytes(size_bytes)}"
    return field(name.replace(" ", "_"), value, text)


def _inspect_fit(checkpoint: Checkpoint) -> tuple[list[Field], list[str]]:
    """Returns fields and problems of the pipeline.config that an export would use with the checkpoint."""
    try:
        path = find_pipeline_config(checkpoint.prefix, None)
    except ConfigError:
        return [field("pipeline_config", None, "not found"), *_network_field(checkpoint)], [NO_CONFIG]
    fields = [field("pipeline_config", str(path))]
    config, problems = read_config(path)
    if config is None:
        return fields, problems
    fields += config_fields(config)
    weights, obstacles = bind(config, path, checkpoint)
    if weights is None:
        return [*fields, field("config_fits", None, "unknown")], [*problems, *obstacles]
    try:
        weights.require_fit(likely_causes(config))
    except WeightsError as error:
        return [*fields, field("config_fits", False)], [*problems, str(error)]
    text = f"yes: the checkpoint has all {len(weights.sources)} weights"
    fields += [field("config_fits", True, text), field("unused", weights.unused(), "")]
    fields.append(_moving_averages_field(config, checkpoint, weights))
    return fields, [*problems, *_fit_problems(weights)]


def _fit_problems(weights: Weights) -> list[str]:
    """Returns what an export of a checkpoint that fits the config would not use."""
    problems = []
    if weights.without_moving_average:
        problems.append(
            f"use_moving_averages is true, but {len(weights.without_moving_average)} variables have no moving average "
            f"({weights.without_moving_average[0]}, …); an export uses their plain values"
        )
    if weights.ranges() and not weights.quantized:
        problems.append(
            "the model was trained quantization-aware, but the config has no graph_rewriter; "
            "an export has no quantization"
        )
    if weights.unused():
        problems.append(f"{_few(weights.unused())}: not used by this config")
    return problems


def _network_field(checkpoint: Checkpoint) -> list[Field]:
    """Returns architecture and backbone, if the names of a TensorFlow 1 checkpoint show them."""
    backbones: dict[str, int] = {}
    for name, tensor in checkpoint.tensors.items():
        scope, _, rest = name.partition("/")
        if scope in ARCHITECTURES and not training_state(name):
            network = f"{ARCHITECTURES[scope]} on {rest.partition('/')[0]}"
            backbones[network] = backbones.get(network, 0) + tensor.size
    return [field("looks_like", max(backbones, key=lambda network: backbones[network]))] if backbones else []


def _moving_averages_field(config: PipelineConfig, checkpoint: Checkpoint, weights: Weights) -> Field:
    stored = sum(training_state(name) == "moving averages" for name in checkpoint.tensors)
    used = len(set(weights.sources.values()) - set(weights.sources))
    if not stored:
        return field("moving_averages_used", 0, "")
    setting = f"use_moving_averages is {'true' if config.eval_config.use_moving_averages else 'false'}"
    return field("moving_averages_used", used, f"{used} of {stored}: {setting}")


def _few(names: Sequence[str], most: int = 5) -> str:
    return f"{amount(len(names), 'tensor')} ({', '.join(names[:most])}{', …' if len(names) > most else ''})"
