"""Reads, parses and formats pipeline.config.

Source: research/object_detection/export_inference_graph.py and utils/config_util.py.
"""

import os
from typing import TypeAlias

from google.protobuf import text_format

from unfreeze.callbacks import OnMessage
from unfreeze.config import messages
from unfreeze.config.text import merge_text, read_text
from unfreeze.errors import ConfigError
from unfreeze.file_kinds import PIPELINE_CONFIG

PipelineConfig: TypeAlias = messages.TrainEvalPipelineConfig


def read_pipeline_config(
    path: str | os.PathLike[str],
    *,
    allow_unknown_fields: bool = False,
    override: str = "",
    on_warning: OnMessage | None = None,
) -> PipelineConfig:
    """Reads a pipeline.config; see `parse_pipeline_config`."""
    return parse_pipeline_config(
        read_text(path, PIPELINE_CONFIG),
        source=str(path),
        allow_unknown_fields=allow_unknown_fields,
        override=override,
        on_warning=on_warning,
    )


def parse_pipeline_config(
    text: str,
    *,
    source: str = "pipeline.config",
    allow_unknown_fields: bool = False,
    override: str = "",
    on_warning: OnMessage | None = None,
) -> PipelineConfig:
    """Parses the text of a pipeline.config; `source` is its name in errors.

    `override` is text in the same format that is merged on top, as with the OD API's --config_override: a value
    replaces, a repeated value is appended. With `allow_unknown_fields`, fields and enum values that the schema does not
    have are omitted, and `on_warning`, by default `warnings.warn`, receives a line for each kind.

    Raises: ConfigError if the text is not a pipeline.config, or if it has no model.
    """
    config = PipelineConfig()
    for part, name in ((text, source), (override, "--config_override")):
        merge_text(
            part,
            config,
            name,
            allow_unknown_fields=allow_unknown_fields,
            on_warning=on_warning,
        )
    if config.model.WhichOneof("model") is None:
        architectures = ", ".join(field.name for field in config.model.DESCRIPTOR.fields)
        raise ConfigError(f"{source}: has no model; expected 'model {{ … }}' with one of {architectures} in it")
    return config


def is_keras_model(config: PipelineConfig) -> bool:
    """Returns whether TensorFlow 2 trains the model of a config: it is one of Keras layers."""
    model = config.model.WhichOneof("model")
    kind: str = getattr(config.model, model).feature_extractor.type
    return model == "center_net" or kind.endswith("_keras")


def format_pipeline_config(config: PipelineConfig) -> str:
    """Returns the text of a pipeline.config as protobuf writes it."""
    return str(text_format.MessageToString(config, as_utf8=True))
