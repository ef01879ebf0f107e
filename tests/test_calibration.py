"""Score converters and calibration against recorded answers of the original on TensorFlow 1.15."""

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
def test_scores_are_the_originals(name):
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
        ("calibration_config {}", ConfigError, "nothing is set, which the original cannot apply"),
        ("calibration_config { sigmoid_calibration {} }", ConfigError, "sigmoid_calibration is set"),
        (
            "calibration_config { class_id_sigmoid_calibrations {} }",
            ConfigError,
            "class_id_sigmoid_calibrations is set",
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
            "not supported yet: .*x rising",
        ),
    ],
)
def test_what_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        score_converter(text)
