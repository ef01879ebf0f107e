"""`unfreeze predict`."""

from __future__ import annotations

from typing import Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Names, Section, command, option
from unfreeze.cli.terminal import counting, print_line, print_result
from unfreeze.onednn import enable_for_command


@command("predict")
@click.argument("saved_model", type=PATH, metavar="MODEL")
@click.argument("images", type=PATH, nargs=-1)
@option(
    "--endpoint",
    section=Section.INPUT,
    metavar="NAME",
    help="Use this SageMaker endpoint in place of MODEL; the same as sagemaker://NAME.",
)
@options.label_map()
@option(
    "--annotations",
    section=Section.INPUT,
    type=PATH,
    help="Many images: a JSON file in COCO's format, whose image ids are used in the COCO results.",
)
@option(
    "--video-step",
    section=Section.INPUT,
    type=click.IntRange(1),
    metavar="N",
    help="Many images: use every N-th frame of a video. Default: 1.",
)
@option(
    "--min-score",
    section=Section.MODEL,
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    metavar="SCORE",
    help="Ignore detections below this score.",
)
@option(
    "--batch-size",
    section=Section.MODEL,
    type=click.IntRange(1),
    metavar="N",
    help="Many images: how many of one size to run at once. Default: 2 on a CPU, 16 on a GPU.",
)
@option(
    "--tile-size",
    section=Section.MODEL,
    type=click.IntRange(1),
    metavar="PIXELS",
    help="Run images that are larger in tiles of this size, and as a whole, and merge the detections.",
)
@option(
    "--tile-overlap",
    section=Section.MODEL,
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="How much of a tile overlaps the next. Default: 0.2.",
)
@option(
    "--output-directory",
    section=Section.OUTPUT,
    type=PATH,
    help="The folder to write to. Default: the folder of each image; for many images, predictions.",
)
@options.overwrite
@option(
    "--draw/--no-draw",
    section=Section.OUTPUT,
    default=None,
    help="Write copies of the images with boxes, class names and scores, or do not. Default: write them for image "
    "files, not for many images.",
)
@option(
    "--magnify",
    section=Section.OUTPUT,
    type=click.IntRange(1, 16),
    default=1,
    metavar="N",
    help="Enlarge the drawn images N times. Default: 1.",
)
@option(
    "--format",
    "formats",
    section=Section.OUTPUT,
    type=Names(),
    metavar="NAME,…",
    help="Many images: the result files to write: jsonl (default), csv, parquet, coco, drawn, crops, or all.",
)
@options.as_json
@option(
    "--engine",
    section=Section.CLUSTER,
    type=click.Choice(["threads", "ray"]),
    help="Many images: where to run them. threads (default): in this process. ray: in the workers of a Ray cluster.",
)
@option(
    "--address",
    section=Section.CLUSTER,
    metavar="HOST:PORT",
    help="The address of a running Ray cluster, such as HOST:6379, or auto. Default: RAY_ADDRESS if it is set, else a "
    "new cluster on this machine.",
)
@option(
    "--actors",
    section=Section.CLUSTER,
    type=click.IntRange(1),
    metavar="N",
    help="How many Ray workers load the model. Default: as many as fit.",
)
@option(
    "--cpus-per-actor",
    section=Section.CLUSTER,
    type=click.IntRange(1),
    metavar="N",
    help="How many CPUs each worker gets. Default: 2.",
)
@option(
    "--gpus-per-actor",
    section=Section.CLUSTER,
    type=click.FloatRange(0),
    metavar="N",
    help="How many GPUs each worker gets; a fraction shares one. Default: 0.",
)
@options.quiet
def predict(
    saved_model: str, images: tuple[str, ...], endpoint: str | None, as_json: bool, quiet: bool, **settings: Any
) -> int:
    """Detect objects in images.

    MODEL is the folder of a SavedModel or of an export, a frozen graph (.pb), a file of ONNX (.onnx), OpenVINO
    (.xml) or TFLite (.tflite), or the address of a server: http://HOST:8501/v1/models/NAME, grpc://HOST:8500/NAME or
    sagemaker://ENDPOINT.

    Image files: for each of the IMAGES, the detections are printed, and drawn on a copy of the image.

    Many images: if one of the IMAGES is a folder, a quoted pattern, a list of paths (.txt, or - for stdin), a URL such
    as s3://BUCKET/FOLDER, or a video, the results are written to files in --output-directory, by default to
    predictions.jsonl. To continue an interrupted run, run the same command again. With --format or --engine,
    image files are run in this way too.

    If an image cannot be read, the others are still run, and the exit code is 2.
    """
    if endpoint:
        saved_model, images = f"sagemaker://{endpoint.removeprefix('sagemaker://')}", (saved_model, *images)
    elif not images:
        raise click.UsageError("Missing argument 'IMAGES...'.")
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
