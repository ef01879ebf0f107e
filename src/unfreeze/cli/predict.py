"""`unfreeze predict`."""

from __future__ import annotations

from typing import Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Names, Section, command, option
from unfreeze.cli.terminal import counting, print_line, print_result
from unfreeze.onednn import enable_for_command


@command("predict")
@click.argument("saved_model", type=PATH)
@click.argument("images", type=PATH, nargs=-1)
@option(
    "--endpoint",
    section=Section.INPUT,
    metavar="NAME",
    help="Use this SageMaker endpoint instead of SAVED_MODEL; the same as sagemaker://NAME.",
)
@options.label_map()
@option(
    "--annotations",
    section=Section.INPUT,
    type=PATH,
    help="Many images: a JSON file in COCO's format, whose image ids the COCO results take.",
)
@option(
    "--video-step",
    section=Section.INPUT,
    type=click.IntRange(1),
    metavar="N",
    help="Use every N-th frame of a video (default: 1).",
)
@option(
    "--min-score",
    section=Section.MODEL,
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Ignore detections below this score.",
)
@option(
    "--batch-size",
    section=Section.MODEL,
    type=click.IntRange(1),
    help="Many images: how many of one size to run at once (default: 2; on a GPU 16).",
)
@option(
    "--output-directory",
    section=Section.OUTPUT,
    type=PATH,
    help="The folder to write. Default: beside each image; for many images, predictions.",
)
@options.overwrite
@option(
    "--draw/--no-draw",
    section=Section.OUTPUT,
    default=None,
    help="Write copies of the images with boxes, class names and scores. Default: only for image files.",
)
@option(
    "--magnify",
    section=Section.OUTPUT,
    type=click.IntRange(1, 16),
    default=1,
    metavar="N",
    help="Enlarge the drawn images N times.",
)
@option(
    "--format",
    "formats",
    section=Section.OUTPUT,
    type=Names(),
    metavar="NAME,…",
    help="Many images: the files to write: jsonl (default), parquet, coco (results JSON), drawn, or all.",
)
@options.as_json
@option(
    "--engine",
    section=Section.CLUSTER,
    type=click.Choice(["threads", "ray"]),
    help="Many images: run in this process (threads, the default) or in the workers of a Ray cluster (ray).",
)
@option(
    "--address",
    section=Section.CLUSTER,
    help="The address of the Ray cluster, HOST:6379 or auto. Default: a cluster on this machine.",
)
@option(
    "--actors",
    section=Section.CLUSTER,
    type=click.IntRange(1),
    help="How many Ray workers load the model (default: as many as fit).",
)
@option("--cpus-per-actor", section=Section.CLUSTER, type=click.IntRange(1), help="CPUs of each worker (default: 2).")
@option("--gpus-per-actor", section=Section.CLUSTER, type=click.FloatRange(0), help="GPUs of each worker (default: 0).")
@options.quiet
def predict(
    saved_model: str, images: tuple[str, ...], endpoint: str | None, as_json: bool, quiet: bool, **settings: Any
) -> int:
    """Detect objects in images.

    SAVED_MODEL is a folder, a frozen graph (.pb), or the address of a server: http://HOST:8501/v1/models/NAME,
    grpc://HOST:8500/NAME, sagemaker://ENDPOINT.

    IMAGES are image files. Without further options, each gets a copy with its detections drawn on it.

    IMAGES may also be many: a folder, a quoted pattern, a list of paths (.txt, or - for stdin), a URL such as
    s3://BUCKET/FOLDER, or a video. Then the results are files in --output-directory, first of all predictions.jsonl. A
    run that was interrupted continues when it is started again. With --engine ray it runs on a cluster.

    An image that cannot be read does not stop the others; the exit code is then 2.
    """
    if endpoint:
        saved_model, images = f"sagemaker://{endpoint.removeprefix('sagemaker://')}", (saved_model, *images)
    elif not images:
        raise click.UsageError("Missing argument 'IMAGES...'.")
    if "://" not in saved_model:
        from unfreeze.runtimes import find_model

        find_model(saved_model)  # reports a wrong path before the seconds that TensorFlow takes
    enable_for_command()
    with counting(quiet) as (on_progress, on_warning, on_advance):
        from unfreeze.prediction.predict import predict

        result = predict(
            saved_model,
            images,
            **settings,
            on_progress=on_progress,
            on_warning=on_warning,
            on_advance=on_advance,
            on_failure=lambda image, error: print_line(f"error: {error}"),
        )
    print_result(result.to_dict(), str(result), as_json=as_json, quiet=quiet)
    return 2 if result.failures else 0
