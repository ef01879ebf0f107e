"""A runtime for tests: a model file is JSON that says what the model does."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unfreeze.errors import SavedModelError
from unfreeze.runtimes.model import Outputs


@dataclass(frozen=True)
class JsonModel:
    behavior: dict[str, Any]
    title: str = "json"
    output_names: tuple[str, ...] = ("detection_boxes", "detection_scores", "detection_classes")
    uses_gpu: bool = False

    def run(self, images: np.ndarray) -> Outputs:
        if len(images) > self.behavior.get("max_batch", 100):
            raise SavedModelError(f"the batch is too large\n{len(images)} images")
        if self.behavior.get("dies"):
            os._exit(7)
        time.sleep(self.behavior.get("sleep_s", 0))
        box = [0.1, 0.1, 0.5, 0.5 + self.behavior.get("shift", 0.0)]
        boxes = np.tile(np.array([box, [0.2, 0.2, 0.4, 0.4]], np.float32), (len(images), 1, 1))
        scores = np.tile(np.array([0.9, 0.8], np.float32), (len(images), 1))
        return {"detection_boxes": boxes, "detection_scores": scores, "detection_classes": np.ones_like(scores)}


def load_model(path: Path, threads: int | None) -> JsonModel:
    behavior = json.loads(path.read_text())
    if "error" in behavior:
        raise SavedModelError(behavior["error"])
    return JsonModel(behavior)
