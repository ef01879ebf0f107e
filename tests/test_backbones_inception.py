"""The Inception networks: the names of their weights, and each of their stages against slim's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tensorflow as tf
from reference_checkpoints import AnyWeights, checkpoint

from unfreeze.backbones.inception_resnet_v2 import inception_resnet_v2_first_stage, inception_resnet_v2_second_stage
from unfreeze.backbones.inception_v2 import STYLE, inception_v2, inception_v2_first_stage, inception_v2_second_stage
from unfreeze.backbones.inception_v3 import inception_v3
from unfreeze.necks.multi_resolution import multi_resolution_feature_maps
from unfreeze.weights import Branch, TensorInfo, Weights

Network = Callable[[tf.Tensor, Branch], Any]

# 200 evenly spread values, and the shape, of each end point of slim's own networks on TensorFlow 1.15, with the
# weights of `reference.weight`, for `reference.image(99, 131)` scaled to -1 ... 1.
STAGES = Path(__file__).parent / "data" / "inception_stages.npz"
FIRST, SECOND = "FirstStageFeatureExtractor", "SecondStageFeatureExtractor"
RESNET = "faster_rcnn_inception_resnet_v2_atrous_coco"


def traced(network: Network, scope: str, weights: Weights, channels: int = 3) -> Any:
    function = tf.function(lambda x: network(x, weights.branch(scope)), autograph=False)
    return function.get_concrete_function(tf.TensorSpec([None, None, None, channels]))


def ssd(
    backbone: Callable[..., dict[str, tf.Tensor]], from_layer: Sequence[str], layer_depth: Sequence[int]
) -> Network:
    """A network of a backbone and the smaller maps on top of it, whose names are in the backbone's scope."""

    def features(x: tf.Tensor, p: Branch) -> list[tf.Tensor]:
        return multi_resolution_feature_maps(
            backbone(x, p, style=STYLE),
            p,
            from_layer=from_layer,
            layer_depth=layer_depth,
            depth_multiplier=1.0,
            min_depth=16,
            style=STYLE,
        )

    return features


SSD_V2 = ssd(inception_v2, ["Mixed_4c", "Mixed_5c", "", "", "", ""], [-1, -1, 512, 256, 256, 128])
SSD_V3 = ssd(inception_v3, ["Mixed_5d", "Mixed_6e", "Mixed_7c", "", "", ""], [-1, -1, -1, 512, 256, 128])


@pytest.mark.parametrize(
    ("name", "scope", "network", "channels"),
    [
        ("ssd_inception_v2_coco", "FeatureExtractor/InceptionV2", SSD_V2, 3),
        ("ssd_inception_v3_pets", "FeatureExtractor/InceptionV3", SSD_V3, 3),
        ("faster_rcnn_inception_v2_coco", f"{FIRST}/InceptionV2", inception_v2_first_stage, 3),
        ("faster_rcnn_inception_v2_coco", f"{SECOND}/InceptionV2", inception_v2_second_stage, 576),
        (RESNET, f"{FIRST}/InceptionResnetV2", inception_resnet_v2_first_stage, 3),
        (RESNET, f"{SECOND}/InceptionResnetV2", inception_resnet_v2_second_stage, 1088),
    ],
    ids=["ssd_v2", "ssd_v3", "v2_first", "v2_second", "resnet_v2_first", "resnet_v2_second"],
)
def test_network_uses_exactly_the_weights_of_the_feature_extractor(
    name: str, scope: str, network: Network, channels: int
) -> None:
    variables = reference.golden(name).variables
    stored = {key: TensorInfo(shape, "float32") for key, shape, _ in variables if key.startswith(f"{scope}/")}
    weights = Weights(checkpoint(stored))
    traced(network, scope, weights, channels)
    assert list(weights.mismatches.values()) == []
    assert set(weights.variables) == set(stored)


def small_inception_v2(x: tf.Tensor, p: Branch) -> dict[str, tf.Tensor]:
    return inception_v2(x, p["InceptionV2"], style=STYLE, depth_multiplier=0.3, min_depth=24)


def small_inception_v3(x: tf.Tensor, p: Branch) -> dict[str, tf.Tensor]:
    return inception_v3(x, p["InceptionV3"], style=STYLE, depth_multiplier=0.3, min_depth=24)


def dense_inception_resnet_v2(x: tf.Tensor, p: Branch) -> dict[str, tf.Tensor]:
    return inception_resnet_v2_first_stage(x, p["InceptionResnetV2"], output_stride=8)


def unpadded_inception_resnet_v2(x: tf.Tensor, p: Branch) -> dict[str, tf.Tensor]:
    return inception_resnet_v2_first_stage(x, p["InceptionResnetV2"], output_stride=16, align_feature_maps=False)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("inception_v2", small_inception_v2),
        ("inception_v3", small_inception_v3),
        pytest.param("inception_resnet_v2_8", dense_inception_resnet_v2, marks=pytest.mark.slow),
        pytest.param("inception_resnet_v2_valid", unpadded_inception_resnet_v2, marks=pytest.mark.slow),
    ],
)
def test_every_stage_equals_slims(name: str, network: Network) -> None:
    weights = AnyWeights()
    stages = traced(network, "", weights)
    weights.fill()
    got = stages(tf.constant(2 / 255 * reference.image(99, 131)[None] - 1, tf.float32))
    with np.load(STAGES) as recorded:
        expected = {key.split("/")[1] for key in recorded.files if key.startswith(f"{name}/")}
        assert set(got) == expected
        for stage, value in got.items():
            assert value.shape.as_list() == list(recorded[f"{name}/{stage}/shape"])
            flat = value.numpy().ravel()
            kept = flat[np.linspace(0, flat.size - 1, 200).astype(int)]
            # Thousands of float32 products, added in another order, of values up to a few tens.
            np.testing.assert_allclose(kept, recorded[f"{name}/{stage}"], atol=1e-4, err_msg=stage)
