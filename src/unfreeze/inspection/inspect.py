"""Identifies a file or a folder and reports its problems, without running a model."""

from __future__ import annotations

from pathlib import Path

from unfreeze.config import messages
from unfreeze.config.outline import outline
from unfreeze.config.text import read_text
from unfreeze.errors import ConfigError, SavedModelError, UnfreezeError, UnsupportedError
from unfreeze.file_kinds import LABEL_MAP, PIPELINE_CONFIG, STATE_FILE, TEXT_GRAPH, TFLITE, kind_of_file
from unfreeze.inspection.inspection import Inspection
from unfreeze.inspection.model_files import OTHER_RUNTIMES, inspect_model_file, model_files_in, runtime_of
from unfreeze.weights import checkpoint_prefix, find_checkpoints, is_checkpoint_table

EXPECTED = "not a checkpoint, SavedModel, frozen graph, ONNX, OpenVINO or TFLite model, pipeline.config or label map"
LARGEST_TEXT_BYTES = 4 << 20  # a larger file is not a pipeline.config or a label map
INSPECTED = (LABEL_MAP, PIPELINE_CONFIG, STATE_FILE, TEXT_GRAPH)  # kinds of text, which `_file` looks at itself


def inspect(path: str | Path) -> Inspection:
    """Identifies a file or a folder, and lists what is wrong with it under `problems`.

    Args:
        path: a checkpoint (its prefix, or one of its files), a training folder, a `checkpoint` state file, a frozen
            graph, a SavedModel or the folder above it, an ONNX, OpenVINO (.xml) or TFLite model, a pipeline.config, or
            a label map.

    Raises: UnfreezeError if it is none of these.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _file(path)
    prefix = checkpoint_prefix(path)
    if _is_prefix(prefix):
        from unfreeze.inspection.checkpoints import inspect_checkpoint

        return inspect_checkpoint(path)
    raise UnfreezeError(f"{path}: no such file or folder, and no checkpoint has this prefix")


def _is_prefix(path: Path) -> bool:
    return path.parent.is_dir() and any(entry.prefix.name == path.name for entry in find_checkpoints(path.parent))


def _folder(folder: Path) -> Inspection:
    """Inspects the contents of a folder: one model, or several, as in a download of the model zoo."""
    parts = []
    if find_checkpoints(folder):
        from unfreeze.inspection.checkpoints import inspect_folder

        parts.append(inspect_folder(folder))
    for model in (folder, folder / "saved_model"):
        if (model / "saved_model.pb").is_file():
            from unfreeze.inspection.graphs import inspect_saved_model

            parts.append(inspect_saved_model(model))
    graphs = sorted(path for path in folder.glob("*.pb") if path.name not in ("saved_model.pb", "fingerprint.pb"))
    parts += [part for part in map(_graph_or_none, graphs) if part is not None]
    parts += map(_model_file_or_problem, model_files_in(folder))
    if not parts and (folder / "pipeline.config").is_file():
        from unfreeze.inspection.configs import inspect_config

        parts.append(inspect_config(folder / "pipeline.config"))
    if not parts:
        raise UnfreezeError(f"{folder}: {EXPECTED}{_hint_of_subfolder(folder)}")
    if len(parts) == 1:
        return parts[0]
    problems = [f"{part.path}: {problem}" for part in parts for problem in part.problems]
    return Inspection(folder, f"folder with {len(parts)} items", (), problems, parts)


def _graph_or_none(path: Path) -> Inspection | None:
    from unfreeze.inspection.graphs import inspect_graph

    try:
        return inspect_graph(path)
    except (SavedModelError, UnsupportedError):
        return None


def _model_file_or_problem(path: Path) -> Inspection:
    try:
        return inspect_model_file(path)
    except SavedModelError as error:
        return Inspection(path, f"{runtime_of(path).name} model", (), [str(error)])


def _hint_of_subfolder(folder: Path) -> str:
    """Returns where below the folder there is a model, for the end of an error."""
    for pattern in ("*/saved_model.pb", "*/*/saved_model.pb", "*/*.index", "*/pipeline.config"):
        file = next(iter(sorted(folder.glob(pattern))), None)
        if file is not None:
            return f"; there is {file.name} in {file.parent}"
    return " (it is empty)" if not any(folder.iterdir()) else ""


def _file(path: Path) -> Inspection:
    kind = kind_of_file(path)
    if kind is not None and kind.name == TFLITE and path.suffix != ".tflite":
        raise UnfreezeError(f"{path}: is {kind.name}; rename it to *.tflite, by which its runtime is found")
    if path.suffix in OTHER_RUNTIMES:
        return inspect_model_file(path)
    if kind is not None and kind.name not in INSPECTED:
        raise UnfreezeError(f"{path}: {EXPECTED}, but {kind.name}{f'; {kind.advice}' if kind.advice else ''}")
    # Imported here, since they import TensorFlow.
    from unfreeze.inspection.checkpoints import inspect_checkpoint, inspect_folder
    from unfreeze.inspection.graphs import inspect_graph, inspect_saved_model

    if path.name == "checkpoint" and find_checkpoints(path.parent):
        return inspect_folder(path.parent, kind="state file of a training folder")
    if checkpoint_prefix(path) != path:
        return inspect_checkpoint(path)
    if path.name == "saved_model.pb":
        return inspect_saved_model(path.parent)
    if is_checkpoint_table(path):
        return inspect_checkpoint(path)
    text = _text(path, kind.name if kind else PIPELINE_CONFIG)
    if text is not None:
        return _text_file(path, text)
    try:
        return inspect_graph(path)
    except SavedModelError as error:
        hint = f" ({path.name} may be damaged)" if path.suffix == ".pb" else ""
        raise UnfreezeError(f"{path}: {EXPECTED}{hint}") from error


def _text(path: Path, kind: str) -> str | None:
    """Returns the text of a file of a kind; None if it is too large, or not text."""
    if path.stat().st_size > LARGEST_TEXT_BYTES:
        return None
    try:
        return read_text(path, kind)
    except ConfigError:
        return None


def _text_file(path: Path, text: str) -> Inspection:
    """Inspects a pipeline.config or a label map, recognized by its fields, or by its name if it has no known field."""
    if text.lstrip().startswith(("node {", "node{", "meta_info_def", "graph_def", "saved_model_schema_version")):
        raise UnsupportedError(f"not supported: {path}: a graph in text form. Pass the checkpoint or the .pb file.")
    from unfreeze.inspection.configs import inspect_config, inspect_label_map

    if outline(text, messages.TrainEvalPipelineConfig.DESCRIPTOR).lines or path.suffix == ".config":
        return inspect_config(path)
    if outline(text, messages.StringIntLabelMap.DESCRIPTOR).lines or path.suffix == ".pbtxt":
        return inspect_label_map(path)
    raise UnfreezeError(f"{path}: {EXPECTED}")
