"""Runs an ONNX file in TensorRT by its program trtexec, where that is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unfreeze.errors import ConversionError
from unfreeze.tensorrt.efficient_nms import OUTPUTS

TRTEXEC = "trtexec"
DTYPES = dict(zip(OUTPUTS, (np.int32, np.float32, np.float32, np.int32), strict=True))


def find_trtexec() -> str | None:
    """Returns the path of trtexec; None if it is not on PATH."""
    return shutil.which(TRTEXEC)


def run_trtexec(trtexec: str, path: Path, input_name: str, batches: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns the outputs of the plugin for batches of the file's shape, one after another.

    The engine is built once, in float32 without TF32, whose results are compared.

    Raises: ConversionError: trtexec failed, or lacks an output.
    """
    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
        folder = Path(scratch)
        engine = folder / "model.engine"
        _run([trtexec, f"--onnx={path}", f"--saveEngine={engine}", "--noTF32", "--skipInference"])
        results = [_outputs_of(trtexec, engine, input_name, batch, folder) for batch in batches]
    return {name: np.concatenate([result[name] for result in results]) for name in OUTPUTS}


def _outputs_of(
    trtexec: str, engine: Path, input_name: str, batch: np.ndarray, folder: Path
) -> Mapping[str, np.ndarray]:
    pixels, written = folder / "input.bin", folder / "outputs.json"
    pixels.write_bytes(np.ascontiguousarray(batch).tobytes())
    _run([
        trtexec, f"--loadEngine={engine}", f"--loadInputs={input_name}:{pixels}", f"--exportOutput={written}",
        "--warmUp=0", "--duration=0", "--iterations=1",
    ])  # fmt: skip
    try:
        outputs = {
            output["name"]: np.array(output["values"], np.float64).reshape(
                [int(length) for length in output["dimensions"].split("x")]
            )
            for output in json.loads(written.read_text(encoding="utf-8"))
        }
        return {name: outputs[name].astype(DTYPES[name]) for name in OUTPUTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{trtexec}: its outputs cannot be read: {type(error).__name__}: {error}") from None


def _run(command: Sequence[str]) -> None:
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if ended.returncode:
        lines = [line.strip() for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "[E]" in line] or lines or ["it printed nothing"]
        raise ConversionError(f"{command[0]} failed with exit code {ended.returncode}: {errors[0][:300]}")
