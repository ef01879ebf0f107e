"""Compiles a .tflite for the Edge TPU by Coral's compiler, which runs on x86-64 Linux only."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from unfreeze.callbacks import OnMessage
from unfreeze.errors import ConversionError
from unfreeze.export_record import FormatRecord, file_digest
from unfreeze.exporting.precision_options import PrecisionOptions

COMPILER = "edgetpu_compiler"
COMPILED = "model_edgetpu.tflite"  # the compiler's own name for the result of model.tflite


def has_compiler() -> bool:
    """Returns whether the compiler is on PATH."""
    return shutil.which(COMPILER) is not None


def edgetpu_entries(options: PrecisionOptions) -> list[str]:
    """Returns the files that the compiler adds to an export."""
    return [COMPILED] if options.edgetpu and has_compiler() else []


def compiled_for_edgetpu(
    records: dict[str, FormatRecord], folder: Path, target: Path, on_progress: OnMessage, on_warning: OnMessage
) -> dict[str, FormatRecord]:
    """Writes model_edgetpu.tflite beside model.tflite, and returns the records with it.

    Without the compiler, the records stay as they are, and a warning has the command to run.

    Args:
        folder: where model.tflite is. target: where it will be once the export is in place, for the command.

    Raises:
        ConversionError: the compiler failed.
    """
    record = records["tflite"]
    path = folder / record.file
    if not has_compiler():
        on_warning(
            f"{COMPILER} is not on PATH: {target / record.file} is not compiled for the Edge TPU, and was run on the "
            f"CPU only. To compile it, run {shlex.join([COMPILER, '-o', str(target), str(target / record.file)])}"
        )
        return records
    on_progress(f"compiling {path.name} for the Edge TPU")
    command = [COMPILER, "-s", "-o", str(folder), str(path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    compiled = folder / COMPILED
    if done.returncode or not compiled.is_file():
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ConversionError(
            f"{path.name}: {COMPILER} failed: {lines[-1] if lines else 'it printed nothing'}. Export without --edgetpu "
            "to get the file that was not compiled."
        )
    (folder / f"{compiled.stem}.log").unlink(missing_ok=True)
    return {**records, "tflite": replace(record, files={**record.files, COMPILED: file_digest(compiled)})}
