"""Checkpoints on disk: found by prefix, folder or state file; the newest complete one; read tensor by tensor.

Three formats exist. TensorFlow 1 wrote `model.ckpt-N.{index,data-*,meta}` keyed by variable names, and long ago one
file without extension; TensorFlow 2 writes `ckpt-N.{index,data-*}` keyed by paths in an object graph, which the
checkpoint itself holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import CheckpointError

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # at the end of each key of a TensorFlow 2 checkpoint that is a variable's
STATE_FILE = "checkpoint"
_SHARD = re.compile(r"^(?P<prefix>.+)\.data-(?P<shard>\d{5})-of-(?P<shards>\d{5})$")
_STEP = re.compile(r"-(\d+)$")
_SINGLE_FILE = re.compile(r"^[^.].*\.ckpt(-\d+)?$")
_TABLE_END = bytes.fromhex("57fb808b247547db")  # of every index, and of every old single file: a leveldb table


@dataclass(frozen=True)
class TensorInfo:
    """What a checkpoint's index says of one tensor."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Its bytes in the data files; 0 for strings, whose length the index does not tell by shape."""
        import tensorflow as tf

        return self.size * tf.as_dtype(self.dtype).size


@dataclass(frozen=True)
class CheckpointEntry:
    """A checkpoint seen in a folder: `missing` says what it lacks, and is empty for a complete one."""

    prefix: Path
    step: int | None
    missing: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; `notes` tell how it was chosen: what was skipped, what the state file names instead.

    `format`: "tf1", "tf1-v1" (one old file) or "tf2" (object-based), or "export" for the variables of an export. There
    the names of `tensors` are those that the network has for its weights, `suffix` ends each of them in the files, and
    `exported_from` is the generation of the checkpoint that was exported.
    """

    prefix: Path
    step: int | None
    format: str
    tensors: Mapping[str, TensorInfo]
    notes: tuple[str, ...] = ()
    exported_from: str = ""
    suffix: str = ""
    _reader: Any = field(default=None, repr=False, compare=False)

    @property
    def generation(self) -> str:
        """The TensorFlow that trained it: "tf1" or "tf2"."""
        return self.exported_from or ("tf2" if self.format == "tf2" else "tf1")

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`; raises CheckpointError where the data file does not hold what the index says."""
        try:
            value = self._reader.get_tensor(name + self.suffix)
            # Of a string NumPy's own type would drop the zeros at its end.
            return np.asarray(value, object) if isinstance(value, bytes) else np.asarray(value)
        except Exception as error:  # TensorFlow raises OpError, RuntimeError or ValueError, by version and by fault
            raise CheckpointError(
                f"{self.prefix}: tensor {name!r} cannot be read: {_reason(error)}; "
                f"the data file is damaged or cut short: copy {self.prefix.name}.data-* again"
            ) from None

    def restore(self, names: Sequence[str]) -> Sequence[Any]:
        """The tensors called `names`, read by TensorFlow for TensorFlow: in memory once. Raises as `read` does."""
        import tensorflow as tf  # here, so that `locate_checkpoint` answers without it

        dtypes = [tf.as_dtype(self.tensors[name].dtype) for name in names]
        try:
            return tf.raw_ops.RestoreV2(
                prefix=str(self.prefix),
                tensor_names=[name + self.suffix for name in names],
                shape_and_slices=[""] * len(names),
                dtypes=dtypes,
            )
        except tf.errors.OpError:
            for name in names:  # to tell which it is
                self.read(name)
            raise

    def files(self) -> list[Path]:
        """Index and data files, in a fixed order."""
        if self.format == "tf1-v1":
            return [self.prefix]
        parent = self.prefix.parent
        return sorted(
            path for path in parent.glob(_escape(self.prefix.name) + ".*") if _is_part(path, self.prefix.name)
        )

    def missing_data(self) -> str:
        """What its data files lack of what the index promises; empty where they are whole. No tensor is read."""
        if self.format == "tf1-v1":
            return ""  # one file: cut short, it would not have opened
        missing = _candidate(self.prefix).missing
        if missing:
            return missing
        data = [path for path in self.files() if path.suffix != ".index"]
        promised = sum(tensor.size_bytes for tensor in self.tensors.values())
        held = sum(path.stat().st_size for path in data)
        if held >= promised:
            return ""
        return f"{', '.join(path.name for path in data)} is cut short: {held} of {promised} bytes"


def open_checkpoint(path: str | Path, step: int | None = None) -> Checkpoint:
    """The checkpoint that `path` means, opened: see `locate_checkpoint`."""
    prefix, notes = locate_checkpoint(path, step)
    opened = read_index(prefix, notes)
    fault = opened.missing_data()
    if fault:
        raise CheckpointError(f"{prefix}: incomplete checkpoint: {fault}; copy it again")
    return opened


def locate_checkpoint(path: str | Path, step: int | None = None) -> tuple[Path, tuple[str, ...]]:
    """The prefix that `path` means, all its files there, and notes on how it was chosen. Needs no TensorFlow.

    Args:
        path: a prefix, one of its files, a `checkpoint` state file, or a folder. In a folder the newest complete
            checkpoint is taken, by the number at its end, or the one of `step`.
    """
    path = Path(path)
    if path.is_dir():
        return _newest(path, step)
    if path.name == STATE_FILE and path.is_file():
        return _newest(path.parent, step, hint=_state_file_choice(path))
    prefix = checkpoint_prefix(path)
    if step is not None and step != step_of(prefix):
        raise CheckpointError(
            f"{path}: --step {step} was asked for, but this is the checkpoint of step {step_of(prefix)}; "
            "give its folder"
        )
    _require_parts(prefix)
    return prefix, ()


def find_checkpoints(folder: str | Path) -> list[CheckpointEntry]:
    """Every checkpoint in a folder, torn ones too, oldest first (by step; those without a number come first)."""
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
    """The training step in a checkpoint's name, `model.ckpt-8000` -> 8000."""
    match = _STEP.search(prefix.name)
    return int(match[1]) if match else None


def checkpoint_prefix(path: Path) -> Path:
    """`model.ckpt-8.index`, `.meta` or `.data-00000-of-00001` -> `model.ckpt-8`; a prefix stays what it is."""
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
            f"{_deeper(folder)}"
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
    notes = [f"{torn.prefix.name} skipped: {torn.missing}" for torn in candidates[candidates.index(chosen) + 1 :]]
    if len(complete) > 1:
        notes.append(f"{chosen.prefix.name} chosen: the newest of {len(complete)} complete checkpoints in {folder}")
    if hint is not None and hint != chosen.prefix.name and step is None:
        notes.append(f"the state file names {hint}, which is not the newest complete one")
    _require_parts(chosen.prefix)
    return chosen.prefix, tuple(notes)


def read_index(prefix: Path, notes: tuple[str, ...] = ()) -> Checkpoint:
    """The checkpoint as its index tells it, whether or not its data files are there and whole."""
    import tensorflow as tf  # here, so that `locate_checkpoint` answers without it

    index = prefix.with_name(prefix.name + ".index")
    file = index if index.is_file() else prefix
    try:
        if not is_checkpoint_table(file):
            raise CheckpointError(_no_table(file))
        reader = tf.train.load_checkpoint(str(prefix))
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged index gives OpError, RuntimeError or OSError, by version and by fault
        raise CheckpointError(
            f"{file}: not a readable checkpoint: {_reason(error)}; the file is damaged: copy it again"
        ) from None
    tensors = {name: TensorInfo(tuple(shapes[name]), dtypes[name].name) for name in sorted(shapes)}
    return Checkpoint(prefix, step_of(prefix), _format(prefix, tensors), tensors, notes, _reader=reader)


def open_export(saved_model: Path, generation: str) -> Checkpoint:
    """The variables of an export as a checkpoint of the generation that its config belongs to.

    Raises: CheckpointError: there are none, since the weights are constants of the graph, or they cannot be read.
    """
    prefix = saved_model / "variables" / "variables"
    if not prefix.with_name("variables.index").is_file():
        raise CheckpointError(
            f"{saved_model}: it has no variables: its weights are constants of the graph; give the checkpoint, or an "
            "export with --weights variables"
        )
    stored = open_checkpoint(prefix)
    tensors = {key.removesuffix(VALUE): info for key, info in stored.tensors.items() if key.endswith(VALUE)}
    return replace(stored, format="export", tensors=tensors, exported_from=generation, suffix=VALUE)


def is_checkpoint_table(file: Path) -> bool:
    """Whether a file ends as an index and an old single-file checkpoint do; one that is cut short does not."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - len(_TABLE_END)))
        return opened.read() == _TABLE_END


def _no_table(file: Path) -> str:
    if file.suffix == ".index":
        size_bytes = file.stat().st_size
        return f"{file}: not a checkpoint's index, or one that is cut short ({size_bytes} bytes): copy it again"
    return f"{file}: not a checkpoint: give a prefix such as run/model.ckpt-1000, or its folder"


def _require_parts(prefix: Path) -> None:
    index = prefix.with_name(prefix.name + ".index")
    if index.is_file():
        missing = _candidate(prefix).missing
        if missing:
            raise CheckpointError(
                f"{prefix}: incomplete checkpoint: {missing}; copy the missing file beside {index.name}"
            )
        return
    if prefix.is_file():
        return  # the old single-file format
    beside = [candidate.prefix.name for candidate in find_checkpoints(prefix.parent)] if prefix.parent.is_dir() else []
    known = f"; checkpoints there: {', '.join(beside)}" if beside else ""
    if any(name == prefix.name for name in beside):
        raise CheckpointError(
            f"{prefix}: incomplete checkpoint: {index.name} is missing; copy it beside the data files"
        )
    raise CheckpointError(
        f"{prefix}: no such checkpoint, folder or file{known}; give a prefix such as run/model.ckpt-1000, or its folder"
    )


def _candidate(prefix: Path) -> CheckpointEntry:
    if not prefix.with_name(prefix.name + ".index").is_file():
        return CheckpointEntry(prefix, step_of(prefix), f"{prefix.name}.index is missing")
    shards = [
        match for path in prefix.parent.glob(_escape(prefix.name) + ".data-*") if (match := _SHARD.match(path.name))
    ]
    if not shards:
        return CheckpointEntry(prefix, step_of(prefix), f"{prefix.name}.data-00000-of-00001 is missing")
    # Files of two saves under one name may lie here, of another number of shards each: the more complete one counts.
    totals = {int(match["shards"]) for match in shards}
    total, absent = min(((total, _absent(shards, total)) for total in totals), key=lambda of: (len(of[1]), of[0]))
    missing = ", ".join(f"{prefix.name}.data-{shard:05d}-of-{total:05d}" for shard in absent)
    return CheckpointEntry(prefix, step_of(prefix), f"{missing} is missing" if missing else "")


def _absent(shards: list[re.Match[str]], total: int) -> list[int]:
    return sorted(set(range(total)) - {int(match["shard"]) for match in shards if int(match["shards"]) == total})


def _format(prefix: Path, tensors: Mapping[str, TensorInfo]) -> str:
    if OBJECT_GRAPH in tensors:
        return "tf2"
    return "tf1" if prefix.with_name(prefix.name + ".index").is_file() else "tf1-v1"


def _is_part(path: Path, name: str) -> bool:
    match = _SHARD.match(path.name)
    return path.name == name + ".index" or (match is not None and match["prefix"] == name)


def _state_file_choice(path: Path) -> str | None:
    match = re.search(r'^\s*model_checkpoint_path:\s*"([^"]*)"', path.read_text(errors="replace"), re.MULTILINE)
    return re.split(r"[\\/]", match[1])[-1] if match else None


def _deeper(folder: Path) -> str:
    found = next(folder.glob("*/*.index"), None)
    return f"; there is one in {found.parent}" if found else ""


def _escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "message", "") or error).splitlines()
    return text[0].strip().rstrip(".") if text and text[0].strip() else type(error).__name__
