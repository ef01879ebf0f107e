"""`unfreeze diff`."""

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import print_result, progress


@command("diff")
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@option(
    "--image",
    "images",
    section=Section.INPUT,
    type=PATH,
    multiple=True,
    help="An image to run both models on (repeatable). Default: a generated image if one is a file of another runtime, "
    "else none.",
)
@options.as_json
@option("--exit-code", section=Section.OUTPUT, is_flag=True, help="Exit with code 1 if the models differ.")
def diff(old: str, new: str, images: tuple[str, ...], exit_code: bool, as_json: bool) -> int:
    """Compare two models: weights, signatures, thresholds, operations, outputs.

    OLD and NEW are checkpoints, SavedModels, frozen graphs, or ONNX, OpenVINO (.xml) or TFLite files, of the same kind
    or of two kinds. The files are read. Models are run if you pass --image, or if one is of the last three kinds, whose
    weights cannot be compared.
    """
    with progress(quiet=as_json) as (on_progress, _):
        from unfreeze.comparison.diff import diff

        difference = diff(old, new, images=images, on_progress=on_progress)
    print_result(difference.to_dict(), str(difference), as_json=as_json)
    return int(exit_code and not difference.same)
