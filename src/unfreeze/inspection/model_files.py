"""Inspects a model file of another runtime, without running it and without TensorFlow.

To add a kind of file, write a module with a function that returns a Description, and add a row to READERS.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from unfreeze.errors import MissingExtraError, SavedModelError
from unfreeze.file_kinds import TFLITE, WEB_PAGE, kind_of_file
from unfreeze.formatting import first_few, first_line, megabytes
from unfreeze.inspection.description import Description
from unfreeze.inspection.graph_file import read_graph
from unfreeze.inspection.inspection import Field, Inspection, field
from unfreeze.inspection.onnx_file import read_onnx
from unfreeze.inspection.openvino_file import read_openvino
from unfreeze.inspection.records import exported_file_report
from unfreeze.inspection.tflite_file import read_tflite
from unfreeze.runtimes import FILE_RUNTIMES, RUNTIMES, Runtime, find_model_file
from unfreeze.runtimes.model import RAW_OUTPUTS, REQUIRED_OUTPUTS

READERS: dict[str, Callable[[Path], Description]] = {
    ".pb": read_graph,
    ".onnx": read_onnx,
    ".xml": read_openvino,
    ".tflite": read_tflite,
}  # by the suffix of a runtime
OTHER_RUNTIMES = tuple(runtime.suffix for runtime in FILE_RUNTIMES)
MOST_OPERATIONS, IN_A_LINE = 12, 6  # in the text; the JSON has all


def model_file(path: Path) -> Path | None:
    """Returns the file of another runtime at a path: the path itself, or the first one in a folder; or None."""
    if not path.is_dir():
        return path if path.suffix in OTHER_RUNTIMES else None
    found = find_model_file(path)
    return found.path if found else None


def model_files_in(folder: Path) -> list[Path]:
    """Returns the files of other runtimes in a folder, and in its `openvino` folder."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in (".onnx", ".tflite")]
    models = [*sorted(folder.glob("*.xml")), *sorted(folder.glob("openvino/*.xml"))]
    return [*files, *(path for path in models if path.with_suffix(".bin").is_file())]


def runtime_of(path: Path) -> Runtime:
    """Returns the runtime of a file, by its suffix."""
    return next(runtime for runtime in RUNTIMES if runtime.suffix == path.suffix)


def read_model_file(path: Path) -> Description:
    """Returns the description of a file.

    Raises: SavedModelError: the file does not exist, is cut short, or is not of the kind that its suffix says.
    """
    name = f"{runtime_of(path).name}{' model' * (path.suffix in OTHER_RUNTIMES)}"
    expected = f"{_article(name)} {name}"
    try:
        return READERS[path.suffix](path)
    except OSError as error:
        raise SavedModelError(f"{path}: cannot be read: {error.strerror or error}. Pass a model.") from None
    except (ValueError, RecursionError) as error:
        kind = kind_of_file(path)
        if kind is not None and kind is not WEB_PAGE and kind.name != TFLITE:  # those two may be what they should be
            raise SavedModelError(f"{path}: {kind.instead_of(expected)}") from None
        raise SavedModelError(
            f"{path}: not {expected}, or damaged: {first_line(error)}. Copy or export it again."
        ) from None


def require_runtime(path: Path) -> None:
    """Raises MissingExtraError if the runtime of a file is not installed."""
    runtime = runtime_of(path)
    if not _is_installed(runtime):
        raise MissingExtraError(f"{path}: needs {runtime.library} to run; run pip install 'unfreeze[{runtime.extra}]'")


def inspect_model_file(path: Path) -> Inspection:
    """Inspects a file: its inputs, outputs and operations, and what export.json says about it.

    Raises: SavedModelError: the file is cut short, or is not a model.
    """
    description = read_model_file(path)
    exported_fields, exported_problems = exported_file_report(path)
    runtime = runtime_of(path)
    size_bytes = sum(file.stat().st_size for file in description.files)
    constants = description.constants
    fields = [
        _runtime_field(runtime),
        field(
            "size",
            {"bytes": size_bytes, "files": len(description.files)},
            megabytes(size_bytes) + (f" in {len(description.files)} files" if len(description.files) > 1 else ""),
        ),
        field("inputs", {name: str(tensor) for name, tensor in description.inputs.items()}),
        field("outputs", {name: str(tensor) for name, tensor in description.outputs.items()}),
        field(
            "constants",
            {"count": constants.count, "bytes": constants.size_bytes},
            f"{constants.count:,}, {megabytes(constants.size_bytes)}",
        ),
        _operations_field(description),
        *description.properties,
        *exported_fields,
    ]
    problems = [*description.problems, *exported_problems, *detector_problems(description)]
    return Inspection(path, f"{runtime.name} model", fields, problems)


def detector_problems(description: Description) -> list[str]:
    """Describes why a model is not a detector: it does not take images, or lacks outputs."""
    problems = []
    shapes = [tensor.shape for tensor in description.inputs.values()]
    if len(shapes) != 1 or (shapes[0] is not None and (len(shapes[0]) != 4 or shapes[0][3] not in (3, None))):
        inputs = ", ".join(f"{name}: {tensor}" for name, tensor in description.inputs.items())
        problems.append(f"it must take one input, images [N, H, W, 3]; it takes {inputs or 'nothing'}")
    missing = [name for name in REQUIRED_OUTPUTS if name not in description.outputs]
    is_raw = set(RAW_OUTPUTS[:2]) <= set(description.outputs)
    if missing and not is_raw and not description.has_own_suppression:
        problems.append(
            f"not a detector of the Object Detection API: no output {', '.join(missing)} (found: "
            f"{first_few(list(description.outputs), 8) or 'none'})"
        )
    return problems


def _operations_field(description: Description) -> Field:
    counts = dict(description.operations.most_common())
    texts = [f"{name} {count:,}" for name, count in counts.items()]
    lines = [", ".join(texts[start : start + IN_A_LINE]) for start in range(0, MOST_OPERATIONS, IN_A_LINE)]
    more = [f"… and {len(texts) - MOST_OPERATIONS} further kinds (--json lists all)"]
    text = [
        f"{sum(counts.values()):,} of {len(texts)} kinds",
        *(line for line in lines if line),
        *(more if len(texts) > MOST_OPERATIONS else []),
    ]
    return field("operations", counts, "\n".join(text))


def _runtime_field(runtime: Runtime) -> Field:
    """Returns the library that runs a file, and its version if it is installed."""
    if not _is_installed(runtime):
        text = f"{runtime.library}, which is not installed (pip install 'unfreeze[{runtime.extra}]')"
        return field("runtime", {"name": runtime.library, "version": None}, text)
    try:
        installed = version(runtime.package.replace("_", "-"))
    except PackageNotFoundError:  # a package that has another name, such as onnxruntime-gpu
        installed = "unknown"
    return field("runtime", {"name": runtime.library, "version": installed}, f"{runtime.library} {installed}")


def _is_installed(runtime: Runtime) -> bool:
    return find_spec(runtime.package) is not None


def _article(noun: str) -> str:
    return "an" if noun[0] in "AEIOU" else "a"
