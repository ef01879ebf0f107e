"""What a checkpoint or a training folder is, what is wrong with it, and whether its pipeline.config fits."""

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
    TensorInfo,
    checkpoint_prefix,
    find_checkpoints,
    open_checkpoint,
    read_index,
    training_state,
)

# The scope of the feature extractor in each.
ARCHITECTURES = {"FeatureExtractor": "ssd", "FirstStageFeatureExtractor": "faster_rcnn"}
FORMATS = {
    "tf1": "TensorFlow 1, keyed by variable names",
    "tf1-v1": "TensorFlow 1, keyed by variable names, the old single-file form",
    "tf2": "TensorFlow 2, an object graph",
}
NO_CONFIG = "no pipeline.config beside it or in the folder above: an export needs it (--pipeline-config-path)"


def inspect_folder(folder: Path, kind: str = "training folder") -> Inspection:
    """A folder of checkpoints: each of them, and the one that is exported (the newest that is complete)."""
    candidates = find_checkpoints(folder)
    complete = [candidate for candidate in candidates if not candidate.missing]
    chosen = (complete or candidates)[-1]
    lines = [f"{each.prefix.name}: {each.missing or 'complete'}" for each in candidates]
    if complete:
        lines[candidates.index(chosen)] += ", the one that is exported" if len(candidates) > 1 else ""
    steps = [
        {"name": each.prefix.name, "step": each.step, "complete": not each.missing, "missing": each.missing}
        for each in candidates
    ]
    torn = [f"{each.prefix.name} is incomplete: {each.missing}" for each in candidates if each.missing]
    found = _inspect(chosen, kind)
    fields = [field("checkpoints", steps, "\n".join(lines)), *found.fields]
    others = [problem for problem in found.problems if problem not in torn]
    return replace(found, path=folder, fields=fields, problems=[*torn, *others])


def inspect_checkpoint(path: Path) -> Inspection:
    """One checkpoint, by its prefix or one of its files."""
    prefix = checkpoint_prefix(path)
    same = [each for each in find_checkpoints(prefix.parent) if each.prefix.name == prefix.name]
    if not same:
        return replace(_inspect(CheckpointEntry(open_checkpoint(path).prefix, None), "checkpoint"), path=path)
    return replace(_inspect(same[0], "checkpoint"), path=path)


def _inspect(candidate: CheckpointEntry, kind: str) -> Inspection:
    prefix = candidate.prefix
    torn = [f"{prefix.name} is incomplete: {candidate.missing}"] if candidate.missing else []
    try:
        checkpoint = read_index(prefix)
    except CheckpointError as error:
        return Inspection(prefix, kind, [field("prefix", str(prefix))], torn or [str(error)])
    fault = checkpoint.missing_data()
    problems = torn or ([f"{prefix.name} is incomplete: {fault}"] if fault else [])
    fields = [
        field("prefix", str(prefix)),
        field("step", checkpoint.step, "" if checkpoint.step is None else str(checkpoint.step)),
        field("format", checkpoint.format, FORMATS[checkpoint.format]),
        *_tensors(checkpoint),
    ]
    more, wrong = _fit(checkpoint)
    return Inspection(prefix, kind, [*fields, *more], [*problems, *wrong])


def _tensors(checkpoint: Checkpoint) -> list[Field]:
    """How many tensors of each kind it holds, and how large they are."""
    groups: dict[str, list[TensorInfo]] = {"weights": []}
    for name, tensor in checkpoint.tensors.items():
        groups.setdefault(training_state(name) or "weights", []).append(tensor)
    return [_group("tensors", list(checkpoint.tensors.values()))] + [_group(*group) for group in groups.items()]


def _group(name: str, tensors: Sequence[TensorInfo]) -> Field:
    parameters = sum(tensor.size for tensor in tensors)
    size_bytes = sum(tensor.size_bytes for tensor in tensors)
    value = {"count": len(tensors), "parameters": parameters, "bytes": size_bytes}
    told = f"{amount(len(tensors))}, {amount(parameters, 'parameter')}, {megabytes(size_bytes)}"
    return field(name.replace(" ", "_"), value, told)


def _fit(checkpoint: Checkpoint) -> tuple[list[Field], list[str]]:
    """The pipeline.config that an export would take, and whether every weight that it asks for is there."""
    try:
        path = find_pipeline_config(checkpoint.prefix, None)
    except ConfigError:
        return [field("pipeline_config", None, "not found"), *_looks_like(checkpoint)], [NO_CONFIG]
    fields = [field("pipeline_config", str(path))]
    config, problems = read_config(path)
    if config is None:
        return fields, problems
    fields += config_fields(config)
    weights, trouble = bind(config, path, checkpoint)
    if weights is None:
        return [*fields, field("config_fits", None, "not known")], [*problems, *trouble]
    try:
        weights.require_fit(likely_causes(config))
    except WeightsError as error:
        return [*fields, field("config_fits", False)], [*problems, str(error)]
    told = f"yes: all {len(weights.sources)} weights are there"
    fields += [field("config_fits", True, told), field("unused", weights.unused(), "")]
    fields.append(_averages(config, checkpoint, len(set(weights.sources.values()) - set(weights.sources))))
    if weights.without_moving_average:
        problems.append(
            f"use_moving_averages is true, but {len(weights.without_moving_average)} variables have no moving average "
            f"({weights.without_moving_average[0]}, …): an export takes their own values"
        )
    if weights.ranges() and not weights.quantized:
        problems.append(
            "it was trained quantization-aware, but the config has no graph_rewriter: an export is without quantization"
        )
    if weights.unused():
        problems.append(f"{_few(weights.unused())}: not used by this config")
    return fields, problems


def _looks_like(checkpoint: Checkpoint) -> list[Field]:
    """The architecture and the backbone, as far as the names of the weights of TensorFlow 1 tell them."""
    backbones: dict[str, int] = {}
    for name, tensor in checkpoint.tensors.items():
        scope, _, rest = name.partition("/")
        if scope in ARCHITECTURES and not training_state(name):
            network = f"{ARCHITECTURES[scope]} on {rest.partition('/')[0]}"
            backbones[network] = backbones.get(network, 0) + tensor.size
    return [field("looks_like", max(backbones, key=lambda network: backbones[network]))] if backbones else []


def _averages(config: PipelineConfig, checkpoint: Checkpoint, used: int) -> Field:
    held = sum(training_state(name) == "moving averages" for name in checkpoint.tensors)
    if not held:
        return field("moving_averages_used", 0, "")
    asked = config.eval_config.use_moving_averages
    told = f"{used} of {held}, as the config asks" if asked else f"none of {held}: use_moving_averages is false"
    return field("moving_averages_used", used, told)


def _few(names: Sequence[str], most: int = 5) -> str:
    return f"{amount(len(names), 'tensor')} ({', '.join(names[:most])}{', …' if len(names) > most else ''})"
