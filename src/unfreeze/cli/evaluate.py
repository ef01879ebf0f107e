"""`unfreeze evaluate`."""

from __future__ import annotations

from typing import Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import print_result, progress
from unfreeze.evaluation.metric_sets import METRIC_SETS
from unfreeze.onednn import enable_for_command


@command("evaluate")
@click.argument("model", type=PATH)
@click.argument("annotations", type=PATH)
@option(
    "--against",
    section=Section.INPUT,
    type=PATH,
    help="A second model, evaluated on the same images.",
)
@option(
    "--images",
    section=Section.INPUT,
    type=PATH,
    metavar="FOLDER",
    help="The folder of the images that the annotations name. Default: where the annotations are; for Pascal VOC, "
    "JPEGImages beside their folder.",
)
@options.label_map()
@option(
    "--limit",
    section=Section.INPUT,
    type=click.IntRange(1),
    metavar="N",
    help="Use only the first N images. Default: all.",
)
@option(
    "--strict",
    section=Section.INPUT,
    is_flag=True,
    help="Stop at the first image that is missing or unreadable, and at classes that the label map lacks. Default: "
    "leave them out, and name them at the end.",
)
@option(
    "--metrics",
    section=Section.MODEL,
    type=click.Choice(METRIC_SETS),
    metavar="NAME",
    help="coco: COCO's metrics. pascal_voc, open_images, open_images_challenge: the mAP at IoU 0.5 as these have it. "
    "Default: by the format of the annotations.",
)
@option(
    "--batch-size",
    section=Section.MODEL,
    type=click.IntRange(1),
    default=8,
    show_default=True,
    metavar="N",
    help="How many images of one size to run at once.",
)
@option(
    "--report",
    "report_path",
    section=Section.OUTPUT,
    type=PATH,
    metavar="FILE.html",
    help="Also write an HTML page: metrics of each class, charts, and the images with the most errors.",
)
@option(
    "--output-directory",
    section=Section.OUTPUT,
    type=PATH,
    help="Also write to this folder: the page, the charts (PNG), drawings of the errors, the result as JSON and CSV.",
)
@options.overwrite
@options.as_json
@options.quiet
def evaluate(model: str, annotations: str, as_json: bool, quiet: bool, **settings: Any) -> int:
    """Measure mAP on annotated images, and what goes wrong.

    MODEL is a SavedModel, a frozen graph (.pb), or a file of ONNX, OpenVINO or TFLite. ANNOTATIONS is a JSON file in
    COCO's format, the TFRecord files of the training (a file or a quoted pattern), a folder of Pascal VOC's XML files,
    or Open Images' CSV files (a file, a quoted pattern or a folder).

    If images are missing or cannot be read, the others are still evaluated, and the exit code is 2.
    """
    enable_for_command()
    with progress(quiet) as (on_progress, on_warning):
        from unfreeze.evaluation.evaluate import evaluate

        evaluation = evaluate(model, annotations, **settings, on_progress=on_progress, on_warning=on_warning)
    print_result(evaluation.to_dict(), str(evaluation), as_json=as_json, quiet=quiet)
    return 2 if evaluation.skipped else 0
