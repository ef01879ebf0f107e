"""Options and image sizes that SSD feature extractors reject."""

from __future__ import annotations

import pytest
import reference
import reference_checkpoints
import tensorflow as tf

from unfreeze.config import parse_pipeline_config
from unfreeze.detectors import build_detector
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS
from unfreeze.errors import ConfigError
from unfreeze.exporting.from_checkpoint import _warnings as config_warnings
from unfreeze.savedmodel import trace
from unfreeze.weights import TensorInfo, Weights

ANY_SIZE = (None, None)
TOO_SMALL = "images of 32 x 160 are too small .*at least 33 x 33"


@pytest.mark.parametrize(
    ("kind", "fields", "size", "message"),
    [
        ("embedded_ssd_mobilenet_v1", "", (160, 256), "needs images of 256 x 256 .it gets 160 x 256"),
        ("embedded_ssd_mobilenet_v1", "", ANY_SIZE, "needs a fixed image size"),
        ("embedded_ssd_mobilenet_v1", "pad_to_multiple: 2", (256, 256), "pad_to_multiple is 2"),
        ("ssd_mobilenet_edgetpu", "use_explicit_padding: true", (320, 320), "use_explicit_padding is not supported"),
        ("ssd_mobilenet_v3_small", "", (32, 160), TOO_SMALL),
        ("ssd_mobiledet_gpu", "use_explicit_padding: true", (320, 320), "use_explicit_padding is not supported"),
        ("ssd_mobiledet_dsp", "", (160, 32), "images of 160 x 32 are too small .*at least 33 x 33"),
        ("ssd_mobiledet_cpu", "", (320, None), "needs a fixed image size"),
        ("ssd_mobilenet_v1", "", (32, 160), TOO_SMALL),
        ("ssd_mobilenet_v2", "", (32, 160), TOO_SMALL),
        ("ssd_mobilenet_v2_mnasfpn", "", (32, 160), TOO_SMALL),
        ("ssd_inception_v2", "override_base_feature_extractor_hyperparams: true", (32, 160), TOO_SMALL),
        ("ssd_inception_v3", "override_base_feature_extractor_hyperparams: true", (32, 160), TOO_SMALL),
        (
            "ssd_inception_v2",
            "override_base_feature_extractor_hyperparams: false",
            (160, 160),
            "needs override_base_feature_extractor_hyperparams: true",
        ),
        ("ssd_pnasnet", "", ANY_SIZE, "needs a fixed image size"),
        ("ssd_pnasnet", "", (32, 32), "images of 32 x 32 are too small .*at least 33 x 33"),
    ],
)
def test_unsupported_options_and_sizes_are_rejected(
    kind: str, fields: str, size: tuple[int | None, int | None], message: str
) -> None:
    config = parse_pipeline_config(f'model {{ ssd {{ feature_extractor {{ type: "{kind}" {fields} }} }} }}')

    def features(x: tf.Tensor) -> list[tf.Tensor]:
        return SSD_EXTRACTORS[kind].features(x, None, config.model.ssd.feature_extractor)

    with pytest.raises(ConfigError, match=message):
        tf.function(features, autograph=False).get_concrete_function(tf.TensorSpec([1, *size, 3]))


def test_inception_of_a_config_from_before_the_override_field_takes_it_as_true() -> None:
    golden = reference.golden("ssd_inception_v2_coco", "tf1")
    old = golden.config.replace("override_base_feature_extractor_hyperparams: true", "")
    assert old != golden.config
    for text in (golden.config, old):
        config = parse_pipeline_config(text)
        weights = Weights(
            reference_checkpoints.checkpoint({key: TensorInfo(shape, dtype) for key, shape, dtype in golden.variables})
        )
        trace(build_detector(config, weights))
        weights.require_fit(lambda *_: [])
        warnings = list(config_warnings(config, weights))
        assert bool(warnings) == (text is old)
