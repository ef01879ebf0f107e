"""`unfreeze verify`."""

from __future__ import annotations

from typing import Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import format_report, print_result, progress


@command("verify")
@click.argument("saved_model", type=PATH)
@option(
    "--against",
    section=Section.INPUT,
    type=PATH,
    help="A frozen graph, a SavedModel or a checkpoint to compare with; its detections must be the same.",
)
@option(
    "--image",
    "images",
    section=Section.INPUT,
    type=PATH,
    multiple=True,
    help="An image to run the models on (repeatable). Default: a generated image.",
)
@options.label_map("Label map with the keypoints of a CenterNet checkpoint. Default: the one in SAVED_MODEL's assets/.")
@options.as_json
@options.report
@options.overwrite
@options.quiet
def verify(saved_model: str, as_json: bool, quiet: bool, **settings: Any) -> int:
    """Check a SavedModel: its files and weights, and its outputs in three loaders.

    SAVED_MODEL is the folder with saved_model.pb, or the export folder above it. Each loader runs in a new process. The
    exit code is 1 if a check fails.
    """
    with progress(quiet) as (on_progress, _):
        from unfreeze.comparison.verify import verify

        report = verify(saved_model, **settings, on_progress=on_progress)
    print_result(report.to_dict(), format_report(report), as_json=as_json, quiet=quiet)
    return 0 if report.passed else 1
