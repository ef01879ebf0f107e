"""`unfreeze inspect`."""

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, command
from unfreeze.cli.terminal import print_result, progress


@command("inspect")
@click.argument("path", type=PATH)
@options.as_json
def inspect(path: str, as_json: bool) -> None:
    """Report what a file or folder is, and what is wrong with it.

    PATH is a checkpoint, a training folder, a SavedModel, a frozen graph, an ONNX, OpenVINO (.xml) or TFLite file, an
    export folder, a pipeline.config or a label map. It is read, not run.
    """
    with progress(quiet=as_json) as (on_progress, _):
        from unfreeze.inspection.inspect import inspect

        on_progress(f"reading {path}")
        inspection = inspect(path)
    print_result(inspection.to_dict(), str(inspection), as_json=as_json)
