"""SSDs of TensorFlow 2: rejected options, likely causes of mismatches, and layers without names in the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import reference

from unfreeze.config import parse_pipeline_config
from unfreeze.detectors import build_detector
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.detectors.ssd_keras import BIFPNS, bifpn_options
from unfreeze.errors import ConfigError, WeightsError
from unfreeze.savedmodel import trace
from unfreeze.weights import Checkpoint, TensorInfo, Weights

V2 = "ssd_mobilenet_v2_320x320_coco17_tpu-8"
FPNLITE = "ssd_mobilenet_v2_fpnlite_320x320_coco17_tpu-8"
RETINANET = "ssd_resnet50_v1_fpn_640x640_coco17_tpu-8"
EFFICIENTDET = "ssd_efficientdet_d0_512x512_coco17_tpu-8"


def keys_of(name: str) -> Checkpoint:
    """The checkpoint of a golden as its index describes it, without its object graph."""
    golden = reference.golden(name, "tf2")
    return Checkpoint(Path("run/ckpt-1"), 1, "tf2", {key: TensorInfo(*info) for key, *info in golden.variables})


def bound(config_of: str, checkpoint: Checkpoint, old: str = "", new: str = "") -> Weights:
    text = reference.golden(config_of, "tf2").config
    assert old in text
    config = parse_pipeline_config(text.replace(old, new))
    weights = Weights(checkpoint)
    trace(build_detector(config, weights))
    weights.require_fit(likely_causes(config))
    return weights


@pytest.mark.parametrize("name", [V2, FPNLITE, RETINANET, EFFICIENTDET])
def test_layers_are_found_by_their_order_without_names(name: str) -> None:
    assert bound(name, keys_of(name)).unused() == []


@pytest.mark.parametrize(
    ("config_of", "old", "new", "cause"),
    [
        (V2, "num_classes: 90", "num_classes: 7", "num_classes (7 in the config; the checkpoint has 90)"),
        (FPNLITE, "num_classes: 90", "num_classes: 7", "num_classes (7 in the config; the checkpoint has 90)"),
        (V2, "depth_multiplier: 1.0", "depth_multiplier: 0.5", "depth_multiplier (0.5 in the config"),
    ],
)
def test_likely_cause_of_a_mismatch_is_named(config_of: str, old: str, new: str, cause: str) -> None:
    with pytest.raises(WeightsError) as raised:
        bound(config_of, keys_of(config_of), old, new)
    assert f"likely cause: {cause}" in str(raised.value)


class ObjectGraphOnly:
    """A checkpoint reader that has only the object graph."""

    def __init__(self, graph: bytes) -> None:
        self.graph = graph

    def get_tensor(self, name: str) -> bytes:
        assert name == "_CHECKPOINTABLE_OBJECT_GRAPH"
        return self.graph


def test_mismatch_of_another_backbone_names_its_layers() -> None:
    golden = reference.golden(V2, "tf2")
    assert golden.object_graph
    # The last two bytes are an empty object.
    checkpoint = replace(keys_of(V2), _reader=ObjectGraphOnly(golden.object_graph + b"\x0a\x00"))
    with pytest.raises(WeightsError) as raised:
        bound(V2, checkpoint, "'ssd_mobilenet_v2_keras'", "'ssd_mobilenet_v1_keras'")
    backbone = "_feature_extractor/classification_backbone"
    assert f"are missing: {backbone}/conv1/kernel [3, 3, 3, 32]" in str(raised.value)
    assert "feature_extractor.type ('ssd_mobilenet_v1_keras' in the config" in str(raised.value)


@pytest.mark.parametrize(
    ("config_of", "old", "new", "message"),
    [
        (V2, "min_depth: 0", "min_depth: 9", "convolutional_box_predictor: min_depth is 9, more than max_depth (0)"),
        (V2, "min_depth: 16", "min_depth: 16 fpn { }", "fpn is not supported by ssd_mobilenet_v2_keras"),
        (EFFICIENTDET, "num_filters: 64", "combine_method: 'mean'", "bifpn: combine_method is 'mean'"),
        (EFFICIENTDET, "bifpn {\n        min_level: 3", "bifpn {\n        min_level: 6", "bifpn: min_level is 6"),
        (EFFICIENTDET, "bifpn {", "use_depthwise: true bifpn {", "use_depthwise is true, which is not supported by"),
    ],
)
def test_unsupported_options_are_rejected(config_of: str, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        bound(config_of, keys_of(config_of), old, new)
    assert message in str(raised.value)


@pytest.mark.parametrize(("min_depth", "depth"), [(16, 64), (64, 64), (80, 80)])
def test_min_depth_widens_the_bifpn(min_depth: int, depth: int) -> None:
    config = parse_pipeline_config(reference.golden(EFFICIENTDET, "tf2").config).model.ssd.feature_extractor
    config.min_depth = min_depth
    options = bifpn_options(config, "b0")
    assert (options.num_filters, options.num_iterations) == (depth, 3)
    config.ClearField("bifpn")
    assert bifpn_options(config, "b2") == replace(BIFPNS["b2"], num_filters=max(112, min_depth))
