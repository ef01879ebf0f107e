"""`unfreeze evaluate`."""

from __future__ import annotations

from typing import Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import print_result, progress
from unfreeze.onednn import enable_for_command


@command("evaluate")
@click.argument("model", type=PATH)
@click.argument("annotations", type=PATH)
@option(
    "--against",
    section=Section.INPUT,
    type=PATH,
    help="A second SavedModel or frozen graph, evaluated on the same images.",
)
@option(
    "--images",
    section=Section.INPUT,
    type=PATH,
    metavar="FOLDER",
    help="The folder of the images that the JSON file names. Default: the folder of the JSON file.",
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
    "--batch-size",
    section=Section.MODEL,
    type=click.IntRange(1),
    default=8,
    show_default=True,
    metavar="N",
    help="How many images of one size to run at once.",
)
@options.as_json
@options.quiet
def evaluate(model: str, annotations: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Measure COCO mAP on annotated images.

    MODEL is a SavedModel or a frozen graph (.pb). ANNOTATIONS is a JSON file in COCO's format, or the TFRecord files of
    the training (a file or a quoted pattern).
    """
    enable_for_command()
    with progress(quiet) as (on_progress, _):
        from unfreeze.evaluation.evaluate import evaluate

        evaluation = evaluate(model, annotations, **settings, on_progress=on_progress)
    print_result(evaluation.to_dict(), str(evaluation), as_json=as_json, quiet=quiet)
