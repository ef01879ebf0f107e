"""Anchors equal those of the Object Detection API to the last bit.

`anchors.*` was recorded from the Object Detection API on TensorFlow 1.15.5 without its graph optimizer, which
reassociates products and so changes the last bit where sizes are unknown. Each case is for sizes that are known when
the graph is built, unknown, or both.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from unfreeze.config import messages
from unfreeze.detectors.anchor_generators import AnchorGenerator, build_anchor_generator
from unfreeze.errors import ConfigError

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "anchors.json").read_text())
RECORDED = np.load(DATA / "anchors.npz")


def generator_of(config: str) -> AnchorGenerator:
    return build_anchor_generator(text_format.Parse(config, messages.AnchorGenerator()))


@pytest.mark.parametrize(("index", "sizes"), [(i, sizes) for i, case in enumerate(CASES) for sizes in case["sizes"]])
def test_anchors_equal_the_object_detection_apis_to_the_last_bit(index: int, sizes: str) -> None:
    case = CASES[index]
    length = (lambda number: number) if sizes == "known" else tf.constant
    generator = generator_of(case["config"])
    anchors = generator.generate(
        [(length(height), length(width)) for height, width in case["feature_map_sizes"]],
        tuple(length(number) for number in case["image_size"]) if case["image_size"] else None,
    )
    assert list(generator.num_anchors_per_location) == case["num_anchors_per_location"]
    assert len(anchors) == len(case["feature_map_sizes"])
    for level, boxes in enumerate(anchors):
        assert isinstance(boxes, np.ndarray) == (sizes == "known")
        assert boxes.dtype == np.float32
        np.testing.assert_array_equal(boxes, RECORDED[f"{index}/{level}"])


def test_anchors_for_unknown_sizes_are_computed_in_the_graph() -> None:
    generator = generator_of("ssd_anchor_generator { num_layers: 2 aspect_ratios: 1 aspect_ratios: 2 }")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def anchors(images: tf.Tensor) -> list[tf.Tensor]:
        height, width = tf.shape(images)[1], tf.shape(images)[2]
        return generator.generate([(height // 16, width // 16), (height // 32, width // 32)], (height, width))

    first, second = anchors(tf.zeros([1, 64, 96, 3]))
    known = generator.generate([(4, 6), (2, 3)], (64, 96))
    assert anchors.get_concrete_function().structured_outputs[0].shape.as_list() == [None, 4]
    np.testing.assert_allclose(first, known[0], atol=2e-7)  # the graph optimizer may change the last bit
    np.testing.assert_allclose(second, known[1], atol=2e-7)


GRID = "grid_anchor_generator { scales: 1 aspect_ratios: 1 }"
MULTISCALE = "multiscale_anchor_generator { min_level: 3 max_level: 3 aspect_ratios: 1 }"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("", "anchor_generator: it is empty"),
        ("ssd_anchor_generator { num_layers: 1 aspect_ratios: 1 }", "num_layers is 1"),
        ("ssd_anchor_generator { interpolated_scale_aspect_ratio: 0 }", "aspect_ratios is empty"),
        ("ssd_anchor_generator { aspect_ratios: 1 height_stride: 8 width_stride: 8 }", "1 pairs for 6 layers"),
        ("multiscale_anchor_generator { }", "0 aspect_ratios"),
        ("grid_anchor_generator { scales: 1 }", "aspect_ratios is empty"),
        ("flexible_grid_anchor_generator { anchor_grid { base_sizes: 1 } }", "anchor_grid 0 has 1 base_sizes and 0"),
    ],
)
def test_invalid_generators_are_rejected(config: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generator_of(config)


@pytest.mark.parametrize(
    ("config", "image_size", "message"),
    [
        (GRID, (64, 64), "is not supported in an ssd"),
        (MULTISCALE, None, "normalize_coordinates is true"),
        ("ssd_anchor_generator { num_layers: 2 aspect_ratios: 1 }", (64, 64), "2 feature maps, but .* has 1"),
    ],
)
def test_generators_that_do_not_match_the_detector_are_rejected(config: str, image_size: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generator_of(config).generate([(8, 8)], image_size)
