"""A detector in Python: its stages, its gradients, its training, and the checkpoint that it is saved as."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import reference
import tensorflow as tf

import unfreeze
from unfreeze.verbs.load_detector import LoadedDetector

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


class Family(NamedTuple):
    """A golden of each family, and its variables that get no gradient by nature, with the reason."""

    golden: str
    generation: str
    without_gradient: tuple[str, ...] = ()


FAMILIES = (
    Family("ssd_mobilenet_v1_coco", "tf1"),
    Family("v_ssd_mobilenet_v2_fpnlite", "tf1"),
    Family("ssd_mobilenet_v2_fpnlite_320x320_coco17_tpu-8", "tf2"),
    Family("v_efficientdet_b0", "tf2"),
    Family("faster_rcnn_inception_v2_coco", "tf1"),
    Family("v_mrcnn_pad_matmul", "tf1"),
    Family("v_rfcn_padded", "tf1"),
    Family("v_center_mobilenet_v2_fpn", "tf2"),
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of goldens' checkpoints, made when they are asked for."""
    return tmp_path_factory.mktemp("goldens")


def loaded(family: Family, folder: Path, **options: str) -> LoadedDetector:
    golden = reference.golden(family.golden, family.generation)
    run = folder / family.golden
    if not run.exists():
        reference.write_checkpoint(golden, run)
    return unfreeze.load_detector(run, label_map=None, **options)


def image(size: tuple[int, int] = (240, 320)) -> tf.Tensor:
    return tf.constant(reference.picture(*size)[np.newaxis])


def generic_loss(detector: LoadedDetector, images: tf.Tensor) -> tf.Tensor:
    """A sum over all that the network computes, each number with a factor of its own."""
    stages = detector.predict(detector.preprocess(images))
    raw = {name: value for name, value in stages.items() if value.dtype == tf.float32}
    raw |= {name: value for name, value in detector.postprocess(stages).items() if "mask" in name}
    total = tf.constant(0.0)
    for name, value in sorted(raw.items()):
        factors = tf.sin(tf.cast(tf.range(tf.size(value)) % 1013, tf.float32) + len(name))
        total += tf.reduce_mean(factors * tf.reshape(value, [-1]))
    return total


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.golden)
def test_every_trainable_variable_gets_a_gradient(family: Family, checkpoints: Path) -> None:
    detector = loaded(family, checkpoints)
    variables = detector.trainable_variables
    for name, variable in zip(variables.names, variables, strict=True):
        if name.endswith("bifpn_combine_weights"):
            # Some of the golden's own are negative: a path that the network does not use.
            variable.assign(tf.abs(variable))

    def gradients() -> list[tf.Tensor | None]:
        with tf.GradientTape() as tape:
            loss = generic_loss(detector, image())
        return [None if each is None else tf.convert_to_tensor(each) for each in tape.gradient(loss, list(variables))]

    for found in (tf.function(gradients)(), gradients()):
        without = {
            name
            for name, gradient in zip(variables.names, found, strict=True)
            if gradient is None or not np.isfinite(gradient).all() or not np.any(gradient)
        }
        assert without == {
            name for name in variables.names if any(re.search(each, name) for each in family.without_gradient)
        }
