"""pipeline.config: read, parse, write.

Source: research/object_detection/export_inference_graph.py and utils/config_util.py.
"""

import os

from google.protobuf import text_format

from unfreeze.config.messages import TrainEvalPipelineConfig as PipelineConfig
from unfreeze.config.text import OnWarning, merge_text, read_text
from unfreeze.errors import ConfigError

_EXPECTED = "a pipeline.config"
_FOREIGN = {
    "item": "this looks like a label map, not a pipeline.config",
    "model_checkpoint_path": "this looks like a checkpoint's state file, not a pipeline.config",
    "node": "this looks like a graph, not a pipeline.config",
    "saved_model_schema_version": "this looks like a SavedModel, not a pipeline.config",
}


def read_pipeline_config(
    path: str | os.PathLike[str],
    *,
    allow_unknown_fields: bool = False,
    override: str = "",
    on_warning: OnWarning | None = None,
) -> PipelineConfig:
    """The pipeline.config in a file; see `parse_pipeline_config`."""
    return parse_pipeline_config(
        read_text(path, _EXPECTED),
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
    on_warning: OnWarning | None = None,
) -> PipelineConfig:
    """A pipeline.config from its text; errors call it `source`.

    `override` is text of the same kind, merged on top: a value replaces, a repeated value is added (the original's
    --config_override). With `allow_unknown_fields` a field or enum value that the schema does not know is left out, and
    `on_warning` gets one line for each; without it, `warnings.warn` does.

    Raises: ConfigError.
    """
    config = PipelineConfig()
    for layer, name in ((text, source), (override, "--config_override")):
        merge_text(
            layer,
            config,
            name,
            allow_unknown_fields=allow_unknown_fields,
            on_warning=on_warning,
            foreign=_FOREIGN,
        )
    if config.model.WhichOneof("model") is None:
        architectures = ", ".join(field.name for field in config.model.DESCRIPTOR.fields)
        raise ConfigError(f"{source}: has no model; expected 'model {{ … }}' with one of {architectures} in it")
    return config


def format_pipeline_config(config: PipelineConfig) -> str:
    """The text of a pipeline.config, as protobuf writes it; parsed again, it is the same message."""
    return str(text_format.MessageToString(config, as_utf8=True))
