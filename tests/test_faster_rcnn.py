"""Two-stage detectors: the optimized mask head against plain operations, and rejected options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf

from unfreeze.config import parse_pipeline_config
from unfreeze.detectors import build_detector
from unfreeze.errors import CheckpointError, ConfigError
from unfreeze.heads.mask import MaskPredictor, conv_depth, mask_predictor
from unfreeze.ops.layers import PLAIN, Style, resized_conv
from unfreeze.ops.normalization import BatchNorm
from unfreeze.savedmodel import trace
from unfreeze.weights import Checkpoint, TensorInfo, Weights

RANDOM = np.random.RandomState(0)
RFCN = "rfcn_box_predictor { conv_hyperparams { op: CONV } %s }"
MASK = "mask_rcnn_box_predictor { fc_hyperparams { op: FC %s } predict_instance_masks: true }"


class RandomReader:
    """A checkpoint reader with random values of each shape."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.values = {name: RANDOM.uniform(0.1, 1.0, shape).astype("float32") for name, shape in shapes.items()}

    def get_tensor(self, name: str) -> np.ndarray:
        return self.values[name]


def weights(shapes: dict[str, tuple[int, ...]]) -> tuple[Weights, dict[str, np.ndarray]]:
    reader = RandomReader(shapes)
    tensors = {name: TensorInfo(shape, "float32") for name, shape in shapes.items()}
    return Weights(Checkpoint(Path("model.ckpt-1"), 1, "tf1", tensors, _reader=reader)), reader.values


def run(weights: Weights, network: Callable[..., tf.Tensor], *inputs: np.ndarray) -> np.ndarray:
    function = tf.function(lambda *arguments: network(*arguments, weights.branch()), autograph=False)
    concrete = function.get_concrete_function(*(tf.TensorSpec(x.shape, x.dtype) for x in inputs))
    weights.require_fit()
    weights.fill()
    return concrete(*map(tf.constant, inputs)).numpy()


def resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True).numpy()


@pytest.mark.parametrize("size", [(15, 9), (4, 4), (3, 11), (1, 1), (33, 33)])
def test_resized_conv_equals_a_resize_and_a_convolution(size: tuple[int, int]) -> None:
    made, values = weights({"weights": (3, 3, 6, 5), "biases": (5,)})
    x = RANDOM.standard_normal((2, 4, 7, 6)).astype("float32")
    ours = run(made, lambda x, p: resized_conv(x, p, 5, size), x)
    theirs = tf.nn.conv2d(resized(x, size), values["weights"], 1, "SAME") + values["biases"]
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_resized_conv_applies_normalization_and_activation() -> None:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    made, values = weights({"weights": (3, 3, 6, 5)} | {f"BatchNorm/{name}": (5,) for name in names})
    x = RANDOM.standard_normal((2, 4, 4, 6)).astype("float32")
    ours = run(made, lambda x, p: resized_conv(x, p, 5, (9, 9), style=Style(BatchNorm(scale=True))), x)
    y = tf.nn.conv2d(resized(x, (9, 9)), values["weights"], 1, "SAME")
    gamma, beta, mean, variance = (values[f"BatchNorm/{name}"] for name in names)
    theirs = tf.nn.relu6(tf.nn.batch_normalization(y, mean, variance, beta, gamma, 0.001))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_mask_of_one_class_equals_that_among_all_classes() -> None:
    made, values = weights({"Conv/weights": (3, 3, 6, 4), "Conv/biases": (4,)})
    options = MaskPredictor(4, PLAIN, mask_height=5, mask_width=7, mask_prediction_num_conv_layers=1)
    x, classes = RANDOM.standard_normal((3, 4, 4, 6)).astype("float32"), np.array([2, 0, 3], "int32")
    ours = run(made, lambda x, classes, p: mask_predictor(x, classes, p, options), x, classes)
    theirs = tf.nn.conv2d(resized(x, (5, 7)), values["Conv/weights"], 1, "SAME") + values["Conv/biases"]
    np.testing.assert_allclose(ours, [mask[..., k] for mask, k in zip(theirs, classes, strict=True)], atol=2e-5)


def test_mask_smaller_than_the_features_is_rejected() -> None:
    made, _ = weights({})
    options = MaskPredictor(
        4, PLAIN, mask_height=3, mask_prediction_num_conv_layers=1, convolve_then_upsample_masks=True
    )
    x = np.zeros((1, 4, 4, 6), "float32")
    with pytest.raises(ConfigError, match=r"masks of 3 x 15 are smaller than the features \(4 x 4\)"):
        run(made, lambda x, p: mask_predictor(x, tf.constant([0]), p, options), x)


@pytest.mark.parametrize(("channels", "num_classes", "depth"), [(2048, 90, 256), (1024, 1, 16), (576, 5, 32)])
def test_default_depth_of_the_mask_head_follows_from_features_and_classes(
    channels: int, num_classes: int, depth: int
) -> None:
    assert conv_depth(channels, num_classes) == depth


def build(predictor: str = "", extractor: str = "", **fields: str) -> None:
    """Builds the detector of a sample config with these fields changed."""
    config = parse_pipeline_config(reference.golden("faster_rcnn_inception_v2_coco").config)
    text = " ".join(f"{name}: {value}" for name, value in fields.items())
    if predictor:
        config.model.faster_rcnn.ClearField("second_stage_box_predictor")
        text += f" second_stage_box_predictor {{ {predictor} }}"
    config.MergeFrom(parse_pipeline_config(f"model {{ faster_rcnn {{ {text} feature_extractor {{ {extractor} }} }} }}"))
    build_detector(config, Weights(Checkpoint(Path("model.ckpt-1"), 1, "tf1", {})))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"number_of_stages": "1"}, "number_of_stages is 1 .*, which cannot be exported"),
        ({"number_of_stages": "4"}, "number_of_stages is 4"),
        ({"number_of_stages": "3"}, "predict_instance_masks is false"),
        ({"number_of_stages": "3", "predictor": RFCN % ""}, "R-FCN has no third stage"),
        ({"num_classes": "0"}, "num_classes is 0"),
        ({"inplace_batchnorm_update": "true"}, "inplace_batchnorm_update is true"),
        (
            {"extractor": "type: 'faster_rcnn_mobilenet_v1'"},
            "feature_extractor.type 'faster_rcnn_mobilenet_v1' is not a Faster R-CNN extractor of the Object Detection",
        ),
        ({"extractor": "type: 'faster_rcnn_resnet18'"}, r"did you mean faster_rcnn_resnet152 or .*\?"),
        ({"extractor": "type: 'x'"}, "'x' is not a Faster R-CNN extractor .* choose one of faster_rcnn_nas, "),
        ({"extractor": "first_stage_features_stride: 4"}, "first_stage_features_stride is 4"),
        ({"image_resizer": "{ fixed_shape_resizer { height: 32 width: 64 } }"}, "32 x 64"),
        ({"initial_crop_size": "0"}, "initial_crop_size is 0"),
        ({"maxpool_stride": "0"}, "maxpool_stride is 0"),
        ({"first_stage_atrous_rate": "0"}, "first_stage_atrous_rate is 0"),
        ({"predictor": "convolutional_box_predictor {}"}, "convolutional_box_predictor is not supported here"),
        ({"predictor": RFCN % "box_code_size: 6"}, "box_code_size is 6"),
        (
            {"predictor": RFCN % "crop_height: 10"},
            r"crop_height is 10, .* not a positive multiple of num_spatial_bins_height \(3\)",
        ),
        ({"predictor": RFCN % "", "output_final_box_features": "true"}, "output_final_box_features is true"),
        ({"predictor": MASK % ""}, "conv_hyperparams is missing"),
        ({"predictor": MASK % "group_norm {}"}, "group_norm is not supported in fc_hyperparams"),
        ({"context_config": "{}", "output_final_box_features": "true"}, "output_final_box_features is true"),
        (
            {"context_config": "{}", "number_of_stages": "3", "predictor": MASK[:-1] % "" + "conv_hyperparams {} }"},
            "context_config: number_of_stages is 3",
        ),
        (
            {"context_config": "{ use_long_term_attention: false }"},
            "use_self_attention and use_long_term_attention are both false",
        ),
        ({"context_config": "{ num_attention_heads: 0 }"}, "num_attention_heads is 0"),
    ],
)
def test_unsupported_options_are_rejected(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**fields)


def build_keras(name: str, fields: str) -> None:
    """Builds the detector of a sample config of TensorFlow 2 with these fields changed."""
    config = parse_pipeline_config(reference.golden(name, "tf2").config)
    config.MergeFrom(parse_pipeline_config(f"model {{ faster_rcnn {{ {fields} }} }}"))
    tensors = {"model/x/.ATTRIBUTES/VARIABLE_VALUE": TensorInfo((), "float32")}
    checkpoint = Checkpoint(Path("ckpt-1"), 1, "tf2", tensors, _reader=NoData())
    trace(build_detector(config, Weights(checkpoint)))


class NoData:
    """A reader of a checkpoint whose data file is missing."""

    def get_tensor(self, name: str) -> np.ndarray:
        raise CheckpointError(f"no {name}")


PYRAMID, RESNET, MASKS = (
    "v_faster_rcnn_resnet50_fpn_matmul_override",
    "faster_rcnn_resnet50_v1_640x640_coco17_tpu-8",
    "v_mask_rcnn_inception_resnet_v2_small",
)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (PYRAMID, "feature_extractor { fpn { min_level: 1 } }", "min_level is 1"),
        (PYRAMID, "feature_extractor { fpn { min_level: 5 } }", "min_level is 5 and max_level is 4"),
        (PYRAMID, "feature_extractor { first_stage_features_stride: 4 }", "it must be 8 or 16"),
        (RESNET, "feature_extractor { type: 'faster_rcnn_resnet50_fpn_keras' }", "has no conv_hyperparams"),
        (RESNET, "feature_extractor { first_stage_features_stride: 8 }", "it must be 16"),
        (RESNET, "feature_extractor { conv_hyperparams {} }", "conv_hyperparams is not supported by faster_rcnn_res"),
        (RESNET, "feature_extractor { fpn {} }", "fpn is not supported by faster_rcnn_resnet50_keras; remove it"),
        (MASKS, "feature_extractor { first_stage_features_stride: 8 }", "it must be 16"),
        (MASKS, "number_of_stages: 1", "number_of_stages is 1 .*, which cannot be exported"),
        (RESNET, "number_of_stages: 3", "predict_instance_masks is false"),
        (RESNET, "context_config { use_self_attention: true }", "use_self_attention is true, which is not supported"),
        (RESNET, "context_config { self_attention_in_sequence: true }", "self_attention_in_sequence is true"),
        (RESNET, "context_config { num_attention_layers: 2 }", "num_attention_layers is 2.* set it to 1"),
        (RESNET, "context_config { num_attention_heads: 2 }", "num_attention_heads is 2.* set it to 1"),
    ],
)
def test_unsupported_options_in_tensorflow_2_are_rejected(name: str, fields: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_keras(name, fields)
