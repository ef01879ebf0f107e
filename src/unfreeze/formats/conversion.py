"""Runs a converter in a process of its own, since converters may abort it, and keep the memory that they used."""

from __future__ import annotations

from pathlib import Path

from unfreeze.child_process import ModuleError, run_module
from unfreeze.errors import ConversionError
from unfreeze.formats import Format
from unfreeze.formats.conversion_options import ConversionOptions
from unfreeze.formats.frozen_file import FrozenFile

DEFAULTS = ConversionOptions()


def convert(chosen: Format, frozen: FrozenFile, output: Path, options: ConversionOptions = DEFAULTS) -> Path:
    """Writes the file of a format below `output`, and returns its path.

    Raises:
        ConversionError: the converter failed, or its process ended.
    """
    path = output / chosen.file
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = [chosen.module, str(frozen.path.parent), str(path), options.to_json()]
    try:
        run_module("unfreeze.formats.worker", arguments)
    except ModuleError as error:
        raise ConversionError(f"--format {chosen.name}: the converter failed: {error}") from None
    return path
