"""SSD with feature pyramids: the maps of SpaghettiNet, and errors of pyramids and the weight-shared predictor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tensorflow as tf
from reference_checkpoints import AnyWeights, checkpoint

from unfreeze.backbones.spaghettinet import ARCHITECTURES, FusedIbn
from unfreeze.config import parse_pipeline_config
from unfreeze.detectors.box_predictors import build_box_predictor
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS
from unfreeze.errors import ConfigError
from unfreeze.weights import Weights

# 100 evenly spread values, and the shape, of each feature map of SSDSpaghettinetFeatureExtractor on TensorFlow 1.15,
# with the weights of `reference.weight`, for `reference.image(99, 131)` scaled to -1 ... 1. Recorded without
# its FakeQuants: a value that rounding moves to the next quantization step would change everything after it.
MAPS = Path(__file__).parent / "data" / "spaghettinet_maps.npz"


def traced(fields: str, size: tuple[int | None, int | None], weights: Weights) -> Any:
    """Traces the feature maps of a `feature_extractor` with these fields."""
    config = parse_pipeline_config(
        f"model {{ ssd {{ feature_extractor {{ {fields} }} }} }}"
    ).model.ssd.feature_extractor
    extractor = SSD_EXTRACTORS[config.type]
    p = weights.branch("FeatureExtractor")
    features = tf.function(lambda x: extractor.features(x, p, config), autograph=False)
    return features.get_concrete_function(tf.TensorSpec([None, *size, 3]))


def spaghettinet(fields: str) -> tuple[Any, Weights]:
    fields = f'type: "ssd_spaghettinet" {fields}'
    weights = AnyWeights()
    maps = traced(fields, (99, 131), weights)
    weights.fill()
    return maps, weights


@pytest.mark.parametrize("name", ["s", "m", "l", "m_explicit"])
def test_spaghettinet_maps_equal_the_object_detection_apis(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.quantization, "fake_quant_with_min_max_vars", lambda x, low, high: x)
    explicit = "use_explicit_padding: true" if name.endswith("explicit") else ""
    maps, _weights = spaghettinet(f'spaghettinet_arch_name: "spaghettinet_edgetpu_{name[0]}" {explicit}')
    got = maps(tf.constant(2 / 255 * reference.image(99, 131)[None] - 1, tf.float32))
    with np.load(MAPS) as recorded:
        for i, value in enumerate(got):
            assert value.shape.as_list() == list(recorded[f"{name}/{i}/shape"])
            flat = value.numpy().ravel()
            kept = flat[np.linspace(0, flat.size - 1, 100).astype(int)]
            # Rounding errors grow through some sixty layers: computed in float64, this network is up to 1.2e-3 standard
            # deviations away from the recording, and as far from the float32 results here.
            np.testing.assert_allclose(kept, recorded[f"{name}/{i}"], atol=2.5e-3 * flat.std(), err_msg=str(i))


def test_spaghettinet_quantizes_its_fused_convolutions() -> None:
    maps, weights = spaghettinet("")
    quantized = [op for op in maps.graph.get_operations() if op.type == "FakeQuantWithMinMaxVars"]
    nodes = ARCHITECTURES["spaghettinet_edgetpu_m"].values()
    assert len(quantized) == sum(isinstance(layer, FusedIbn) for node in nodes for layer in node.layers)
    ranges = [name for name in weights.variables if name.endswith(("/concat/min", "/concat/max"))]
    assert len(ranges) == 2 * len(quantized)


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ('type: "ssd_mobilenet_v1_fpn"', (300, 300), "cannot add 19 x 19 features and upsampled 20 x 20 features"),
        ('type: "ssd_mobilenet_v1_fpn" fpn { min_level: 1 }', (256, 256), "min_level is 1 and max_level is 7"),
        ('type: "ssd_mobilenet_v2_fpn" fpn { min_level: 6 }', (256, 256), "min_level is 6 and max_level is 7"),
        (
            'type: "ssd_mobilenet_v2_fpn" fpn { min_level: 4 max_level: 3 }',
            (256, 256),
            "min_level is 4 and max_level is 3",
        ),
        ('type: "ssd_mobilenet_v2_fpn"', (32, 64), "images of 32 x 64 are too small .*at least 33 x 33"),
        ('type: "ssd_mobilenet_v1_ppn"', (64, 32), "images of 64 x 32 are too small .*at least 33 x 33"),
        ('type: "ssd_resnet50_v1_fpn"', (256, 128), "images of 256 x 128 are too small .*at least 129 x 129"),
        ('type: "ssd_resnet50_v1_fpn" use_explicit_padding: true', (256, 256), "use_explicit_padding is not supported"),
        ('type: "ssd_resnet101_v1_ppn" depth_multiplier: 0.5', (256, 256), "depth_multiplier is 0.5, .* not supported"),
        (
            'type: "ssd_resnet50_v1_fpn" override_base_feature_extractor_hyperparams: true '
            "conv_hyperparams { group_norm {} }",
            (256, 256),
            "group_norm is not supported for the layers of a ResNet backbone",
        ),
        ('type: "ssd_mobilenet_v2_mnasfpn" fpn {}', (256, 256), "min_level is 3 and max_level is 7"),
        ('type: "ssd_mobilenet_v2_mnasfpn"', (300, 320), "38 x 40 is not twice 19 x 20|19 x 20 is not twice 10 x 10"),
        ('type: "ssd_mobilenet_v2_mnasfpn"', (None, None), "needs a fixed image size"),
        ('type: "ssd_spaghettinet" spaghettinet_arch_name: "spaghettinet_edgetpu_xl"', (320, 320), "edgetpu_xl"),
    ],
)
def test_unsupported_options_are_rejected(fields: str, size: tuple[int | None, int | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        traced(fields, size, Weights(checkpoint({})))


def test_pyramids_take_images_of_any_size() -> None:
    fields = 'type: "ssd_mobilenet_v1_fpn" depth_multiplier: 0.25 pad_to_multiple: 32'
    maps = traced(fields, (None, None), Weights(checkpoint({})))
    assert [x.shape.as_list() for x in maps.outputs] == [[None, None, None, 64]] * 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("use_depthwise: true kernel_size: 1", "use_depthwise cannot be combined with kernel_size: 1"),
        ("num_layers_before_predictor: 4", "depth is 0, but num_layers_before_predictor is 4"),
        ("depth: 8", r"different numbers of anchors per location \(\[3, 6\]\)"),
        ("conv_hyperparams { force_use_bias: true }", "force_use_bias is for Keras models"),
    ],
)
def test_invalid_weight_shared_predictor_is_rejected(fields: str, message: str) -> None:
    predictor = f"weight_shared_convolutional_box_predictor {{ {fields} }}"
    config = parse_pipeline_config(f"model {{ ssd {{ box_predictor {{ {predictor} }} }} }}").model.ssd.box_predictor
    with pytest.raises(ConfigError, match=message):
        build_box_predictor(config, 2)([tf.zeros([1, 4, 4, 8])] * 2, Weights(checkpoint({})).branch(), (3, 6))
