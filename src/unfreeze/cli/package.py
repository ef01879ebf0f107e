"""`unfreeze package tensorflow-serving`, `kserve`, `sagemaker` and `triton`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import CONTEXT_SETTINGS, PATH, Section, command, option
from unfreeze.cli.terminal import print_result, progress
from unfreeze.targets.server_versions import parse_server_version

if TYPE_CHECKING:
    from unfreeze.callbacks import OnMessage
    from unfreeze.targets.packaged import Packaged


@click.group(context_settings=CONTEXT_SETTINGS)
@click.option("--traceback", is_flag=True, expose_value=False, help="Print the Python traceback of an error.")
def package() -> None:
    """Write the files of a deployment: model, configs and manifests.

    COMMAND is the server to deploy to.
    """


def packaging(target: str, model: str = "saved_model") -> Callable[[Callable[..., None]], click.Command]:
    """Returns a decorator that makes a function a subcommand, with the arguments and options that all of them have.

    `model` is the name of the argument for the model.
    """
    default_version = parse_server_version(target)

    def decorate(function: Callable[..., None]) -> click.Command:
        for parameter in (
            options.quiet,
            options.as_json,
            options.overwrite,
            option(
                "--output-directory",
                section=Section.OUTPUT,
                type=PATH,
                default=target,
                show_default=True,
                help="The folder to write to.",
            ),
            option(
                "--for",
                "server",
                section=Section.SERVER,
                default=target,
                metavar="SERVER",
                help=f"The version of the server. Default: {default_version}.",
            ),
            option(
                "--name",
                section=Section.SERVER,
                default="detector",
                show_default=True,
                metavar="NAME",
                help="The name of the deployed model.",
            ),
            click.argument(model, type=PATH),
        ):
            function = parameter(function)
        decorated = command(target)(function)
        package.add_command(decorated)
        return decorated

    return decorate


def run_packaging(write: Callable[[OnMessage], Packaged], quiet: bool, as_json: bool) -> None:
    """Writes a package and prints the result; `write` receives the function that prints warnings."""
    with progress(quiet) as (_, on_warning):
        packaged = write(on_warning)
    print_result(packaged.to_dict(), str(packaged), as_json=as_json, quiet=quiet)


cpus = option(
    "--cpus",
    section=Section.SERVER,
    type=click.IntRange(1),
    default=2,
    show_default=True,
    metavar="N",
    help="How many CPUs each server gets.",
)
memory = option(
    "--memory",
    section=Section.SERVER,
    default="4Gi",
    show_default=True,
    metavar="AMOUNT",
    help="How much memory each server gets, in the notation of Kubernetes.",
)
gpus = option(
    "--gpus",
    section=Section.SERVER,
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many NVIDIA GPUs each server gets; with at least one, the container image is the one for GPUs.",
)
gpu_memory_fraction = option(
    "--gpu-memory-fraction",
    section=Section.SERVER,
    type=click.FloatRange(0, 1, min_open=True),
    metavar="PART",
    help="The part of each GPU's memory that a server may use, such as 0.5. Default: all of it.",
)
version = option(
    "--version",
    section=Section.SERVER,
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="The version number of the model.",
)


@packaging("tensorflow-serving")
@version
@cpus
@memory
@gpus
@gpu_memory_fraction
@option(
    "--batching/--no-batching",
    section=Section.SERVER,
    default=None,
    help="Let the server run several requests in one batch, or not. Default: batching, if all inputs of "
    "serving_default have one size.",
)
def package_tensorflow_serving(saved_model: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write a TensorFlow Serving deployment.

    The files are the model, TensorFlow Serving's config files, compose.yaml and kubernetes.yaml.
    """
    from unfreeze.targets.tensorflow_serving import package_tensorflow_serving

    run_packaging(
        lambda on_warning: package_tensorflow_serving(saved_model, **settings, on_warning=on_warning), quiet, as_json
    )


@packaging("kserve")
@option(
    "--storage-uri",
    section=Section.SERVER,
    default="",
    metavar="URL",
    help="The folder from which KServe loads versions, such as s3://bucket/models/NAME. Default: "
    "pvc://NAME-models/models/NAME, a path of a volume claim.",
)
@cpus
@memory
@gpus
@gpu_memory_fraction
def package_kserve(saved_model: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write a KServe deployment: inference-service.yaml."""
    from unfreeze.targets.kserve import package_kserve

    run_packaging(lambda on_warning: package_kserve(saved_model, **settings, on_warning=on_warning), quiet, as_json)


@packaging("sagemaker")
@options.label_map()
@version
@option(
    "--min-score",
    section=Section.SERVER,
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    metavar="SCORE",
    help="Omit detections below this score from responses.",
)
@option(
    "--region",
    section=Section.SERVER,
    default="us-east-1",
    show_default=True,
    metavar="REGION",
    help="The AWS region.",
)
@option(
    "--role",
    section=Section.SERVER,
    metavar="ARN",
    help="The ARN of the role that SageMaker assumes. Default: passed to deploy.py later.",
)
@option(
    "--bucket",
    section=Section.SERVER,
    metavar="BUCKET",
    help="The S3 bucket for the model. Default: passed to deploy.py later.",
)
@option(
    "--instance-type",
    section=Section.SERVER,
    default="ml.m5.xlarge",
    show_default=True,
    metavar="TYPE",
    help="The instance type of the endpoint; its processor decides which container image is used.",
)
@option(
    "--multi-model-endpoint",
    section=Section.SERVER,
    metavar="ENDPOINT",
    help="Add the model to this multi-model endpoint, which serves several models. Default: the model has an endpoint "
    "of its own, NAME.",
)
def package_sagemaker(saved_model: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write an Amazon SageMaker deployment.

    The files are model.tar.gz, the JSON documents of SageMaker's API, and deploy.py, which uploads and deploys the
    model.
    """
    from unfreeze.targets.sagemaker import package_sagemaker

    run_packaging(lambda on_warning: package_sagemaker(saved_model, **settings, on_warning=on_warning), quiet, as_json)


@packaging("triton", model="model")
@version
@option(
    "--signature",
    section=Section.MODEL,
    default="serving_default",
    show_default=True,
    metavar="NAME",
    help="The signature of a SavedModel that is served.",
)
@options.label_map()
@option(
    "--max-batch-size",
    section=Section.SERVER,
    type=click.IntRange(0),
    metavar="N",
    help="How many images Triton may combine into one batch; 0 for none. Default: 8, if every input and output has a "
    "batch dimension.",
)
@option(
    "--instances",
    section=Section.SERVER,
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many copies of the model run at once, on each GPU or on the CPU.",
)
@gpus
@gpu_memory_fraction
def package_triton(model: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write a Triton deployment: a model repository with config.pbtxt, and compose.yaml.

    MODEL is a SavedModel or an .onnx file.
    """
    from unfreeze.targets.triton import package_triton

    run_packaging(lambda on_warning: package_triton(model, **settings, on_warning=on_warning), quiet, as_json)
