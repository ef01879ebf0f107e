"""What the server is told: flags as one record, and the text protos that TensorFlow Serving reads from files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from unfreeze.errors import ConfigError
from unfreeze.protobuf_pool import MessageTable, pool_of_table

LABELS = "models.config"
METRICS_PATH = "/monitoring/prometheus/metrics"
ModelServerConfig = model_server_config_pb2.ModelServerConfig


@dataclass(frozen=True)
class Batching:
    """TensorFlow Serving's batching parameters. Source: batching/README.md, session_bundle_config.proto."""

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False


@dataclass(frozen=True)
class Settings:
    """Everything the server needs to know; the flags of tensorflow_model_server under their own names."""

    models: Any  # ModelServerConfig
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: float = 0
    follow_labels: bool = False  # of `models.config` in the base path, as `unfreeze publish` writes it
    file_system_poll_wait_seconds: float = 1
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    enable_model_warmup: bool = True
    allow_version_labels_for_unavailable_models: bool = False
    host: str = "127.0.0.1"
    port: int | None = 8500  # None: no gRPC; 0: any free port
    rest_api_port: int | None = 8501
    rest_api_timeout_in_ms: int = 30_000
    batching: Batching | None = None
    metrics_path: str | None = METRICS_PATH
    max_queued_requests: int = 64
    max_request_bytes: int = 64 * 2**20
    max_image_pixels: int = 64_000_000
    num_run_threads: int = os.cpu_count() or 1  # calls of a model at the same time, where batching is off


def single_model(name: str, base_path: str | os.PathLike[str]) -> Any:
    """The config of one model at its newest version, as --model_name and --model_base_path mean it."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=os.fspath(base_path), model_platform="tensorflow")
    return config


def read_models(path: str | os.PathLike[str]) -> Any:
    """The file of --model_config_file, checked.

    Raises: ConfigError when it cannot be read or asks for what this server does not do.
    """
    return checked_models(read_text_proto(path, ModelServerConfig()), os.fspath(path))


def with_labels(config: Any) -> Any:
    """The config with the policy and the labels of a `models.config` beside each model's versions, where there is one.

    Raises: ConfigError when that cannot be read.
    """
    followed = ModelServerConfig()
    followed.CopyFrom(config)
    for model in followed.model_config_list.config:
        path = Path(model.base_path) / LABELS
        if not path.is_file():
            continue
        listed = read_models(path).model_config_list.config
        model.model_version_policy.CopyFrom(listed[0].model_version_policy)
        for label, version in listed[0].version_labels.items():
            model.version_labels[label] = version
    return followed


def checked_models(config: Any, origin: str) -> Any:
    """Refuse a config that names no model, names one twice, or asks for what is not served here."""
    if config.WhichOneof("config") == "custom_model_config":
        raise ConfigError(f"{origin}: not supported yet: custom_model_config; give a model_config_list")
    models = config.model_config_list.config
    if not models:
        raise ConfigError(f"{origin} names no model; write model_config_list {{ config {{ name: … base_path: … }} }}")
    names = [model.name for model in models]
    for model in models:
        if not model.name or not model.base_path:
            raise ConfigError(f"{origin}: every config needs a name and a base_path; received {one_line(model)}")
        if names.count(model.name) > 1:
            raise ConfigError(f"{origin}: Illegal to list model {model.name} multiple times in config list")
        if model.model_platform not in ("", "tensorflow"):
            raise ConfigError(f"{origin}: not supported yet: model_platform {model.model_platform!r}; use 'tensorflow'")
    return config


def read_batching(path: str | os.PathLike[str]) -> Batching:
    """The file of --batching_parameters_file.

    Raises: ConfigError when it cannot be read or contradicts itself.
    """
    message = read_text_proto(path, SCHEMA.message_class("BatchingParameters")())
    given: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name == "allowed_batch_sizes":
            given[field.name] = tuple(value)
        elif field.name in Batching.__dataclass_fields__:
            given[field.name] = value.value if field.message_type else value
        elif field.name != "thread_pool_name":  # only a name for TensorFlow's own traces
            raise ConfigError(f"{path}: not supported yet: {field.name}")
    return checked_batching(Batching(**given), path)


def checked_batching(batching: Batching, path: str | os.PathLike[str]) -> Batching:
    sizes = batching.allowed_batch_sizes
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != batching.max_batch_size):
        raise ConfigError(
            f"{path}: allowed_batch_sizes must increase and end with max_batch_size {batching.max_batch_size}; "
            f"received {list(sizes)}"
        )
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(batching, name) < 1:
            raise ConfigError(f"{path}: {name} must be above 0; received {getattr(batching, name)}")
    if batching.batch_timeout_micros < 0:
        raise ConfigError(f"{path}: batch_timeout_micros must not be negative")
    return batching


def read_metrics_path(path: str | os.PathLike[str]) -> str | None:
    """The path in the file of --monitoring_config_file, or None where that switches Prometheus off."""
    prometheus = read_text_proto(path, SCHEMA.message_class("MonitoringConfig")()).prometheus_config
    chosen = prometheus.path or METRICS_PATH
    if not chosen.startswith("/"):
        raise ConfigError(f"{path}: prometheus_config.path must begin with '/'; received {chosen!r}")
    return chosen if prometheus.enable else None


def read_text_proto(path: str | os.PathLike[str], message: Any) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{os.fspath(path)} cannot be read: {error}") from error
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ConfigError(f"{os.fspath(path)} is not a {message.DESCRIPTOR.name} in text format: {error}") from error


def one_line(message: Any) -> str:
    return text_format.MessageToString(message, as_one_line=True)


# Two messages that tensorflow-serving-api lacks. Fields: name, number, type.
# Source: servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto.
MESSAGES: MessageTable = {
    "Int64Value": [("value", 1, "int64")],
    "BoolValue": [("value", 1, "bool")],
    "StringValue": [("value", 1, "string")],
    "BatchingParameters": [
        ("max_batch_size", 1, "Int64Value"),
        ("batch_timeout_micros", 2, "Int64Value"),
        ("max_enqueued_batches", 3, "Int64Value"),
        ("num_batch_threads", 4, "Int64Value"),
        ("thread_pool_name", 5, "StringValue"),
        ("allowed_batch_sizes", 6, "repeated int64"),
        ("pad_variable_length_inputs", 7, "bool"),
        ("enable_large_batch_splitting", 8, "BoolValue"),
        ("max_execution_batch_size", 9, "Int64Value"),
    ],
    "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
    "MonitoringConfig": [("prometheus_config", 1, "PrometheusConfig")],
}

SCHEMA = pool_of_table("unfreeze.serving", MESSAGES)
