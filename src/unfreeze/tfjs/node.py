"""Runs graph models of TensorFlow.js in Node.js."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unfreeze.errors import ConversionError, MissingExtraError

BACKENDS = ("cpu", "wasm")
PACKAGES = ("@tensorflow/tfjs", "@tensorflow/tfjs-backend-wasm")
SCRIPT = Path(__file__).with_name("run.js")
ADVICE = "or pass --no-verify to write a model that nothing has run"

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Node:
    """Node.js, and the folder whose `node_modules` has TensorFlow.js."""

    program: str
    folder: Path


def find_node() -> Node:
    """Returns Node.js and TensorFlow.js: of this folder, of one above it, or of NODE_PATH.

    Raises: MissingExtraError: Node.js or the packages are not installed.
    """
    program = shutil.which("node")
    if program is None:
        raise MissingExtraError(
            f"--format tfjs: the model is run in Node.js, which is not on PATH; install Node.js 18 or newer, {ADVICE}"
        )
    here = Path.cwd()
    paths = [Path(entry).parent for entry in os.environ.get("NODE_PATH", "").split(os.pathsep) if entry]
    for folder in (here, *here.parents, *paths):
        if all((folder / "node_modules" / package).is_dir() for package in PACKAGES):
            return Node(program, folder)
    raise MissingExtraError(
        f"--format tfjs: the model is run by {' and '.join(PACKAGES)}, which are not in {here}; run npm install "
        f"{' '.join(PACKAGES)} there, {ADVICE}"
    )


def run_in_node(
    node: Node, model: Path, backend: str, input_name: str, batches: Sequence[np.ndarray]
) -> Sequence[Outputs]:
    """Returns the outputs for each batch; integers are int32.

    Raises: ConversionError: TensorFlow.js does not load the model, or fails.
    """
    with tempfile.TemporaryDirectory(prefix="unfreeze-") as scratch:
        folder = Path(scratch)
        entries = []
        for index, batch in enumerate(batches):
            pixels = batch.astype(np.float32 if batch.dtype.kind == "f" else np.int32)
            (folder / f"batch-{index}.bin").write_bytes(pixels.tobytes())
            entries.append(
                {"file": f"batch-{index}.bin", "shape": pixels.shape, "dtype": pixels.dtype.name, "input": input_name}
            )
        (folder / "batches.json").write_text(json.dumps(entries), encoding="utf-8")
        ended = subprocess.run(
            [node.program, str(SCRIPT), str(node.folder), str(model), backend, str(folder)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if ended.returncode:
            lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()] or ["it printed nothing"]
            raise ConversionError(f"{model.name} does not run in TensorFlow.js ({backend}): {lines[-1][:300]}")
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        return [{name: _array(folder, entry) for name, entry in result["outputs"].items()} for result in results]


def _array(folder: Path, entry: Mapping[str, str | Sequence[int]]) -> np.ndarray:
    dtype = np.bool_ if entry["dtype"] == "bool" else np.dtype(str(entry["dtype"]))
    return np.fromfile(folder / str(entry["file"]), dtype).reshape([int(length) for length in entry["shape"]])
