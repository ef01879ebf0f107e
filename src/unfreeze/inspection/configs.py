"""Inspects a pipeline.config or a label map."""

from __future__ import annotations

import math
from pathlib import Path

from google.protobuf import text_format

from unfreeze.callbacks import ignore
from unfreeze.config import PipelineConfig, messages, read_label_map, read_pipeline_config, with_keypoint_labels
from unfreeze.detectors import build_detector
from unfreeze.detectors.build import generation
from unfreeze.detectors.quantization import quantization_aware
from unfreeze.errors import CheckpointError, ConfigError, UnsupportedError, WeightsError
from unfreeze.formatting import amount, first_few
from unfreeze.inspection.inspection import Field, Inspection, field
from unfreeze.savedmodel import trace
from unfreeze.weights import Checkpoint, CheckpointFormat, Weights

SHOWN = 8  # classes of a label map in the report; the JSON has all


def inspect_config(path: Path) -> Inspection:
    """Inspects a pipeline.config: its model, whether this version can build it, and how many weights it needs."""
    config, problems = read_config(path)
    if config is None:
        return Inspection(path, "pipeline.config", (), problems)
    fields = config_fields(config)
    weights, obstacles = _needed_weights(config, path)
    if weights is not None:
        needed = [mismatch.needed for mismatch in weights.mismatches.values()]
        parameters = sum(map(math.prod, needed))
        value = {"count": len(needed), "parameters": parameters}
        fields.append(field("weights", value, f"{amount(len(needed))} needed, {amount(parameters, 'parameter')}"))
    return Inspection(path, "pipeline.config", fields, [*problems, *obstacles])


def read_config(path: Path) -> tuple[PipelineConfig | None, list[str]]:
    """Returns the config in a file and its problems; unknown fields are a problem and are omitted."""
    try:
        return read_pipeline_config(path), []
    except ConfigError as error:
        problems = [str(error)]
    try:
        return read_pipeline_config(path, allow_unknown_fields=True, on_warning=ignore), problems
    except ConfigError:
        return None, problems


def config_fields(config: PipelineConfig) -> list[Field]:
    """Returns the model and its main settings."""
    architecture = config.model.WhichOneof("model")
    model = getattr(config.model, architecture)
    fields = [field("model", architecture)]
    if hasattr(model, "feature_extractor"):
        fields.append(field("feature_extractor", model.feature_extractor.type))
    if hasattr(model, "num_classes"):
        fields.append(field("num_classes", model.num_classes))
    if hasattr(model, "image_resizer"):
        fields.append(field("image_resizer", _resizer(model.image_resizer)))
    fields.append(field("use_moving_averages", config.eval_config.use_moving_averages))
    quantized = config.HasField("graph_rewriter")
    fields.append(field("quantization_aware", quantized, "yes, by its graph_rewriter" if quantized else ""))
    return fields


def bind(config: PipelineConfig, path: Path, checkpoint: Checkpoint) -> tuple[Weights | None, list[str]]:
    """Returns the detector's weights by shape, without values; or None and why the detector cannot be built."""
    weights = Weights(checkpoint, moving_averages=config.eval_config.use_moving_averages)
    try:
        trace(build_detector(with_keypoint_labels(config, path.parent), weights))
    except (CheckpointError, ConfigError, UnsupportedError, WeightsError) as error:
        return None, [str(error)]
    return weights, []


def _needed_weights(config: PipelineConfig, path: Path) -> tuple[Weights | None, list[str]]:
    """Binds the detector to an empty checkpoint, so that every weight that it needs is a mismatch."""
    plain = type(config)()
    plain.CopyFrom(config)
    try:
        quantization_aware(config)
        plain.ClearField("graph_rewriter")  # the names of its ranges are in the checkpoint only
    except ConfigError as error:
        return None, [str(error)]
    return bind(plain, path, Checkpoint(path, None, CheckpointFormat(generation(config).value), {}))


def inspect_label_map(path: Path) -> Inspection:
    """Inspects a label map: number, ids and names of its classes."""
    try:
        labels = read_label_map(path)
    except ConfigError as error:
        return Inspection(path, "label map", (), [str(error)])
    ids = sorted(labels.labels)
    absent = sorted(set(range(min(1, ids[0]), ids[-1])) - set(ids) - {0})
    names = labels.display_names
    first = [f"{class_id}: {names[class_id]}" for class_id in ids[:SHOWN]]
    more = [f"and {len(ids) - SHOWN} more"] if len(ids) > SHOWN else []
    fields = [
        field("classes", len(ids)),
        field("ids", ids, f"{ids[0]} to {ids[-1]}" + (f", without {first_few(absent, 12)}" if absent else "")),
        field("names", {str(class_id): names[class_id] for class_id in ids}, "\n".join(first + more)),
    ]
    if labels.keypoints:
        count = sum(map(len, labels.keypoints.values()))
        classes = len(labels.keypoints)
        text = f"{amount(count)} in {classes} class{'es' * (classes != 1)}"
        fields.append(
            field("keypoints", {str(class_id): points for class_id, points in labels.keypoints.items()}, text)
        )
    return Inspection(path, "label map", fields)


def _resizer(resizer: messages.ImageResizer) -> str:
    """Returns text such as `fixed_shape_resizer { height: 300 width: 300 }`."""
    kind = resizer.WhichOneof("image_resizer_oneof")
    if kind is None:
        return "none"
    return f"{kind} {{ {text_format.MessageToString(getattr(resizer, kind), as_one_line=True)} }}"
