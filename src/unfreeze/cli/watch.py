"""`unfreeze watch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import print_line, print_result, progress

if TYPE_CHECKING:
    from unfreeze.errors import UnfreezeError
    from unfreeze.publishing.map_gate import Decision
    from unfreeze.publishing.publish import Published


@command("watch")
@click.argument("training_folder", type=PATH)
@click.argument("model_base_path", type=PATH)
@option(
    "--interval",
    "interval_s",
    section=Section.INPUT,
    type=click.FloatRange(0.1),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="The time between two looks for new checkpoints, in seconds.",
)
@option(
    "--once",
    section=Section.INPUT,
    is_flag=True,
    help="Publish the existing checkpoints and exit; the exit code is 1 if one of them failed.",
)
@option(
    "--pipeline-config-path",
    section=Section.INPUT,
    type=PATH,
    help="The pipeline.config of the training. Default: the one in TRAINING_FOLDER or in the folder above.",
)
@options.label_map("Label map (.pbtxt) with class names, which is copied into each export.")
@option(
    "--input-type",
    "input_types",
    section=Section.MODEL,
    multiple=True,
    metavar="TYPE",
    help="What the signature serving_default accepts: see unfreeze export --help (repeatable).",
)
@option(
    "--keep",
    section=Section.VERSIONS,
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="N",
    help="How many of the newest versions to keep; those with a label stay too.",
)
@option(
    "--label",
    "labels",
    section=Section.VERSIONS,
    multiple=True,
    metavar="LABEL",
    help="A label that moves to each new version (repeatable).",
)
@option(
    "--min-map",
    section=Section.VERIFICATION,
    type=click.FloatRange(0, 1),
    metavar="MAP",
    help="Publish only checkpoints with at least this mAP (COCO's) on --annotations.",
)
@option(
    "--keep-best",
    section=Section.VERIFICATION,
    is_flag=True,
    help="Publish only checkpoints with at least the mAP of the best one that was published.",
)
@option(
    "--annotations",
    section=Section.VERIFICATION,
    type=PATH,
    metavar="FILES",
    help="The annotations for --min-map and --keep-best, in a format of unfreeze evaluate, such as a JSON file in "
    "COCO's format, or TFRecord files (a file or a quoted pattern).",
)
@option(
    "--images",
    section=Section.VERIFICATION,
    type=PATH,
    metavar="FOLDER",
    help="The folder of the annotated images. Default: where the annotations say, or beside them.",
)
@options.runtimes
@options.quiet
def watch(training_folder: str, model_base_path: str, quiet: bool, **settings: Any) -> int:
    """Publish each new checkpoint of a running training.

    Each complete checkpoint in TRAINING_FOLDER is exported, verified, and published as the next version in
    MODEL_BASE_PATH, until Ctrl-C. With --min-map or --keep-best, only checkpoints that are good enough are published.
    """
    failures: list[str] = []

    def on_failure(prefix: Path, error: UnfreezeError) -> None:
        failures.append(str(prefix))
        print_line(f"error: {prefix.name} is skipped: {error}")

    def on_published(published: Published, step: int) -> None:
        print_result(None, f"step {step}: {published}", quiet=quiet)

    def on_decision(decision: Decision) -> None:
        print_result(None, str(decision), quiet=quiet)

    with progress(quiet) as (on_progress, on_warning):
        from unfreeze.publishing.watch import watch

        watch(
            training_folder,
            model_base_path,
            **settings,
            on_published=on_published,
            on_failure=on_failure,
            on_decision=on_decision,
            on_progress=on_progress,
            on_warning=on_warning,
        )
    return 1 if failures else 0
