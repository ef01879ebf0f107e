"""docs/python.md as a reader would run it, from the first block to the last."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).parents[1]


def test_the_page_runs_and_the_exported_model_finds_what_it_was_taught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    page: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), page)
    assert len(page["detector"].variables) == 199
    assert page["losses"][-1] < page["losses"][0] / 10

    served = tf.saved_model.load(str(page["exported"].saved_model)).signatures["serving_default"]
    outputs = served(inputs=tf.constant(page["images"]))
    for image, (classes, boxes) in enumerate(zip(page["classes"], page["boxes"], strict=True)):
        assert sorted(outputs["detection_classes"][image, :3].numpy()) == sorted(classes)
        assert outputs["detection_scores"][image, :3].numpy().min() > 0.5
        for label, box in zip(classes, boxes, strict=True):
            [place] = np.flatnonzero(outputs["detection_classes"][image, :3] == label)
            assert np.abs(outputs["detection_boxes"][image, place] - box).max() < 0.05
