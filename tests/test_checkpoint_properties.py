"""Properties of reading checkpoints: damaged files are read or raise CheckpointError, and never another exception."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unfreeze.errors import CheckpointError
from unfreeze.weights import find_checkpoints, locate_checkpoint, open_checkpoint, read_index

# The checkpoint is the same for all examples of a test, which change copies of its files only.
EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two tensors, `model.ckpt-1`."""
    made = tmp_path_factory.mktemp("checkpoint") / "model.ckpt-1"
    tensors = {"layer/weights": np.ones((3, 4), np.float32), "name": np.array(b"text", object)}
    tf.raw_ops.SaveV2(
        prefix=str(made),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.convert_to_tensor(tensor) for tensor in tensors.values()],
    )
    return made


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, prefix: Path) -> Path:
    """Another prefix with a copy of the data file; tests write its index."""
    copy = tmp_path_factory.mktemp("damaged") / prefix.name
    data = f"{prefix.name}.data-00000-of-00001"
    copy.with_name(data).write_bytes(prefix.with_name(data).read_bytes())
    return copy


def read_all(prefix: Path) -> None:
    """Opens a checkpoint and reads its tensors, as far as its files allow."""
    try:
        checkpoint = open_checkpoint(prefix)
        for name in checkpoint.tensors:
            checkpoint.read(name)
    except CheckpointError:
        pass


def index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


@given(content=st.binary(max_size=400), ends_like_a_table=st.booleans())
@EXAMPLES
def test_random_bytes_as_an_index(damaged: Path, content: bytes, ends_like_a_table: bool) -> None:
    index_of(damaged).write_bytes(content + bytes.fromhex("57fb808b247547db") * ends_like_a_table)
    with pytest.raises(CheckpointError):
        read_index(damaged)


@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
@EXAMPLES
def test_index_with_changed_bytes(prefix: Path, damaged: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(index_of(prefix).read_bytes())
    for position, byte in changes:
        content[position % len(content)] = byte
    index_of(damaged).write_bytes(bytes(content))
    read_all(damaged)


@given(cut=st.integers(1, 10_000), extra=st.binary(max_size=20))
@EXAMPLES
def test_index_that_is_cut_and_continued(prefix: Path, damaged: Path, cut: int, extra: bytes) -> None:
    content = index_of(prefix).read_bytes()
    index_of(damaged).write_bytes(content[: -(cut % len(content)) or None] + extra)
    read_all(damaged)


SUFFIX = r"(\.(index|meta|data-0000[0-3]-of-0000[0-3]))?"
NAMES = st.from_regex(r"(model\.ckpt|ckpt|checkpoint|\.hidden|a\*\[b)?(-[0-9]{1,12})?" + SUFFIX, fullmatch=True)


@given(names=st.sets(NAMES.filter(bool), max_size=6))
@EXAMPLES
def test_any_file_names_in_a_folder(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    folder = tmp_path_factory.mktemp("folder")
    for name in names:
        (folder / name).write_bytes(b"")
    entries = find_checkpoints(folder)
    steps = [-1 if entry.step is None else entry.step for entry in entries]
    assert steps == sorted(steps)
    problem = ""
    try:
        located, _ = locate_checkpoint(folder)
    except CheckpointError as error:
        problem = str(error)
    if problem:
        assert "is an empty file" in problem or all(entry.missing for entry in entries)
    else:
        assert located in [entry.prefix for entry in entries if not entry.missing]
