"""The settings of the server, and the files in text proto format that TensorFlow Serving reads some of them from."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config.logging_config_pb2 import LoggingConfig
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.protobuf_pool import MessageTable, pool_of_table

LABELS_FILE = "models.config"  # beside the versions of a model, as `unfreeze publish` writes it
METRICS_PATH = "/monitoring/prometheus/metrics"
PLATFORM = "tensorflow"
TENSORFLOW_MODEL_TYPE = 1  # of the deprecated enum ModelType
LOG_TYPE = "tfrecord"
PEM_START = "-----BEGIN "
MAX_QUOTED_CHARS = 40
# What text_format puts before its message: line, column, and the whole line of the file, which may be long.
QUOTED_LINE = re.compile(r"^\d+:\d+ : (?:'.*': )?", re.DOTALL)


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
    thread_pool_name: str = "batch"


@dataclass(frozen=True)
class Ssl:
    """TensorFlow Serving's SSLConfig: the texts of PEM files. Source: config/ssl_config.proto."""

    server_key: str
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False


@dataclass(frozen=True)
class Settings:
    """All settings of the server, under the names of tensorflow_model_server's flags where it has one."""

    models: ModelServerConfig
    model_config_file: Path | None = None  # where `models` was read from, if it is read again
    model_config_file_poll_wait_seconds: float = 0
    follow_labels: bool = False  # whether to read LABELS_FILE of each model again and again
    file_system_poll_wait_seconds: float = 1
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    enable_model_warmup: bool = True
    allow_version_labels_for_unavailable_models: bool = False
    host: str = "127.0.0.1"
    port: int | None = 8500  # the port of gRPC; None disables gRPC, 0 means any free port
    rest_api_port: int | None = 8501
    rest_api_timeout_in_ms: int = 30_000
    batching: Batching | None = None
    metrics_path: str | None = METRICS_PATH
    ssl: Ssl | None = None  # of gRPC
    cors: bool = False  # of REST
    max_queued_requests: int = 64
    max_request_bytes: int = 64 * 2**20
    max_image_pixels: int = 64_000_000
    num_run_threads: int = os.cpu_count() or 1  # the number of concurrent calls of models without batching


def single_model(name: str, base_path: str | os.PathLike[str]) -> ModelServerConfig:
    """Returns the config of one model at its newest version, as of --model_name and --model_base_path."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=os.fspath(base_path), model_platform=PLATFORM)
    return config


def read_models(path: str | os.PathLike[str]) -> ModelServerConfig:
    """Reads the file of --model_config_file.

    Raises: ConfigError if it cannot be read or is not valid, UnsupportedError if it has an unsupported field.
    """
    return checked_models(read_text_proto(path, ModelServerConfig()), os.fspath(path))


def with_labels(config: ModelServerConfig) -> ModelServerConfig:
    """Returns the config with the policy and the labels of the LABELS_FILE beside each model's versions, if it exists.

    Raises: ConfigError if such a file cannot be read.
    """
    labeled = ModelServerConfig()
    labeled.CopyFrom(config)
    for model in labeled.model_config_list.config:
        path = Path(model.base_path) / LABELS_FILE
        if not path.is_file():
            continue
        listed = read_models(path).model_config_list.config
        model.model_version_policy.CopyFrom(listed[0].model_version_policy)
        for label, version in listed[0].version_labels.items():
            model.version_labels[label] = version
    return labeled


def checked_models(config: ModelServerConfig, origin: str) -> ModelServerConfig:
    """Returns the config.

    Raises: ConfigError if it has no model, or one twice, UnsupportedError if it has something other than SavedModels.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise UnsupportedError(f"not supported yet: custom_model_config in {origin}. Use a model_config_list.")
    models = config.model_config_list.config
    if not models:
        raise ConfigError(f"{origin} has no models. Write: model_config_list {{ config {{ name: … base_path: … }} }}")
    names = [model.name for model in models]
    for model in models:
        if not model.name or not model.base_path:
            entry = text_format.MessageToString(model, as_one_line=True)
            raise ConfigError(f"{origin}: every config needs a name and a base_path (found: {entry})")
        if names.count(model.name) > 1:
            raise ConfigError(f"{origin}: Illegal to list model {model.name} multiple times in config list")
        if model.model_platform not in ("", PLATFORM):
            raise UnsupportedError(
                f"not supported yet: model_platform {model.model_platform!r} in {origin}. Use {PLATFORM!r}."
            )
        if model.model_type not in (0, TENSORFLOW_MODEL_TYPE):
            raise UnsupportedError(
                f"not supported yet: model_type {model.model_type} in {origin}. Use model_platform: {PLATFORM!r}."
            )
        if model.HasField("logging_config"):
            check_logging(model.logging_config, f"{origin}: logging_config of model {model.name}")
    return config


def check_logging(config: LoggingConfig, origin: str) -> None:
    """Checks the logging_config of a model, and that its files can be written.

    Raises: ConfigError if it is not valid, UnsupportedError for what this server does not have.
    """
    collector, sampling = config.log_collector_config, config.sampling_config
    if config.HasField("custom_logging_config"):
        raise UnsupportedError(f"{origin}: custom_logging_config is not supported. Remove it.")
    if collector.type not in ("", LOG_TYPE):
        raise UnsupportedError(
            f"{origin}: log_collector_config.type {collector.type!r} is not supported. Remove it: this server writes "
            f"{LOG_TYPE} files."
        )
    for field in ("per_task_sampling_configs", "attributes"):
        if getattr(sampling, field):
            raise UnsupportedError(f"{origin}: sampling_config.{field} is not supported. Remove it.")
    if not config.HasField("sampling_config") or not 0 <= sampling.sampling_rate <= 1:
        found = sampling.sampling_rate if config.HasField("sampling_config") else "none"
        raise ConfigError(f"{origin}: sampling_config.sampling_rate must be from 0 to 1 (found: {found}).")
    prefix = collector.filename_prefix
    if "://" in prefix:
        raise UnsupportedError(f"{origin}: filename_prefix {prefix} is not supported. Use a path of this machine.")
    path = Path(prefix)
    if not prefix or prefix.endswith("/"):
        raise ConfigError(
            f"{origin}: filename_prefix must be a folder and the start of file names, such as /logs/requests "
            f"(found: {prefix!r})."
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{origin}: the folder of filename_prefix does not exist ({path.parent}). Create it.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{origin}: the folder of filename_prefix cannot be written to ({path.parent}). Change its permissions, or "
            "choose another folder."
        )


def read_batching(path: str | os.PathLike[str]) -> Batching:
    """Reads the file of --batching_parameters_file.

    Raises: ConfigError if it cannot be read or is not valid, UnsupportedError if this server lacks a field.
    """
    message = read_text_proto(path, SCHEMA.message_class("BatchingParameters")())
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name == "allowed_batch_sizes":
            values[field.name] = tuple(value)
        elif field.name in Batching.__dataclass_fields__:
            values[field.name] = value.value if field.message_type else value
        else:
            raise UnsupportedError(f"not supported yet: {field.name} in {path}. Remove it.")
    return checked_batching(Batching(**values), path)


def checked_batching(batching: Batching, path: str | os.PathLike[str]) -> Batching:
    """Returns the parameters. Raises: ConfigError if they are not valid."""
    sizes = batching.allowed_batch_sizes
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != batching.max_batch_size):
        raise ConfigError(
            f"{path}: allowed_batch_sizes must increase and end with max_batch_size {batching.max_batch_size} "
            f"(found: {list(sizes)})"
        )
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(batching, name) < 1:
            raise ConfigError(f"{path}: {name} must be at least 1 (found: {getattr(batching, name)})")
    if batching.batch_timeout_micros < 0:
        raise ConfigError(f"{path}: batch_timeout_micros must be at least 0 (found: {batching.batch_timeout_micros})")
    return batching


def read_metrics_path(path: str | os.PathLike[str]) -> str | None:
    """Returns the path of the metrics in the file of --monitoring_config_file; None if it disables Prometheus.

    Raises: ConfigError if the file cannot be read or is not valid.
    """
    prometheus = read_text_proto(path, SCHEMA.message_class("MonitoringConfig")()).prometheus_config
    metrics_path: str = prometheus.path or METRICS_PATH
    if not metrics_path.startswith("/"):
        raise ConfigError(f"{path}: prometheus_config.path must start with '/' (found: {metrics_path!r})")
    return metrics_path if prometheus.enable else None


def read_ssl(path: str | os.PathLike[str]) -> Ssl:
    """Reads the file of --ssl_config_file.

    Raises: ConfigError if it cannot be read, if it has no key and certificate, or paths in place of PEM texts.
    """
    message = read_text_proto(path, SCHEMA.message_class("SSLConfig")())
    ssl = Ssl(message.server_key, message.server_cert, message.custom_ca, message.client_verify)
    required = {"server_key": ssl.server_key, "server_cert": ssl.server_cert}
    if ssl.custom_ca or ssl.client_verify:
        required["custom_ca"] = ssl.custom_ca
    for name, text in required.items():
        if PEM_START not in text:
            found = f"{text[:MAX_QUOTED_CHARS]!r}" if text else "none"
            raise ConfigError(
                f"{os.fspath(path)}: {name} must be the text of a PEM file, with \\n as line ends (found: {found})."
            )
    return ssl


def number_in(environment: Mapping[str, str], name: str, default: int) -> int:
    """Returns the whole number in an environment variable. Raises: ConfigError if it has another value."""
    text = environment.get(name)
    try:
        return default if text is None else int(text)
    except ValueError:
        raise ConfigError(f"the environment variable {name} must be a whole number (found: {text!r}).") from None


def read_text_proto(path: str | os.PathLike[str], message: Any) -> Any:
    """Fills a message from a file in text format and returns it. Raises: ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{os.fspath(path)} cannot be read: {error}") from error
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        line = f"line {error.GetLine()}: " if error.GetLine() else ""
        reason = QUOTED_LINE.sub("", str(error))
        raise ConfigError(
            f"{os.fspath(path)} is not a {message.DESCRIPTOR.name} in text format: {line}{reason.rstrip('.')}."
        ) from error


# The messages that tensorflow-serving-api does not have. Fields: name, number, type.
# Source: servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto,
# config/ssl_config.proto.
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
    "SSLConfig": [
        ("server_key", 1, "string"),
        ("server_cert", 2, "string"),
        ("custom_ca", 3, "string"),
        ("client_verify", 4, "bool"),
    ],
    "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
    "MonitoringConfig": [("prometheus_config", 1, "PrometheusConfig")],
}

SCHEMA = pool_of_table("unfreeze.serving", MESSAGES)
