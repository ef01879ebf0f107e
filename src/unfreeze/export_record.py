"""`export.json`: what was exported from what, which weight is which variable, and the results of the checks.

One schema, one writer and one reader. A change that an older reader would misunderstand raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from unfreeze.errors import SavedModelError

RECORD = "export.json"
SCHEMA_VERSION = 1  # records without a schema_version are of version 0, whose layout is the same
ADVICE = "export the model again, or remove the file to go on without it"


@dataclass(frozen=True)
class FileDigest:
    """The size of a file, and the SHA-256 of its bytes."""

    size_bytes: int
    sha256: str


def file_digest(path: Path) -> FileDigest:
    """Returns size and SHA-256 of a file, which is read in blocks."""
    state, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
            size_bytes += len(block)
    return FileDigest(size_bytes, state.hexdigest())


@dataclass(frozen=True)
class CheckpointSource:
    """The checkpoint that the weights come from; `files` by name."""

    prefix: str
    step: int | None = None
    format: str = ""
    files: Mapping[str, FileDigest] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfigSource:
    """The pipeline.config that the model was built from."""

    path: str
    sha256: str


@dataclass(frozen=True)
class GraphConstant:
    """A constant of a frozen graph, in the graph itself or in one of its functions, and why it is a weight or not.

    `name` is that of its variable; it is empty for a constant that is not a weight.
    """

    node: str
    function: str
    shape: Sequence[int]
    dtype: str
    reason: str
    name: str = ""


@dataclass(frozen=True)
class GraphSource:
    """The frozen graph that was exported: its inputs and outputs (tensor by signature key), and its constants.

    `variables` are the constants that became variables. With `mixes_batch` the outputs for an image depend on the other
    images of the batch.
    """

    path: str
    size_bytes: int = 0
    sha256: str = ""
    producer: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    variables: Sequence[GraphConstant] = ()
    constants: Sequence[GraphConstant] = ()
    mixes_batch: bool = False


@dataclass(frozen=True)
class MovingAverages:
    """The number of variables with the value of a moving average, and the variables that had none."""

    used: int = 0
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class SlimmingRecord:
    """The outputs and detections that were removed (savedmodel/slimming.py)."""

    kept_outputs: Sequence[str] = ()
    score_threshold: float | None = None
    max_detections: int | None = None


@dataclass(frozen=True)
class CheckRecord:
    """The result of one check of the verification."""

    name: str
    status: str
    detail: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightRecord:
    """The variable that a weight of the checkpoint became, and the SHA-256 of its bytes."""

    variable: str
    dtype: str
    shape: Sequence[int]
    sha256: str


@dataclass(frozen=True)
class CalibrationRecord:
    """The images on which the ranges of an int8 network were measured, and how many of them."""

    source: str
    images: int


@dataclass(frozen=True)
class AgreementRecord:
    """How many clear detections of the float model a file of lower precision has too (detection_agreement.py).

    The file counts as verified if their share is at least `min_share`. `source` is what the images are.
    """

    matched: int
    detections: int
    share: float
    min_share: float
    images: int
    source: str
    rule: str


@dataclass(frozen=True)
class AccuracyRecord:
    """COCO's mAP of boxes of the float model and of a file on annotated images, and the difference."""

    annotations: str
    images: int
    float_map: float
    file_map: float
    loss: float
    max_loss: float | None = None


@dataclass(frozen=True)
class FormatRecord:
    """A file for another runtime, and the result of running it; `verified` is None if it was not run or not compared.

    `file` and the keys of `files` are relative to the folder of export.json. `precision` is that of the network:
    `float32`, `float16`, `int8` or `int8 weights`.
    """

    file: str
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    verified: bool | None = None
    detail: str = ""
    precision: str = "float32"
    calibration: CalibrationRecord | None = None
    agreement: AgreementRecord | None = None
    accuracy: AccuracyRecord | None = None


@dataclass(frozen=True)
class ExportRecord:
    """The content of export.json; a field that an export does not have is None or empty.

    The fields from `checkpoint` to `side_inputs` describe the export of a checkpoint; `graph` that of a frozen graph.
    `weights` has the keys of the checkpoint, `files` the paths in saved_model/.
    """

    schema_version: int = SCHEMA_VERSION
    unfreeze: str | None = None  # the version that exported
    tensorflow: str | None = None
    exported_at: str | None = None
    input_type: str | None = None
    input_types: Sequence[str] = ()
    graph: GraphSource | None = None
    checkpoint: CheckpointSource | None = None
    moving_averages: MovingAverages | None = None
    pipeline_config: ConfigSource | None = None
    model: str | None = None
    feature_extractor: str | None = None
    num_classes: int | None = None
    unused: Sequence[str] | None = None  # tensors of the checkpoint that the model does not need
    binding: str | None = None
    suppression: str | None = None
    input_shape: Sequence[int | None] | None = None
    config_override: str | None = None
    slimming: SlimmingRecord | None = None
    side_inputs: Mapping[str, tuple[str, Sequence[int | None]]] | None = None  # dtype and shape by name
    verified: bool = False
    checks: Sequence[CheckRecord] = ()
    weights: Mapping[str, WeightRecord] = field(default_factory=dict)
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    formats: Mapping[str, FormatRecord] | None = None  # by the name of the format

    @property
    def has_constant_weights(self) -> bool:
        """Returns whether the export stored the weights as constants of the graph."""
        return self.binding == "constants"

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as JSON has it, without the fields that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_json(self) -> str:
        """Returns the text of export.json."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"


def write_record(folder: Path, record: ExportRecord) -> None:
    """Writes export.json into a folder."""
    (folder / RECORD).write_text(record.to_json(), encoding="utf-8")


def read_record(saved_model: Path) -> ExportRecord | None:
    """Returns the record in or beside a SavedModel folder; None if there is none.

    Raises:
        SavedModelError: the file cannot be read, is not a record, or was written by a newer version.
    """
    for path in (saved_model / RECORD, saved_model.parent / RECORD):
        if path.is_file():
            try:
                text = path.read_bytes()
            except OSError as error:
                raise SavedModelError(f"{path}: cannot be read: {error.strerror or error}; {ADVICE}") from error
            return parse_record(text, str(path))
    return None


@dataclass(frozen=True)
class ExportedFile:
    """A file for another runtime as the export.json in `folder` describes it; `format` is the name of its format."""

    folder: Path
    record: ExportRecord
    format: str
    entry: FormatRecord


def find_exported_file(path: Path) -> ExportedFile | None:
    """Returns what the export.json beside a model file, or in the folder above, says about the file; None if nothing.

    Raises:
        SavedModelError: export.json cannot be read, is not a record, or was written by a newer version.
    """
    path = path.absolute()
    for folder in (path.parent, path.parent.parent):
        if not (folder / RECORD).is_file():
            continue
        record = read_record(folder) or ExportRecord()
        for name, entry in (record.formats or {}).items():
            if folder / entry.file == path:
                return ExportedFile(folder, record, name, entry)
    return None


def parse_record(text: str | bytes, path: str) -> ExportRecord:
    """Returns the record in the text of an export.json; `path` is for messages.

    Raises:
        SavedModelError: it is not a record, or was written by a newer version.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise SavedModelError(f"{path}: not JSON: {error}; {ADVICE}") from error
    if not isinstance(content, dict):
        raise SavedModelError(f"{path}: not a record of an export (found a JSON {_json_type(content)}); {ADVICE}")
    version = content.get("schema_version", 0)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SavedModelError(
            f"{path}: written by a newer unfreeze (schema_version {version}; this one reads up to {SCHEMA_VERSION}); "
            "update unfreeze"
        )
    try:
        record: ExportRecord = _decoded(ExportRecord, content | {"schema_version": SCHEMA_VERSION}, "")
    except ValueError as error:
        raise SavedModelError(f"{path}: not a record of an export: {error}; {ADVICE}") from error
    return record


def _decoded(kind: Any, value: Any, where: str) -> Any:
    """Returns a JSON value as the type of a field; unknown keys are ignored.

    Raises:
        ValueError: it is of another type, or a required key is missing.
    """
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _decoded(arguments[0], value, where)
    if isinstance(kind, type) and is_dataclass(kind):
        _require(isinstance(value, dict), "an object", value, where)
        return _decoded_fields(kind, value, where)
    if origin is Mapping:
        _require(isinstance(value, dict), "an object", value, where)
        return {key: _decoded(arguments[1], element, f"{where}.{key}") for key, element in value.items()}
    if origin is Sequence:
        _require(isinstance(value, list), "a list", value, where)
        return tuple(_decoded(arguments[0], element, where) for element in value)
    if origin is tuple:
        _require(isinstance(value, list) and len(value) == len(arguments), f"a list of {len(arguments)}", value, where)
        return tuple(_decoded(type_, element, where) for type_, element in zip(arguments, value, strict=True))
    if kind is float:
        _require(type(value) in (int, float), "a number", value, where)
    else:
        _require(type(value) is kind, {int: "an integer", str: "a string", bool: "true or false"}[kind], value, where)
    return value


def _decoded_fields(kind: type, value: Mapping[str, Any], where: str) -> Any:
    missing = [
        member.name
        for member in fields(kind)
        if member.default is MISSING and member.default_factory is MISSING and member.name not in value
    ]
    if missing:
        raise ValueError(f"{where.lstrip('.')} has no {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _decoded(hints[name], value[name], f"{where}.{name}") for name in hints if name in value})


def _require(fits: bool, expected: str, value: Any, where: str) -> None:
    if not fits:
        raise ValueError(f"{where.lstrip('.')} is {_json_type(value)} (expected {expected})")


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names[type(value)]
