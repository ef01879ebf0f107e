"""`unfreeze package tensorflow-serving`, `kserve` and `sagemaker`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import CONTEXT_SETTINGS, PATH, Section, command, option
from unfreeze.cli.terminal import print_result, progress
from unfreeze.targets.server_versions import parse_server_version

if TYPE_CHECKING:
    from unfreeze.targets.packaged import Packaged


@click.group(context_settings=CONTEXT_SETTINGS)
@click.option("--traceback", is_flag=True, expose_value=False, help="Print the Python traceback of an error.")
def package() -> None:
    """Write the files of a deployment: model, configs and manifests.

    COMMAND is the server to deploy to.
    """


def packaging(target: str) -> Callable[[Callable[..., None]], click.Command]:
    """Returns a decorator that makes a function a subcommand, with the arguments and options that all of them have."""
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
                help=f"The version of the server, such as {target}:2.18. Default: {default_version}.",
            ),
            option(
                "--name",
                section=Section.SERVER,
                default="detector",
                show_default=True,
                metavar="NAME",
                help="The name of the deployed model.",
            ),
            click.argument("saved_model", type=PATH),
        ):
            function = parameter(function)
        decorated = command(target)(function)
        package.add_command(decorated)
        return decorated

    return decorate


def run_packaging(write: Callable[[], Packaged], quiet: bool, as_json: bool) -> None:
    """Writes a package and prints the result."""
    with progress(quiet):
        packaged = write()
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

    run_packaging(lambda: package_tensorflow_serving(saved_model, **settings), quiet, as_json)


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
def package_kserve(saved_model: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write a KServe deployment: inference-service.yaml."""
    from unfreeze.targets.kserve import package_kserve

    run_packaging(lambda: package_kserve(saved_model, **settings), quiet, as_json)


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
    help="The instance type of the endpoint.",
)
def package_sagemaker(saved_model: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Write an Amazon SageMaker deployment.

    The files are model.tar.gz, the JSON documents of SageMaker's API, and deploy.py, which uploads and deploys the
    model.
    """
    from unfreeze.targets.sagemaker import package_sagemaker

    run_packaging(lambda: package_sagemaker(saved_model, **settings), quiet, as_json)
