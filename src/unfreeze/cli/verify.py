"""`unfreeze verify`."""

from __future__ import annotations

from typing import Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import format_report, print_result, progress


@command("verify")
@click.argument("saved_model", type=PATH, metavar="MODEL")
@option(
    "--against",
    section=Section.INPUT,
    type=PATH,
    help="A SavedModel, a frozen graph, a file of another runtime or a checkpoint; its detections must be the same. "
    "Default: files of other runtimes are compared with the SavedModel of their export.",
)
@option(
    "--image",
    "images",
    section=Section.INPUT,
    type=PATH,
    multiple=True,
    help="An image to run the models on (repeatable). Default: a generated image.",
)
@options.label_map(
    "Label map with the keypoints of a CenterNet checkpoint. Default: the one in the SavedModel's assets/."
)
@options.as_json
@options.report
@options.overwrite
@options.quiet
def verify(saved_model: str, as_json: bool, quiet: bool, **settings: Any) -> int:
    """Check a model: its files, weights and outputs.

    MODEL is a SavedModel (the folder with saved_model.pb), which three loaders run; a frozen graph (.pb) or an
    ONNX, OpenVINO (.xml) or TFLite file, which its own runtime runs; or an export folder, of which all models are
    checked. Everything runs in new processes. The exit code is 1 if a check fails.
    """
    with progress(quiet) as (on_progress, _):
        from unfreeze.comparison.verify import verify

        report = verify(saved_model, **settings, on_progress=on_progress)
    print_result(report.to_dict(), format_report(report), as_json=as_json, quiet=quiet)
    return 0 if report.passed else 1
