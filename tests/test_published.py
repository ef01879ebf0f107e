"""Published checkpoints, by their index files: every weight is found, and every tensor is used.

`published/tf1/NAME` holds the index of a checkpoint (names and shapes, no values) and its pipeline.config: two of the
TensorFlow model zoo, one of them quantization-aware, and one that a user fine-tuned. `published/tf2` has two of the
model zoo of TensorFlow 2, and a user's training folder, without a config, of an EfficientDet of three classes. An index
has no object graph, so it is bound by its keys alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from unfreeze.config import read_pipeline_config
from unfreeze.detectors import build_detector
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.savedmodel import trace
from unfreeze.weights import Weights, read_index, training_state

PUBLISHED = Path(__file__).parent / "published" / "tf1"
PUBLISHED_TF2 = Path(__file__).parent / "published" / "tf2"


class Contents(NamedTuple):
    """Numbers of tensors in the index of a published checkpoint."""

    tensors: int
    weights: int
    averages_used: int


CONTENTS = {
    "fine_tuned_ssd_mobilenet_v2": Contents(tensors=325, weights=324, averages_used=0),
    "ssd_mobilenet_v2_coco_2018_03_29": Contents(tensors=345, weights=344, averages_used=0),
    # 308 of its weights are the ranges of quantized operations; its moving averages are those of the 204 trained ones.
    "ssd_mobilenet_v2_quantized_300x300_coco_2019_01_03": Contents(tensors=1574, weights=632, averages_used=204),
}


def test_table_has_every_published_checkpoint() -> None:
    assert sorted(CONTENTS) == sorted(path.name for path in PUBLISHED.iterdir())


@pytest.mark.parametrize("name", CONTENTS)
def test_published_checkpoint_binds_completely(name: str) -> None:
    config = read_pipeline_config(PUBLISHED / name / "pipeline.config")
    checkpoint = read_index(PUBLISHED / name / "model.ckpt")
    weights = Weights(checkpoint, moving_averages=config.eval_config.use_moving_averages)
    trace(build_detector(config, weights))
    weights.require_fit(likely_causes(config))
    assert weights.unused() == []
    assert weights.without_moving_average == []
    averages = set(weights.sources.values()) - set(weights.sources)
    assert Contents(len(checkpoint.tensors), len(weights.sources), len(averages)) == CONTENTS[name]
    left = set(checkpoint.tensors) - set(weights.sources) - averages
    assert all(map(training_state, left))


EFFICIENTDET = "efficientdet_d0_coco17_tpu-32"
# Checkpoint: the folder of its config, what differs from it, and what the index holds.
CONTENTS_TF2 = {
    f"{EFFICIENTDET}/ckpt-0": (EFFICIENTDET, "", Contents(tensors=685, weights=676, averages_used=0)),
    "ssd_mobilenet_v2_320x320_coco17_tpu-8/ckpt-0": (
        "ssd_mobilenet_v2_320x320_coco17_tpu-8",
        "",
        Contents(tensors=326, weights=324, averages_used=0),
    ),
    "training_folder/ckpt-8": (
        EFFICIENTDET,
        "model { ssd { num_classes: 3 } }",
        Contents(tensors=686, weights=676, averages_used=0),
    ),
    "training_folder/ckpt-14": (
        EFFICIENTDET,
        "model { ssd { num_classes: 3 } }",
        Contents(tensors=1152, weights=676, averages_used=0),
    ),
}


def test_table_has_every_published_tf2_checkpoint() -> None:
    indexes = PUBLISHED_TF2.glob("*/*.index")
    assert sorted(CONTENTS_TF2) == sorted(
        str(path.relative_to(PUBLISHED_TF2)).removesuffix(".index") for path in indexes
    )


@pytest.mark.parametrize("name", CONTENTS_TF2)
def test_published_tf2_checkpoint_binds_completely(name: str) -> None:
    folder, override, contents = CONTENTS_TF2[name]
    config = read_pipeline_config(PUBLISHED_TF2 / folder / "pipeline.config", override=override)
    checkpoint = read_index(PUBLISHED_TF2 / name)
    weights = Weights(checkpoint)
    trace(build_detector(config, weights))
    weights.require_fit(likely_causes(config))
    assert weights.unused() == []
    assert Contents(len(checkpoint.tensors), len(weights.sources), 0) == contents
