"""`unfreeze publish`, `rollback`, `prune` and `labels`."""

from __future__ import annotations

from typing import Any

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, LabelVersion, Section, as_mapping, command, option
from unfreeze.cli.terminal import print_result, progress


@command("publish")
@click.argument("saved_model", type=PATH)
@click.argument("model_base_path", type=PATH)
@option(
    "--version",
    section=Section.VERSIONS,
    type=int,
    metavar="N",
    help="The number of the new version. Default: one above the highest number.",
)
@option(
    "--label",
    "labels",
    section=Section.VERSIONS,
    multiple=True,
    metavar="LABEL",
    help="A label, such as stable, by which clients can request the version. A label of another version moves to the "
    "new one (repeatable).",
)
@options.as_json
@options.verify("the copy")
@options.runtimes
@options.quiet
def publish(saved_model: str, model_base_path: str, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Copy a SavedModel to a model base path as the next version.

    MODEL_BASE_PATH is a folder, or a URL (s3://…, gs://…), with numbered versions, from which model servers load them.
    A server sees the new version only when it is complete.
    """
    with progress(quiet) as (on_progress, on_warning):
        from unfreeze.publishing.publish import publish

        published = publish(
            saved_model, model_base_path, **settings, on_progress=on_progress, on_warning=on_warning
        )  # fmt: skip
    print_result(published.to_dict(), str(published), as_json=as_json, quiet=quiet)


@command("rollback")
@click.argument("model_base_path", type=PATH)
@option(
    "--to",
    section=Section.VERSIONS,
    type=int,
    metavar="VERSION",
    help="The version to go back to. Default: the one that was served before the newest.",
)
@options.as_json
@options.quiet
def rollback(model_base_path: str, to: int | None, as_json: bool, quiet: bool) -> None:
    """Publish the content of an older version as a new version.

    Model servers load the version with the highest number, so an older version is served again only under a new number.
    Labels of the newest version move to it.
    """
    with progress(quiet) as (on_progress, on_warning):
        from unfreeze.publishing.rollback import rollback

        published = rollback(model_base_path, to=to, on_progress=on_progress, on_warning=on_warning)
    print_result(published.to_dict(), str(published), as_json=as_json, quiet=quiet)


@command("prune")
@click.argument("model_base_path", type=PATH)
@option(
    "--keep",
    section=Section.VERSIONS,
    type=click.IntRange(1),
    required=True,
    metavar="N",
    help="How many of the newest versions to keep.",
)
@options.as_json
@options.quiet
def prune(model_base_path: str, keep: int, as_json: bool, quiet: bool) -> None:
    """Remove old versions, except those that have a label."""
    with progress(quiet) as (_, on_warning):
        from unfreeze.publishing.prune import prune

        removed = prune(model_base_path, keep=keep, on_warning=on_warning)
    names = ", ".join(map(str, removed)) or "none"
    print_result({"removed": removed}, f"removed {names}", as_json=as_json, quiet=quiet)


@command("labels")
@click.argument("model_base_path", type=PATH)
@click.argument("assign", nargs=-1, type=LabelVersion(), callback=as_mapping, metavar="[LABEL=VERSION]...")
@option("--remove", section=Section.VERSIONS, multiple=True, metavar="LABEL", help="Remove a label (repeatable).")
@options.as_json
def labels(model_base_path: str, assign: dict[str, int], remove: tuple[str, ...], as_json: bool) -> None:
    """Show, move or remove the labels of versions.

    Clients can request a label instead of a version number. LABEL=VERSION moves a label to a version, as in stable=3.
    The labels are printed, after the changes.
    """
    with progress(quiet=False) as (_, on_warning):
        from unfreeze.publishing.labels import labels

        current = labels(model_base_path, assign, remove=remove, on_warning=on_warning)
    lines = [f"{label}={version}" for label, version in sorted(current.items())]
    print_result(current, "\n".join(lines) or "no label", as_json=as_json)
