"""Damaged files are reported as such: `inspect` and the parsers end with a result or one line, whatever the bytes.

The corpus is fixed: the mutations follow from their number. UNFREEZE_FUZZ=10000 tries that many of each file.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

import unfreeze
from unfreeze.errors import UnfreezeError

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
COUNT = int(os.environ.get("UNFREEZE_FUZZ", "0"))
HEAD = 3000  # where most bytes of structure are


def mutated(content: bytes, number: int) -> bytes:
    """Returns the content with bytes changed, removed or added, or cut short."""
    chance = random.Random(number)
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        place = chance.randrange(len(data) if chance.random() < 0.5 else min(len(data), HEAD))
        kind = chance.random()
        if kind < 0.5:
            data[place] = chance.randrange(256)
        elif kind < 0.7:
            del data[place : place + chance.choice([1, 4, 50])]
        elif kind < 0.9:
            data[place:place] = chance.randbytes(chance.choice([1, 4, 30]))
        else:
            del data[place:]
        data = data or bytearray(b"\0")
    return bytes(data)


def small_graph() -> bytes:
    """Returns a frozen graph with a function, constants and a placeholder of images."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], name="image_tensor")
        pixels = tf.nn.conv2d(tf.cast(images, tf.float32), tf.fill([3, 3, 3, 4], 0.5), 1, "SAME")
        tf.identity(tf.function(tf.nn.relu)(pixels), name="detection_boxes")
    content: bytes = graph.as_graph_def().SerializeToString()
    return content


def small_saved_model(folder: Path) -> bytes:
    root = tf.Module()
    root.weight = tf.Variable([1.0, 2.0])
    root.call = tf.function(lambda x: {"y": x * root.weight}, [tf.TensorSpec([None, 2], name="x")])
    tf.saved_model.save(root, str(folder), signatures=root.call)
    return (folder / "saved_model.pb").read_bytes()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("pipeline.config", 15),
        ("label_map.pbtxt", 100),
        ("model.ckpt-8000.index", 20),
        ("frozen.pb", 60),
        ("saved_model.pb", 60),
    ],
)
def test_damaged_file_is_inspected_or_reported_in_one_line(name: str, count: int, tmp_path: Path) -> None:
    if name == "frozen.pb":
        content = small_graph()
    elif name == "saved_model.pb":
        content = small_saved_model(tmp_path)
    else:
        content = next(DIGITS.rglob(name)).read_bytes()
    if name.endswith(".index"):
        shutil.copy(DIGITS / "run" / "model.ckpt-8000.data-00000-of-00001", tmp_path)
    for number in range(COUNT or count):
        (tmp_path / name).write_bytes(mutated(content, number))
        assert "\n" not in message_of(tmp_path if name == "saved_model.pb" else tmp_path / name), number


def message_of(path: Path) -> str:
    """Returns the error of inspecting a path, or nothing."""
    try:
        unfreeze.inspect(path)
    except UnfreezeError as error:
        return str(error)
    return ""
