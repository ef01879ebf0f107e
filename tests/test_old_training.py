"""Warnings about models of older versions of the Object Detection API, whose configs mean something else today."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tensorflow as tf

from unfreeze.config import parse_pipeline_config
from unfreeze.errors import ConfigError
from unfreeze.exporting.old_training import old_training_warnings

RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)
LOWEST_LAYER = (1.0, 2.0, 0.5)
RELU_6 = "conv_hyperparams { activation: RELU_6 batch_norm { epsilon: 0.001 } }"
OTHER = "conv_hyperparams { activation: RELU batch_norm { epsilon: 0.01 } }"


def ssd(kind: str, fields: str = "", aspect_ratios: Sequence[float] = RATIOS) -> str:
    ratios = " ".join(f"aspect_ratios: {ratio}" for ratio in aspect_ratios)
    anchors = f"anchor_generator {{ ssd_anchor_generator {{ {ratios} }} }}"
    return f"model {{ ssd {{ feature_extractor {{ type: '{kind}' {fields} }} {anchors} }} }}"


def faster_rcnn(fields: str) -> str:
    return f"model {{ faster_rcnn {{ {fields} }} }}"


def warnings(config: str, prefix: Path = Path("run/model.ckpt-1")) -> list[str]:
    return list(old_training_warnings(parse_pipeline_config(config), prefix))


def write_training_graph(prefix: Path, *layers: Sequence[float]) -> None:
    """Writes a .meta with the operations that compute anchors' heights, named as in a training."""
    with tf.Graph().as_default():
        with tf.compat.v1.name_scope("MultipleGridAnchorGenerator"):
            for ratios in layers:
                tf.sqrt(list(ratios))
        tf.compat.v1.train.export_meta_graph(f"{prefix}.meta")


def test_anchors_of_before_november_2017_are_recognized_by_the_training_graph(tmp_path: Path) -> None:
    prefix = tmp_path / "model.ckpt-1"
    config = ssd("ssd_mobilenet_v1")
    assert warnings(config, prefix) == []  # there is no graph
    write_training_graph(prefix, LOWEST_LAYER, (*RATIOS, 1.0))
    assert warnings(config, prefix) == []
    write_training_graph(prefix, LOWEST_LAYER, (1.0, *RATIOS))
    [warning] = warnings(config, prefix)
    assert f"{prefix}.meta: the model was trained by an Object Detection API from before November 2017" in warning
    Path(f"{prefix}.meta").write_bytes(b"not a graph")
    assert warnings(config, prefix) == []


def test_order_is_the_same_if_only_squares_are_configured(tmp_path: Path) -> None:
    prefix = tmp_path / "model.ckpt-1"
    write_training_graph(prefix, (1.0, 1.0))
    assert warnings(ssd("ssd_mobilenet_v1", aspect_ratios=[1.0]), prefix) == []


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("ssd_mobilenet_v1", RELU_6, None),
        ("ssd_mobilenet_v1", OTHER, "activation is RELU, MobileNet's RELU_6 and epsilon is 0.01, MobileNet's 0.001"),
        ("embedded_ssd_mobilenet_v1", OTHER, "set the field to true"),
        ("ssd_mobilenet_v1", OTHER + " override_base_feature_extractor_hyperparams: false", None),
        ("ssd_mobilenet_v2", OTHER, None),
        ("ssd_inception_v2", RELU_6, "from before April 2018"),
        ("ssd_inception_v3", RELU_6 + " override_base_feature_extractor_hyperparams: true", None),
    ],
)
def test_hyperparameters_of_the_base_network_of_old_configs(kind: str, fields: str, expected: str | None) -> None:
    found = warnings(ssd(kind, fields))
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]


def test_masks_without_a_third_stage_are_reported() -> None:
    predictor = "second_stage_box_predictor { mask_rcnn_box_predictor { predict_instance_masks: true } }"
    [warning] = warnings(faster_rcnn(predictor))
    assert "number_of_stages is 2, so the model has no masks" in warning
    assert warnings(faster_rcnn(f"number_of_stages: 3 {predictor}")) == []


def test_replaced_field_names_its_successor() -> None:
    with pytest.raises(ConfigError, match="'first_stage_only', since January 2018 it is number_of_stages: 1 for true"):
        parse_pipeline_config(faster_rcnn("first_stage_only: false"))
