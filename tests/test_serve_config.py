"""The config files and flags of tensorflow_model_server: each field and each flag is honored, or rejected by name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from unfreeze import cli
from unfreeze.cli.model_server_flags import UNSUPPORTED_FLAGS
from unfreeze.errors import ConfigError, UnfreezeError
from unfreeze.server.runtime_options import RuntimeOptions
from unfreeze.server.serve import start_server
from unfreeze.server.settings import read_batching, read_metrics_path, read_models, read_ssl

ROOT = Path(__file__).parents[1]
TLS = Path(__file__).parent / "data" / "tls"

# Text of a config for a model -> the error, which names the field.
BAD_MODELS = [
    ('nme: "a"', r'line 1: Message type "tensorflow.serving.ModelConfig" has no field named "nme"\.$'),
    ("name: 3", r"line 1: Expected string but found: '3'\.$"),
    ('name: "a" base_path: "b" model_type: OTHER', "not supported yet: model_type 2"),
    ('name: "a" base_path: "b" model_platform: "caffe"', "not supported yet: model_platform 'caffe'"),
]
RATE = "sampling_config { sampling_rate: 1 }"
BAD_LOGGING = [
    (RATE + " rate: 1", 'LoggingConfig" has no field named "rate"'),
    ("custom_logging_config {}", "custom_logging_config is not supported"),
    ('log_collector_config { type: "kafka" }', "log_collector_config.type 'kafka' is not supported"),
    ("sampling_config { attributes: 1 }", "sampling_config.attributes is not supported"),
    ("sampling_config { per_task_sampling_configs {} }", "sampling_config.per_task_sampling_configs is not supported"),
    ("", r"sampling_rate must be from 0 to 1 \(found: none\)"),
    ("sampling_config { sampling_rate: 1.5 }", r"sampling_rate must be from 0 to 1 \(found: 1.5\)"),
    (RATE, r"filename_prefix must be a folder and the start of file names.* \(found: ''\)"),
    (RATE + ' log_collector_config { filename_prefix: "gs://b/x" }', "filename_prefix gs://b/x is not supported"),
    (RATE + ' log_collector_config { filename_prefix: "/nowhere/x" }', r"does not exist \(/nowhere\)"),
]


@pytest.mark.parametrize(
    ("text", "message"),
    [*BAD_MODELS, *((f'name: "a" base_path: "b" logging_config {{ {text} }}', m) for text, m in BAD_LOGGING)],
)
def test_unsupported_and_unknown_fields_of_a_model_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "models.txt"
    path.write_text(f"model_config_list {{ config {{ {text} }} }}")
    with pytest.raises(UnfreezeError, match=message) as caught:
        read_models(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_fields_of_the_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.txt"
    for read, text in [
        (read_batching, "max_execution_batch_size { value: 3 }"),
        (read_batching, "batch_size { value: 3 }"),
        (read_metrics_path, "statsd { enable: true }"),
        (read_ssl, "server_ca: 'x'"),
    ]:
        path.write_text(text)
        with pytest.raises(UnfreezeError, match=text.split()[0].rstrip(":")):
            read(path)


def test_name_of_the_thread_pool_is_read(tmp_path: Path) -> None:
    path = tmp_path / "batching.txt"
    path.write_text("thread_pool_name { value: 'pool' }")
    assert read_batching(path).thread_pool_name == "pool"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"server_key must be the text of a PEM file.*\(found: none\)"),
        ({"server_key": "/etc/key.pem"}, r"server_key .*\(found: '/etc/key.pem'\)"),
        ({"server_cert": ""}, r"server_cert .*\(found: none\)"),
        ({"client_verify": True}, r"custom_ca .*\(found: none\)"),
    ],
)
def test_ssl_config_without_pem_texts_is_rejected(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    complete = {"server_key": (TLS / "key.pem").read_text(), "server_cert": (TLS / "cert.pem").read_text()}
    path = tmp_path / "ssl.txt"
    path.write_text(
        " ".join(f"{name}: {json.dumps(value)}" for name, value in {**complete, **fields}.items() if fields)
    )
    with pytest.raises(ConfigError, match=message):
        read_ssl(path)


def test_runtime_options_out_of_range_are_rejected() -> None:
    for options, message in [
        (RuntimeOptions(gpu_memory_fraction=1.5), r"--per-process-gpu-memory-fraction .* \(found: 1.5\)"),
        (RuntimeOptions(intra_op_threads=-1), r"--tensorflow-intra-op-parallelism .* \(found: -1 and 0\)"),
    ]:
        with pytest.raises(ConfigError, match=message):
            options.apply()


APPLY = """
import logging
logging.basicConfig(format="%(message)s")
from unfreeze.errors import ConfigError
from unfreeze.server.runtime_options import RuntimeOptions
import tensorflow as tf
from tensorflow.python.eager import context
RuntimeOptions(1, 2, gpu_memory_fraction=0.25, gpu_memory_growth=True).apply()
tf.constant(1) + 1
config = context.context().config
print(config.intra_op_parallelism_threads, config.inter_op_parallelism_threads)
print(config.gpu_options.per_process_gpu_memory_fraction)
try:
    RuntimeOptions(gpu_memory_fraction=0.5).apply()
except ConfigError as error:
    print(error)
"""


def test_runtime_options_are_those_of_tensorflow() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", APPLY], capture_output=True, text=True, env=environment)
    threads, fraction, error = done.stdout.splitlines()
    assert (threads, fraction) == ("1 2", "0.25")
    assert error.startswith("threads and GPU memory of TensorFlow cannot be changed after it has run an operation")
    assert "TensorFlow finds no GPU: the options of its memory have no effect" in done.stderr


def serve_options() -> set[str]:
    command = cli.unfreeze.get_command(click.Context(cli.unfreeze), "serve")
    assert command is not None
    return {option.lstrip("-").replace("-", "_") for param in command.params for option in param.opts}


def test_each_flag_of_tensorflow_model_server_is_an_option_or_rejected_by_name() -> None:
    flags = json.loads((ROOT / "tests" / "data" / "model_server_flags.json").read_text())["flags"]
    assert sorted(set(flags) & serve_options()) == sorted(set(flags) - set(UNSUPPORTED_FLAGS))
    assert set(UNSUPPORTED_FLAGS) <= set(flags)


def test_rejected_flags_are_listed_in_the_docs() -> None:
    _, _, section = (ROOT / "docs" / "serve.md").read_text().partition("### Flags of tensorflow_model_server")
    table, _, _ = section.partition("\n## ")
    assert dict(re.findall(r"^\| `--(\w+)` \| (.+) \|$", table, re.MULTILINE)) == {
        flag: hint.replace("MODEL_BASE_PATH", "`MODEL_BASE_PATH`") for flag, hint in UNSUPPORTED_FLAGS.items()
    }


@pytest.mark.parametrize("argument", ["--rest_api_num_threads=4", "--rest-api-num-threads"])
def test_rejected_flag_says_what_to_do_instead(argument: str) -> None:
    result = CliRunner().invoke(cli.unfreeze, ["serve", "models", argument, "4"])
    assert result.exit_code == 2
    assert "--rest_api_num_threads is not supported. Pass --max-queued-requests" in result.output


def test_options_of_a_disabled_protocol_are_rejected() -> None:
    for options, message in [
        ({"port": None, "ssl_config_file": "ssl.txt"}, "--ssl-config-file has no effect without gRPC"),
        ({"rest_api_port": None, "rest_api_enable_cors_support": True}, "cors-support has no effect without REST"),
    ]:
        with pytest.raises(ConfigError, match=message):
            start_server("models", **options)  # type: ignore[arg-type]


def test_multi_model_endpoint_takes_no_archive() -> None:
    for arguments, message in [
        (["--sagemaker", "--multi-model", "model.tar.gz"], "--multi-model takes no MODEL_BASE_PATH"),
        (["--sagemaker"], "--sagemaker needs a model.tar.gz, a folder unpacked from one, or --multi-model"),
        (["--multi-model", "models"], "--multi-model has an effect with --sagemaker only"),
        (["--sagemaker", "--multi-model", "--gpu-memory-growth"], "--gpu-memory-growth: not with --sagemaker"),
    ]:
        result = CliRunner().invoke(cli.unfreeze, ["serve", *arguments])
        assert result.exit_code == 2
        assert message in result.output
