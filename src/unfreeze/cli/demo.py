"""`unfreeze demo`."""

from __future__ import annotations

import click

from unfreeze.cli import options
from unfreeze.cli.options import PATH, Section, command, option
from unfreeze.cli.terminal import print_result, progress


@command("demo")
@click.argument("folder", type=PATH, required=False)
@option(
    "--output-directory",
    section=Section.OUTPUT,
    type=PATH,
    default="unfreeze-demo",
    show_default=True,
    help="The folder to write to.",
)
@options.overwrite
@option(
    "--serve",
    section=Section.SERVER,
    is_flag=True,
    help="Then serve the model until Ctrl-C, with a web page that runs it on your images.",
)
@options.quiet
def demo(folder: str | None, output_directory: str, serve: bool, overwrite: bool, quiet: bool) -> None:
    """Export, verify and run the example, a detector of handwritten digits.

    FOLDER is an example of your own, with run/, scenes/, pipeline.config and label_map.pbtxt as in examples/digits.
    Default: the example that comes with unfreeze.
    """
    with progress(quiet) as (on_progress, on_warning):
        from unfreeze.demo import demo, serve_page

        if serve:
            import unfreeze.server  # noqa: F401  # reports a missing package before the export
        result = demo(folder, output_directory, overwrite=overwrite, on_progress=on_progress, on_warning=on_warning)
    print_result(None, str(result), quiet=quiet)
    if serve:
        from unfreeze.server.serve import wait_until_stopped

        server, address = serve_page(result)
        # Printed with --quiet too: without the address there is no page.
        print_result(None, f"page:       {address}  (drop an image there; Ctrl-C ends it)")
        wait_until_stopped(server)
