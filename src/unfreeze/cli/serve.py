"""`unfreeze serve`."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from unfreeze.cli import options
from unfreeze.cli.model_server_flags import UNSUPPORTED_FLAGS
from unfreeze.cli.options import PATH, Command, Section, Switch, command, option
from unfreeze.cli.terminal import log_to_stderr, print_result, progress
from unfreeze.onednn import enable_for_command

PORT = click.IntRange(0, 65535)
SAGEMAKER_OPTIONS = {
    "host", "sagemaker", "sagemaker_port", "multi_model", "model_base_path", "model_base_path_flag", "quiet",
    "enable_model_warmup", "rest_api_timeout_in_ms", "max_queued_requests", "max_request_bytes", "max_image_pixels",
}  # fmt: skip


class ServeCommand(Command):
    """The command, which rejects flags of tensorflow_model_server that it does not have with what to do instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for arg in args:
            flag = arg.partition("=")[0].lstrip("-").replace("-", "_")
            if arg.startswith("--") and flag in UNSUPPORTED_FLAGS:
                raise click.UsageError(f"--{flag} is not supported. {UNSUPPORTED_FLAGS[flag]}", ctx)
        return super().parse_args(ctx, args)


@command("serve", cls=ServeCommand)
@click.argument("model_base_path", type=PATH, required=False)
@option(
    "--model-base-path",
    "model_base_path_flag",
    section=Section.MODEL,
    type=PATH,
    help="The same as the argument MODEL_BASE_PATH.",
)
@option(
    "--model-name",
    section=Section.MODEL,
    default="default",
    show_default=True,
    metavar="NAME",
    help="The name of the model in requests.",
)
@option(
    "--model-config-file",
    section=Section.MODEL,
    type=PATH,
    help="A ModelServerConfig in text format, in place of MODEL_BASE_PATH: models, version policies and labels.",
)
@option(
    "--model-config-file-poll-wait-seconds",
    section=Section.MODEL,
    type=float,
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="The time until --model-config-file is read again, in seconds; 0 reads it only at the start.",
)
@option(
    "--file-system-poll-wait-seconds",
    section=Section.MODEL,
    type=float,
    default=1,
    show_default=True,
    metavar="SECONDS",
    help="The time between two looks for new versions, in seconds; 0 looks only at the start.",
)
@option(
    "--max-num-load-retries",
    section=Section.MODEL,
    type=click.IntRange(0),
    default=5,
    show_default=True,
    metavar="N",
    help="How many times to retry a version that failed to load.",
)
@option(
    "--load-retry-interval-micros",
    section=Section.MODEL,
    type=click.IntRange(0),
    default=60_000_000,
    show_default=True,
    metavar="MICROSECONDS",
    help="The time between two attempts to load a version, in microseconds.",
)
@option(
    "--enable-model-warmup",
    section=Section.MODEL,
    cls=Switch,
    default=True,
    show_default=True,
    help="Run the warm-up requests of a version before it accepts requests.",
)
@option(
    "--allow-version-labels-for-unavailable-models",
    section=Section.MODEL,
    cls=Switch,
    default=False,
    show_default=True,
    help="Accept labels for versions that are not loaded yet.",
)
@option(
    "--host",
    section=Section.SERVER,
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="The address to listen on; 0.0.0.0 listens on all. There is no authentication.",
)
@option(
    "--port",
    section=Section.SERVER,
    type=PORT,
    default=8500,
    show_default=True,
    metavar="PORT",
    help="gRPC port; 0 disables gRPC.",
)
@option(
    "--rest-api-port",
    section=Section.SERVER,
    type=PORT,
    default=8501,
    show_default=True,
    metavar="PORT",
    help="REST port; 0 disables REST.",
)
@option(
    "--rest-api-timeout-in-ms",
    section=Section.SERVER,
    type=click.IntRange(1),
    default=30_000,
    show_default=True,
    metavar="MILLISECONDS",
    help="The deadline of a REST request, in milliseconds.",
)
@option(
    "--enable-batching",
    section=Section.SERVER,
    cls=Switch,
    default=False,
    show_default=True,
    help="Run requests that wait at the same time in one call of the model.",
)
@option(
    "--batching-parameters-file",
    section=Section.SERVER,
    type=PATH,
    help="A BatchingParameters message in text format, for --enable-batching.",
)
@option(
    "--monitoring-config-file",
    section=Section.SERVER,
    type=PATH,
    help="A MonitoringConfig message in text format. Default: metrics for Prometheus at "
    "/monitoring/prometheus/metrics of the REST port.",
)
@option(
    "--ssl-config-file",
    section=Section.SERVER,
    type=PATH,
    help="An SSLConfig message in text format: the key and certificate for gRPC with TLS.",
)
@option(
    "--rest-api-enable-cors-support",
    section=Section.SERVER,
    cls=Switch,
    default=False,
    show_default=True,
    help="Let pages of other origins send REST requests from a browser.",
)
@option(
    "--tensorflow-intra-op-parallelism",
    section=Section.SERVER,
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many threads one TensorFlow operation may use; 0 leaves it to TensorFlow.",
)
@option(
    "--tensorflow-inter-op-parallelism",
    section=Section.SERVER,
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many TensorFlow operations may run at the same time; 0 leaves it to TensorFlow.",
)
@option(
    "--per-process-gpu-memory-fraction",
    section=Section.SERVER,
    type=click.FloatRange(0, 1),
    default=0,
    show_default=True,
    metavar="FRACTION",
    help="The part of a GPU's memory that TensorFlow may take, from 0 to 1; 0 means all.",
)
@option(
    "--gpu-memory-growth",
    section=Section.SERVER,
    cls=Switch,
    default=False,
    show_default=True,
    help="Take the memory of a GPU as needed, rather than all of it at the start.",
)
@option(
    "--max-queued-requests",
    section=Section.SERVER,
    type=click.IntRange(1),
    default=64,
    show_default=True,
    metavar="N",
    help="How many requests may be in flight; further ones are rejected with 429.",
)
@option(
    "--max-request-bytes",
    section=Section.SERVER,
    type=click.IntRange(1),
    default=64 * 2**20,
    show_default=True,
    metavar="BYTES",
    help="The size of the largest request, in bytes; a larger one is rejected with 413.",
)
@option(
    "--max-image-pixels",
    section=Section.SERVER,
    type=click.IntRange(1),
    default=64_000_000,
    show_default=True,
    metavar="PIXELS",
    help="The size of the largest encoded image, in pixels; a larger one is rejected with 400.",
)
@option(
    "--sagemaker",
    section=Section.SERVER,
    cls=Switch,
    default=False,
    show_default=True,
    help="Serve a model.tar.gz, passed as MODEL_BASE_PATH, as SageMaker's container does: /ping and /invocations, with "
    "its inference.py.",
)
@option(
    "--sagemaker-port",
    section=Section.SERVER,
    type=PORT,
    default=8080,
    show_default=True,
    envvar="SAGEMAKER_BIND_TO_PORT",
    metavar="PORT",
    help="The port of /ping, /invocations and /models, with --sagemaker.",
)
@option(
    "--multi-model",
    section=Section.SERVER,
    cls=Switch,
    default=False,
    show_default=True,
    envvar="SAGEMAKER_MULTI_MODEL",
    help="With --sagemaker: serve a multi-model endpoint. POST /models loads the models; there is no MODEL_BASE_PATH.",
)
@options.quiet
def serve(
    model_base_path: str | None,
    model_base_path_flag: str | None,
    port: int,
    rest_api_port: int,
    sagemaker: bool,
    sagemaker_port: int,
    multi_model: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Serve models with TensorFlow Serving's REST and gRPC APIs.

    MODEL_BASE_PATH is a folder with numbered versions, the folder of an export, or a .onnx, .xml (OpenVINO) or .tflite
    file. A version has a SavedModel, model.onnx, model.xml or model.tflite. The server runs until SIGTERM or Ctrl-C.
    Most options are those of tensorflow_model_server, with dashes or underscores.
    """
    if model_base_path and model_base_path_flag:
        raise click.UsageError("give the base path once: as an argument or --model-base-path")
    if not sagemaker and not port and not rest_api_port:
        raise click.UsageError("--port and --rest-api-port are both 0: there is nothing to serve on")
    if port and port == rest_api_port:
        raise click.UsageError(f"--rest-api-port cannot be the same as --port; received {port} for both")
    base_path = model_base_path or model_base_path_flag
    if sagemaker:
        if not base_path and not multi_model:
            raise click.UsageError("--sagemaker needs a model.tar.gz, a folder unpacked from one, or --multi-model")
        if base_path and multi_model:
            raise click.UsageError("--multi-model takes no MODEL_BASE_PATH: POST /models loads the models")
        settings = for_sagemaker(click.get_current_context(), settings)
    elif multi_model and is_given("multi_model"):
        raise click.UsageError("--multi-model has an effect with --sagemaker only")
    else:
        settings |= {"port": port or None, "rest_api_port": rest_api_port or None}
    enable_for_command()
    with progress(quiet) as (on_progress, on_warning):
        on_progress("loading")
        from unfreeze.server.serve import addresses, start_sagemaker, start_server, wait_until_stopped

        running: Any
        if sagemaker:
            running = start_sagemaker(
                base_path, multi_model=multi_model, port=sagemaker_port, on_warning=on_warning, **settings
            )
        else:
            running = start_server(base_path, **settings)
    if not quiet:
        print_result(None, addresses(running))
        log_to_stderr("unfreeze.server")
    wait_until_stopped(running)


def for_sagemaker(context: click.Context, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that --sagemaker accepts; the archive and the container's variables decide the others.

    Raises: click.UsageError if another option was given.
    """
    wrong = [
        f"--{name.replace('_', '-')}" for name in context.params if is_given(name) and name not in SAGEMAKER_OPTIONS
    ]
    if wrong:
        raise click.UsageError(f"{', '.join(wrong)}: not with --sagemaker, where the archive decides what is served")
    return {name: value for name, value in settings.items() if name in SAGEMAKER_OPTIONS}


def is_given(name: str) -> bool:
    """Returns whether the command line has an option, rather than its default or an environment variable."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE
