"""What a pipeline.config or a label map is, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from unfreeze.config import PipelineConfig, read_label_map, read_pipeline_config, with_keypoint_labels
from unfreeze.detectors import build_detector
from unfreeze.detectors.build import generation, quantization_aware
from unfreeze.errors import CheckpointError, ConfigError, UnsupportedError, WeightsError
from unfreeze.formatting import amount
from unfreeze.inspection.inspection import Field, Inspection, field
from unfreeze.savedmodel import trace
from unfreeze.weights import Checkpoint, Weights

SHOWN = 8  # classes of a label map that are told by name


def inspect_config(path: Path) -> Inspection:
    """A pipeline.config: its model, whether this version can build it, and which weights it would ask for."""
    config, problems = read_config(path)
    if config is None:
        return Inspection(path, "pipeline.config", (), problems)
    fields = config_fields(config)
    weights, trouble = _asks_for(config, path)
    if weights is not None:
        needed = [mismatch.needed for mismatch in weights.mismatches.values()]
        parameters = sum(_product(shape) for shape in needed)
        value = {"count": len(needed), "parameters": parameters}
        fields.append(field("weights", value, f"asks for {amount(len(needed))}, {amount(parameters, 'parameter')}"))
    return Inspection(path, "pipeline.config", fields, [*problems, *trouble])


def read_config(path: Path) -> tuple[PipelineConfig | None, list[str]]:
    """The config in a file, without what the schema does not know if need be, and what is wrong with it."""
    try:
        return read_pipeline_config(path), []
    except ConfigError as error:
        problems = [str(error)]
    try:
        return read_pipeline_config(path, allow_unknown_fields=True, on_warning=lambda line: None), problems
    except ConfigError:
        return None, problems


def config_fields(config: PipelineConfig) -> list[Field]:
    """Which model it describes."""
    architecture = config.model.WhichOneof("model")
    model = getattr(config.model, architecture)
    fields = [field("model", architecture)]
    if hasattr(model, "feature_extractor"):
        fields.append(field("feature_extractor", model.feature_extractor.type))
    if hasattr(model, "num_classes"):
        fields.append(field("num_classes", model.num_classes))
    if hasattr(model, "image_resizer"):
        fields.append(field("image_resizer", _resizer(model.image_resizer)))
    asked = config.eval_config.use_moving_averages
    fields.append(field("use_moving_averages", asked))
    rewritten = config.HasField("graph_rewriter")
    fields.append(field("quantization_aware", rewritten, "yes, by its graph_rewriter" if rewritten else ""))
    return fields


def bind(config: PipelineConfig, path: Path, checkpoint: Checkpoint) -> tuple[Weights | None, list[str]]:
    """The weights that the detector of the config in `path` asks for, by shape only; or None, and what hinders it."""
    weights = Weights(checkpoint, moving_averages=config.eval_config.use_moving_averages)
    try:
        trace(build_detector(with_keypoint_labels(config, path.parent), weights))
    except (CheckpointError, ConfigError, UnsupportedError, WeightsError) as error:
        return None, [str(error)]
    return weights, []


def _asks_for(config: PipelineConfig, path: Path) -> tuple[Weights | None, list[str]]:
    """All that its detector would ask of a checkpoint, found by giving it an empty one."""
    plain = type(config)()
    plain.CopyFrom(config)
    try:
        quantization_aware(config)
        plain.ClearField("graph_rewriter")  # the names of its ranges are known from a checkpoint only
    except ConfigError as error:
        return None, [str(error)]
    return bind(plain, path, Checkpoint(path, None, generation(config), {}))


def inspect_label_map(path: Path) -> Inspection:
    """A label map: how many classes, which numbers, which names."""
    try:
        labels = read_label_map(path)
    except ConfigError as error:
        return Inspection(path, "label map", (), [str(error)])
    numbers = sorted(labels.labels)
    absent = sorted(set(range(min(1, numbers[0]), numbers[-1])) - set(numbers) - {0})
    names = labels.display_names
    first = [f"{number}: {names[number]}" for number in numbers[:SHOWN]]
    more = [f"and {len(numbers) - SHOWN} more"] if len(numbers) > SHOWN else []
    fields = [
        field("classes", len(numbers)),
        field("ids", numbers, f"{numbers[0]} to {numbers[-1]}" + (f", without {_few(absent)}" if absent else "")),
        field("names", {str(number): names[number] for number in numbers}, "\n".join(first + more)),
    ]
    if labels.keypoints:
        count = sum(map(len, labels.keypoints.values()))
        told = f"{amount(count)} of {amount(len(labels.keypoints), 'class')}"
        fields.append(field("keypoints", {str(number): points for number, points in labels.keypoints.items()}, told))
    return Inspection(path, "label map", fields)


def _resizer(resizer: Any) -> str:
    """`fixed_shape_resizer { height: 300 width: 300 }`."""
    kind = resizer.WhichOneof("image_resizer_oneof")
    if kind is None:
        return "none"
    return f"{kind} {{ {text_format.MessageToString(getattr(resizer, kind), as_one_line=True)} }}"


def _few(numbers: Sequence[int], most: int = 12) -> str:
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more


def _product(shape: Sequence[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
