"""What feature extractors of SSD refuse, as the original does: options, and sizes of pictures."""

from __future__ import annotations

import pytest
import tensorflow as tf

from unfreeze.config import parse_pipeline_config
from unfreeze.detectors.ssd_extractors import SSD_EXTRACTORS
from unfreeze.errors import ConfigError

ANY_SIZE = (None, None)


@pytest.mark.parametrize(
    ("kind", "fields", "size", "told"),
    [
        ("embedded_ssd_mobilenet_v1", "", (160, 256), "takes pictures of 256 x 256 only, and gets 160 x 256"),
        ("embedded_ssd_mobilenet_v1", "", ANY_SIZE, "takes pictures of one size only"),
        ("embedded_ssd_mobilenet_v1", "pad_to_multiple: 2", (256, 256), "takes pad_to_multiple: 1 only, and it is 2"),
        ("ssd_mobilenet_edgetpu", "use_explicit_padding: true", (320, 320), "does not take use_explicit_padding"),
        ("ssd_mobilenet_v3_small", "", (32, 160), "at least 33 x 33, and gets 32 x 160"),
        ("ssd_mobiledet_gpu", "use_explicit_padding: true", (320, 320), "does not take use_explicit_padding"),
        ("ssd_mobiledet_dsp", "", (160, 32), "at least 33 x 33, and gets 160 x 32"),
        ("ssd_mobiledet_cpu", "", (320, None), "takes pictures of one size only"),
        ("ssd_mobilenet_v1", "", (32, 160), "at least 33 x 33, and gets 32 x 160"),
        ("ssd_mobilenet_v2", "", (32, 160), "at least 33 x 33, and gets 32 x 160"),
        ("ssd_mobilenet_v2_mnasfpn", "", (32, 160), "at least 33 x 33, and gets 32 x 160"),
        (
            "ssd_inception_v2",
            "override_base_feature_extractor_hyperparams: true",
            (32, 160),
            "at least 33 x 33, and gets 32 x 160",
        ),
        (
            "ssd_inception_v3",
            "override_base_feature_extractor_hyperparams: true",
            (32, 160),
            "at least 33 x 33, and gets 32 x 160",
        ),
        ("ssd_pnasnet", "", ANY_SIZE, "takes pictures of one size only"),
        ("ssd_pnasnet", "", (32, 32), "at least 33 x 33, and gets 32 x 32"),
    ],
)
def test_what_the_original_refuses_is_refused(
    kind: str, fields: str, size: tuple[int | None, int | None], told: str
) -> None:
    config = parse_pipeline_config(f'model {{ ssd {{ feature_extractor {{ type: "{kind}" {fields} }} }} }}')

    def features(x: tf.Tensor) -> list[tf.Tensor]:
        return SSD_EXTRACTORS[kind].features(x, None, config.model.ssd.feature_extractor)

    with pytest.raises(ConfigError, match=told):
        tf.function(features, autograph=False).get_concrete_function(tf.TensorSpec([1, *size, 3]))
