"""`unfreeze benchmark`."""

from __future__ import annotations

from typing import Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import print_result, progress


class BatchSizes(click.ParamType):
    """`8`, `1 8` or `1,8` -> a tuple of sizes."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        sizes = str(value).replace(",", " ").split()
        if not sizes or not all(size.isdecimal() and int(size) for size in sizes):
            self.fail(f"{value!r} is not a batch size such as 8, or several such as '1 8'", param, ctx)
        return tuple(map(int, sizes))


def joined(context: click.Context, param: click.Parameter, value: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Returns all sizes of a repeated option; 1 without any."""
    return tuple(size for sizes in value for size in sizes) or (1,)


@command("benchmark")
@click.argument("models", nargs=-1, required=True, type=PATH, metavar="MODEL...")
@option(
    "--images",
    section=Section.INPUT,
    type=PATH,
    metavar="FOLDER",
    help="The folder of the images to run, and of those that the annotations name. Default: a generated image.",
)
@option(
    "--annotations",
    section=Section.INPUT,
    type=PATH,
    metavar="FILE",
    help="COCO's JSON or TFRecord files: also measure the mAP of each model.",
)
@options.label_map()
@option(
    "--batch",
    section=Section.MODEL,
    type=BatchSizes(),
    multiple=True,
    callback=joined,
    help="Batch size (repeatable, or several in quotes: '1 8'). Default: 1.",
)
@option(
    "--threads",
    section=Section.MODEL,
    type=click.IntRange(1),
    metavar="N",
    help="Limit the threads of each model. Default: each runtime chooses.",
)
@option(
    "--seconds",
    section=Section.MODEL,
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="S",
    help="How long to measure each batch size, all models together. At least 10 rounds are run.",
)
@option("--chart", section=Section.OUTPUT, type=PATH, metavar="FILE.png", help="Also draw the times as a bar chart.")
@options.overwrite
@options.as_json
@options.quiet
def benchmark(models: tuple[str, ...], as_json: bool, quiet: bool, **settings: Any) -> int:
    """Compare the speed, size and detections of models.

    MODEL is a SavedModel or another model file, such as a frozen graph (.pb). Each runs in a process of its own, in
    turn with the others. The exit code is 1 if one of them fails.
    """
    with progress(quiet) as (on_progress, _):
        from unfreeze.benchmarking.benchmark import benchmark

        result = benchmark(models, **settings, on_progress=on_progress)
    print_result(result.to_dict(), str(result), as_json=as_json, quiet=quiet)
    return 0 if result.ok else 1
