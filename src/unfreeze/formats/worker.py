"""The process in which a converter runs: `python -m unfreeze.formats.worker MODULE FOLDER FILE OPTIONS`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from unfreeze.child_process import report_errors
from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import read_frozen_file


def main(module: str, folder: str, path: str, options: str) -> None:
    """Reads the frozen detector in `folder`, and writes the file that `module` makes of it."""
    import_module(module).convert(read_frozen_file(Path(folder)), Path(path), ConversionOptions.from_json(options))


if __name__ == "__main__":
    report_errors(main)
