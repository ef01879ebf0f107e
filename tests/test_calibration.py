"""Score converters and calibration against outputs recorded from the Object Detection API on TensorFlow 1.15."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from unfreeze.config import messages
from unfreeze.detectors.post_processing import build_score_converter
from unfreeze.errors import ConfigError, UnsupportedError

RECORDED = dict(np.load(Path(__file__).parent / "data" / "score_converters.npz"))
CASES = json.loads(str(RECORDED["cases"]))


def score_converter(text):
    return build_score_converter(text_format.Parse(text, messages.PostProcessing()))


@pytest.mark.parametrize("name", CASES)
def test_scores_equal_the_object_detection_apis(name):
    scores = score_converter(CASES[name])(tf.constant(RECORDED[f"{name}/in"]))
    np.testing.assert_allclose(scores, RECORDED[f"{name}/out"], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_shapes_may_be_unknown(name):
    convert = tf.function(score_converter(CASES[name]), input_signature=[tf.TensorSpec([None, None, 4])])
    np.testing.assert_allclose(convert(RECORDED[f"{name}/in"]), RECORDED[f"{name}/out"], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("logit_scale: 0", ConfigError, "logit_scale is 0"),
        ("calibration_config {}", ConfigError, "calibration_config: it is empty"),
        ("calibration_config { sigmoid_calibration {} }", ConfigError, ": sigmoid_calibration is not supported"),
        (
            "calibration_config { class_id_sigmoid_calibrations {} }",
            ConfigError,
            "class_id_sigmoid_calibrations is not supported",
        ),
        (
            "calibration_config { label_sigmoid_calibrations {} }",
            UnsupportedError,
            "not supported yet: .*label_sigmoid",
        ),
        ("calibration_config { function_approximation {} }", ConfigError, "function_approximation has no x_y_pair"),
        ("calibration_config { temperature_scaling_calibration {} }", ConfigError, "scaler is 0; it must be greater"),
        (
            "calibration_config { function_approximation { x_y_pairs { x_y_pair { x: 1 } x_y_pair { x: 0 } } } }",
            UnsupportedError,
            "not supported yet: .*ascending order of x",
        ),
    ],
)
def test_invalid_score_converters_are_rejected(text, error, message):
    with pytest.raises(error, match=message):
        score_converter(text)
