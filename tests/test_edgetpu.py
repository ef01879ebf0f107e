"""--edgetpu: the compiler's call, its result and its failures, with a program of its name in place of the compiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from unfreeze.callbacks import ignore
from unfreeze.errors import ConversionError
from unfreeze.export_record import FormatRecord
from unfreeze.exporting.edgetpu import compiled_for_edgetpu, edgetpu_entries
from unfreeze.exporting.precision_options import PrecisionOptions

RECORDS = {"tflite": FormatRecord("model.tflite")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.tflite").write_bytes(b"TFL3")
    return tmp_path


def install_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = folder / "bin"
    programs.mkdir()
    (programs / "edgetpu_compiler").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "edgetpu_compiler").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/bin:/usr/bin")


def test_without_the_compiler_the_command_is_printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    warnings: list[str] = []
    assert compiled_for_edgetpu(RECORDS, folder, Path("out"), ignore, warnings.append) == RECORDS
    assert warnings[0].endswith("run edgetpu_compiler -o out out/model.tflite")
    compiled_for_edgetpu(RECORDS, folder, Path("my out"), ignore, warnings.append)
    assert warnings[1].endswith("run edgetpu_compiler -o 'my out' 'my out/model.tflite'")
    assert edgetpu_entries(PrecisionOptions(edgetpu=True)) == []


def test_compiled_file_is_in_the_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_compiler(folder, 'echo compiled > "$3/model_edgetpu.tflite"; touch "$3/model_edgetpu.log"', monkeypatch)
    records = compiled_for_edgetpu(RECORDS, folder, Path("out"), ignore, ignore)
    assert records["tflite"].files["model_edgetpu.tflite"].size_bytes == len("compiled\n")
    assert not (folder / "model_edgetpu.log").exists()
    assert edgetpu_entries(PrecisionOptions(edgetpu=True)) == ["model_edgetpu.tflite"]


def test_failure_of_the_compiler_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_compiler(folder, "echo 'Model not quantized' >&2; exit 1", monkeypatch)
    with pytest.raises(ConversionError, match="failed: Model not quantized"):
        compiled_for_edgetpu(RECORDS, folder, Path("out"), ignore, ignore)
