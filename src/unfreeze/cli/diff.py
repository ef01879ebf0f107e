"""`unfreeze diff`."""

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import print_result, progress


@command("diff")
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@options.as_json
@option("--exit-code", section=Section.OUTPUT, is_flag=True, help="Exit with code 1 if the models differ.")
def diff(old: str, new: str, exit_code: bool, as_json: bool) -> int:
    """Compare two models: weights, signatures, thresholds, operations.

    OLD and NEW are checkpoints, SavedModels or frozen graphs, of the same kind or of two kinds. The files are read; no
    model is run.
    """
    with progress(quiet=as_json) as (on_progress, _):
        from unfreeze.comparison.diff import diff

        difference = diff(old, new, on_progress=on_progress)
    print_result(difference.to_dict(), str(difference), as_json=as_json)
    return int(exit_code and not difference.same)
