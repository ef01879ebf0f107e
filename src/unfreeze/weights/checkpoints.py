"""Checkpoint files: finds them by prefix, folder or state file, and reads them tensor by tensor.

TensorFlow 1 wrote `model.ckpt-N.{index,data-*,meta}` keyed by variable names, and before that one file without
extension. TensorFlow 2 writes `ckpt-N.{index,data-*}` keyed by paths in an object graph, which the checkpoint contains.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import CheckpointError
from unfreeze.file_kinds import GIT_LFS, WEB_PAGE, kind_of_file
from unfreeze.formatting import first_line

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # ends the key of each variable in a TensorFlow 2 checkpoint
STATE_FILE = "checkpoint"
_SHARD = re.compile(r"^(?P<prefix>.+)\.data-(?P<shard>\d{5})-of-(?P<shards>\d{5})$")
_STEP = re.compile(r"-(\d+)$")
_SINGLE_FILE = re.compile(r"^[^.].*\.ckpt(-\d+)?$")
_TABLE_END = bytes.fromhex("57fb808b247547db")  # the magic number of a leveldb table: index files and single files


class Generation(str, Enum):
    """The TensorFlow that trained a model."""

    TF1 = "tf1"
    TF2 = "tf2"

    def __str__(self) -> str:
        return self.value


class CheckpointFormat(str, Enum):
    """The files of a checkpoint."""

    TF1 = "tf1"
    TF1_V1 = "tf1-v1"  # one file without extension
    TF2 = "tf2"
    EXPORT = "export"  # the variables of an export

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of one tensor, as the checkpoint's index has them."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """The size in the data files; 0 for strings, whose length the index does not contain."""
        import tensorflow as tf

        return self.size * int(tf.as_dtype(self.dtype).size)


@dataclass(frozen=True)
class CheckpointEntry:
    """A checkpoint in a folder; `missing` names the files that it lacks, and is empty if it is complete."""

    prefix: Path
    step: int | None
    missing: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose index has been read.

    `notes` report how it was chosen: incomplete ones that were skipped, another choice of the state file. For the
    variables of an export, the names of `tensors` are those of the network's weights, `suffix` ends each of them in the
    files, and `exported_from` is the generation of the exported checkpoint.
    """

    prefix: Path
    step: int | None
    format: CheckpointFormat
    tensors: Mapping[str, TensorInfo]
    notes: tuple[str, ...] = ()
    exported_from: Generation | None = None
    suffix: str = ""
    _reader: Any = field(default=None, repr=False, compare=False)

    @property
    def generation(self) -> Generation:
        """The TensorFlow that trained the model."""
        if self.exported_from is not None:
            return self.exported_from
        return Generation.TF2 if self.format == CheckpointFormat.TF2 else Generation.TF1

    def read(self, name: str) -> np.ndarray:
        """Returns the tensor called `name`.

        Raises: CheckpointError if the data file does not have it as the index describes it.
        """
        try:
            value = self._reader.get_tensor(name + self.suffix)
            # NumPy's own type for strings would drop zeros at the end.
            return np.asarray(value, object) if isinstance(value, bytes) else np.asarray(value)
        except Exception as error:  # OpError, RuntimeError or ValueError, depending on TensorFlow and on the damage
            raise CheckpointError(
                f"{self.prefix}: tensor {name!r} cannot be read: {_reason(error)}; "
                f"the data file is damaged or cut short: copy {self.prefix.name}.data-* again"
            ) from None

    def restore(self, names: Sequence[str]) -> Sequence[Any]:
        """Returns the tensors called `names`, without a copy in NumPy. Raises CheckpointError as `read` does."""
        import tensorflow as tf  # here, so that `locate_checkpoint` needs no TensorFlow

        dtypes = [tf.as_dtype(self.tensors[name].dtype) for name in names]
        try:
            restored: Sequence[Any] = tf.raw_ops.RestoreV2(
                prefix=str(self.prefix),
                tensor_names=[name + self.suffix for name in names],
                shape_and_slices=[""] * len(names),
                dtypes=dtypes,
            )
            return restored
        except tf.errors.OpError:
            for name in names:  # raises for the damaged one
                self.read(name)
            raise

    def files(self) -> list[Path]:
        """Returns index and data files, sorted by name."""
        if self.format == CheckpointFormat.TF1_V1:
            return [self.prefix]
        parent = self.prefix.parent
        return sorted(
            path for path in parent.glob(_escape(self.prefix.name) + ".*") if _is_part(path, self.prefix.name)
        )

    def missing_data(self) -> str:
        """Returns what the data files lack compared with the index; empty if they are complete. Reads no tensor."""
        if self.format == CheckpointFormat.TF1_V1:
            return ""  # a single file that is cut short cannot be opened
        missing = _candidate(self.prefix).missing
        if missing:
            return missing
        data = [path for path in self.files() if path.suffix != ".index"]
        expected_bytes = sum(tensor.size_bytes for tensor in self.tensors.values())
        found_bytes = sum(path.stat().st_size for path in data)
        if found_bytes >= expected_bytes:
            return ""
        return f"{', '.join(path.name for path in data)} is cut short: {found_bytes} of {expected_bytes} bytes"


def open_checkpoint(path: str | Path, step: int | None = None) -> Checkpoint:
    """Opens the complete checkpoint that `path` means; see `locate_checkpoint`.

    Raises: CheckpointError if there is none, or if its data files are cut short.
    """
    prefix, notes = locate_checkpoint(path, step)
    opened = read_index(prefix, notes)
    missing = opened.missing_data()
    if missing:
        raise CheckpointError(f"{prefix}: incomplete checkpoint: {missing}; copy it again")
    return opened


def locate_checkpoint(path: str | Path, step: int | None = None) -> tuple[Path, tuple[str, ...]]:
    """Returns the prefix of the complete checkpoint that `path` means, and notes on how it was chosen.

    Needs no TensorFlow.

    Args:
        path: a prefix, one of its files, a `checkpoint` state file, or a folder. In a folder it is the newest complete
            checkpoint, by the number at the end of its name; in an export of the OD API's TF2 script, that in its
            folder `checkpoint`.
        step: the step to choose in a folder instead of the newest.

    Raises: CheckpointError if there is no complete checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        folder = checkpoint_folder(path)
        prefix, notes = _newest(folder, step)
        return prefix, (*notes, *([f"using the checkpoint in {folder}"] if folder != path else []))
    if path.name == STATE_FILE and path.is_file():
        return _newest(path.parent, step, hint=_state_file_choice(path))
    prefix = checkpoint_prefix(path)
    if step is not None and step != step_of(prefix):
        raise CheckpointError(
            f"{path}: this is the checkpoint of step {step_of(prefix)}, not of --step {step}; pass its folder instead"
        )
    _require_parts(prefix)
    return prefix, ()


def checkpoint_folder(folder: Path) -> Path:
    """Returns the folder with the checkpoints of a training or an export: the folder itself, or `checkpoint` in it."""
    inner = folder / STATE_FILE
    return inner if inner.is_dir() and not find_checkpoints(folder) and find_checkpoints(inner) else folder


def find_checkpoints(folder: str | Path) -> list[CheckpointEntry]:
    """Returns every checkpoint in a folder, incomplete ones too, by step; those without a number come first."""
    folder = Path(folder)
    names = {path.name.removesuffix(".index") for path in folder.glob("*.index")}
    names |= {match["prefix"] for path in folder.glob("*.data-*") if (match := _SHARD.match(path.name))}
    candidates = [_candidate(folder / name) for name in names]
    singles = [
        path for path in folder.iterdir() if _SINGLE_FILE.match(path.name) and path.is_file() and path.name not in names
    ]
    candidates += [CheckpointEntry(path, step_of(path)) for path in singles]
    return sorted(
        candidates, key=lambda candidate: (-1 if candidate.step is None else candidate.step, candidate.prefix.name)
    )


def step_of(prefix: Path) -> int | None:
    """Returns the training step in a checkpoint's name: 8000 for `model.ckpt-8000`."""
    match = _STEP.search(prefix.name)
    return int(match[1]) if match else None


def checkpoint_prefix(path: Path) -> Path:
    """Returns the prefix of a checkpoint's file: `model.ckpt-8` for `model.ckpt-8.index`; a prefix is unchanged."""
    match = _SHARD.match(path.name)
    if match:
        return path.with_name(match["prefix"])
    if path.suffix in (".index", ".meta"):
        return path.with_name(path.name.removesuffix(path.suffix))
    return path


def _newest(folder: Path, step: int | None, hint: str | None = None) -> tuple[Path, tuple[str, ...]]:
    candidates = find_checkpoints(folder)
    if not candidates:
        raise CheckpointError(
            f"{folder}: no checkpoint in this folder: expected files like model.ckpt-1000.index or ckpt-5.index"
            f"{_hint_of_subfolder(folder)}"
        )
    if step is not None:
        candidates = [candidate for candidate in candidates if candidate.step == step]
        if not candidates:
            steps = ", ".join(str(candidate.step) for candidate in find_checkpoints(folder))
            raise CheckpointError(f"{folder}: no checkpoint of step {step}; steps here: {steps}")
    complete = [candidate for candidate in candidates if not candidate.missing]
    if not complete:
        last = candidates[-1]
        raise CheckpointError(
            f"{last.prefix}: incomplete checkpoint: {last.missing}; copy the missing file, or choose another step"
        )
    chosen = complete[-1]
    newer = candidates[candidates.index(chosen) + 1 :]
    notes = [f"{entry.prefix.name} skipped: {entry.missing}" for entry in newer]
    if len(complete) > 1:
        notes.append(f"using {chosen.prefix.name}, the newest of {len(complete)} complete checkpoints in {folder}")
    if hint is not None and hint != chosen.prefix.name and step is None:
        notes.append(f"the state file names {hint}, which is not the newest complete checkpoint")
    _require_parts(chosen.prefix)
    return chosen.prefix, tuple(notes)


def read_index(prefix: Path, notes: tuple[str, ...] = ()) -> Checkpoint:
    """Reads the index of a checkpoint, whether or not its data files are complete.

    Raises: CheckpointError if the index is missing or damaged.
    """
    import tensorflow as tf  # here, so that `locate_checkpoint` needs no TensorFlow

    index = prefix.with_name(prefix.name + ".index")
    file = index if index.is_file() else prefix
    try:
        if not is_checkpoint_table(file):
            raise CheckpointError(_not_a_table(file))
        reader = tf.train.load_checkpoint(str(prefix))
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except CheckpointError:
        raise
    except Exception as error:  # OpError, RuntimeError or OSError, depending on TensorFlow and on the damage
        raise CheckpointError(
            f"{file}: not a readable checkpoint: {_reason(error)}; the file is damaged: copy it again"
        ) from None
    tensors = {name: TensorInfo(tuple(shapes[name]), dtypes[name].name) for name in sorted(shapes)}
    return Checkpoint(prefix, step_of(prefix), _format(prefix, tensors), tensors, notes, _reader=reader)


def open_export(saved_model: Path, generation: Generation) -> Checkpoint:
    """Opens the variables of an export as a checkpoint of the generation that its config belongs to.

    Raises: CheckpointError if the weights are constants of the graph, or if the variables cannot be read.
    """
    prefix = saved_model / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        raise CheckpointError(
            f"{saved_model}: contains no variables, because its weights are constants of the graph; pass the "
            "checkpoint, or an export with --weights variables"
        )
    stored = open_checkpoint(prefix)
    tensors = {key.removesuffix(VALUE): info for key, info in stored.tensors.items() if key.endswith(VALUE)}
    return replace(stored, format=CheckpointFormat.EXPORT, tensors=tensors, exported_from=generation, suffix=VALUE)


def is_checkpoint_table(file: Path) -> bool:
    """Returns whether a file ends like an index or a single-file checkpoint; one that is cut short does not."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - len(_TABLE_END)))
        return opened.read() == _TABLE_END


def _not_a_table(file: Path) -> str:
    kind = kind_of_file(file)
    if kind is not None:
        return f"{file}: {kind.instead_of('a checkpoint' if file.suffix != '.index' else 'the index of a checkpoint')}"
    if file.suffix == ".index":
        size_bytes = file.stat().st_size
        return f"{file}: not the index of a checkpoint, or cut short ({size_bytes} bytes); copy it again"
    return f"{file}: not a checkpoint; pass a prefix such as run/model.ckpt-1000, or its folder"


def _require_parts(prefix: Path) -> None:
    index = prefix.with_name(prefix.name + ".index")
    if index.is_file():
        missing = _candidate(prefix).missing
        if missing:
            raise CheckpointError(
                f"{prefix}: incomplete checkpoint: {missing}; copy the missing file beside {index.name}"
            )
        if not is_checkpoint_table(index):
            raise CheckpointError(_not_a_table(index))
        for shard in sorted(prefix.parent.glob(_escape(prefix.name) + ".data-*")):
            kind = kind_of_file(shard)
            if kind is not None and kind in (GIT_LFS, WEB_PAGE):
                raise CheckpointError(f"{shard}: {kind.instead_of('the data of a checkpoint')}")
        return
    if prefix.is_file():  # a single-file checkpoint
        if not is_checkpoint_table(prefix):
            raise CheckpointError(_not_a_table(prefix))
        return
    beside = [candidate.prefix.name for candidate in find_checkpoints(prefix.parent)] if prefix.parent.is_dir() else []
    hint = f"; checkpoints there: {', '.join(beside)}" if beside else ""
    if any(name == prefix.name for name in beside):
        raise CheckpointError(
            f"{prefix}: incomplete checkpoint: {index.name} is missing; copy it beside the data files"
        )
    raise CheckpointError(
        f"{prefix}: no such checkpoint, folder or file{hint}; pass a prefix such as run/model.ckpt-1000, or its folder"
    )


def _candidate(prefix: Path) -> CheckpointEntry:
    if not prefix.with_name(prefix.name + ".index").is_file():
        return CheckpointEntry(prefix, step_of(prefix), f"{prefix.name}.index is missing")
    shards = [
        match for path in prefix.parent.glob(_escape(prefix.name) + ".data-*") if (match := _SHARD.match(path.name))
    ]
    if not shards:
        return CheckpointEntry(prefix, step_of(prefix), f"{prefix.name}.data-00000-of-00001 is missing")
    # Two saves under one name leave shards of different totals; the more complete save counts.
    totals = {int(match["shards"]) for match in shards}
    total, absent = min(((total, _absent(shards, total)) for total in totals), key=lambda pair: (len(pair[1]), pair[0]))
    missing = ", ".join(f"{prefix.name}.data-{shard:05d}-of-{total:05d}" for shard in absent)
    return CheckpointEntry(prefix, step_of(prefix), f"{missing} is missing" if missing else "")


def _absent(shards: list[re.Match[str]], total: int) -> list[int]:
    return sorted(set(range(total)) - {int(match["shard"]) for match in shards if int(match["shards"]) == total})


def _format(prefix: Path, tensors: Mapping[str, TensorInfo]) -> CheckpointFormat:
    if OBJECT_GRAPH in tensors:
        return CheckpointFormat.TF2
    has_index = prefix.with_name(prefix.name + ".index").is_file()
    return CheckpointFormat.TF1 if has_index else CheckpointFormat.TF1_V1


def _is_part(path: Path, name: str) -> bool:
    match = _SHARD.match(path.name)
    return path.name == name + ".index" or (match is not None and match["prefix"] == name)


def _state_file_choice(path: Path) -> str | None:
    match = re.search(r'^\s*model_checkpoint_path:\s*"([^"]*)"', path.read_text(errors="replace"), re.MULTILINE)
    return re.split(r"[\\/]", match[1])[-1] if match else None


def _hint_of_subfolder(folder: Path) -> str:
    index = next(folder.glob("*/*.index"), None)
    return f"; there is one in {index.parent}" if index else ""


def _escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _reason(error: BaseException) -> str:
    return first_line(error).rstrip(".")
