"""Reads pipeline.config files and label maps with a protobuf schema of its own. Imports no TensorFlow."""

from unfreeze.config import messages
from unfreeze.config.enum_names import enum_name
from unfreeze.config.keypoint_labels import with_keypoint_labels
from unfreeze.config.label_map import Label, LabelMap, read_label_map
from unfreeze.config.pipeline import (
    PipelineConfig,
    format_pipeline_config,
    is_keras_model,
    parse_pipeline_config,
    read_pipeline_config,
)

__all__ = [
    "Label",
    "LabelMap",
    "PipelineConfig",
    "enum_name",
    "format_pipeline_config",
    "is_keras_model",
    "messages",
    "parse_pipeline_config",
    "read_label_map",
    "read_pipeline_config",
    "with_keypoint_labels",
]
