"""Two-stage detectors: the mask head's short cuts, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf

from unfreeze.config import parse_pipeline_config
from unfreeze.detectors import build_detector
from unfreeze.errors import CheckpointError, ConfigError, UnsupportedError
from unfreeze.heads.mask import MaskPredictor, conv_depth, mask_predictor
from unfreeze.ops.layers import PLAIN, Style, resized_conv
from unfreeze.ops.normalization import BatchNorm
from unfreeze.savedmodel import trace
from unfreeze.weights import Checkpoint, TensorInfo, Weights

RANDOM = np.random.RandomState(0)
RFCN = "rfcn_box_predictor { conv_hyperparams { op: CONV } %s }"
MASK = "mask_rcnn_box_predictor { fc_hyperparams { op: FC %s } predict_instance_masks: true }"


class Held:
    """Reads as a checkpoint reader does, random values of each shape."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.values = {name: RANDOM.uniform(0.1, 1.0, shape).astype("float32") for name, shape in shapes.items()}

    def get_tensor(self, name: str) -> np.ndarray:
        return self.values[name]


def weights(shapes: dict[str, tuple[int, ...]]) -> tuple[Weights, dict[str, np.ndarray]]:
    held = Held(shapes)
    tensors = {name: TensorInfo(shape, "float32") for name, shape in shapes.items()}
    return Weights(Checkpoint(Path("model.ckpt-1"), 1, "tf1", tensors, _reader=held)), held.values


def answer(made: Weights, network: Callable[..., tf.Tensor], *inputs: np.ndarray) -> np.ndarray:
    function = tf.function(lambda *arguments: network(*arguments, made.branch()), autograph=False)
    concrete = function.get_concrete_function(*(tf.TensorSpec(x.shape, x.dtype) for x in inputs))
    made.require_fit()
    made.fill()
    return concrete(*map(tf.constant, inputs)).numpy()


def resized(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return tf.raw_ops.ResizeBilinear(images=x, size=size, align_corners=True).numpy()


@pytest.mark.parametrize("size", [(15, 9), (4, 4), (3, 11), (1, 1), (33, 33)])
def test_a_resized_convolution_is_a_resize_and_a_convolution(size: tuple[int, int]) -> None:
    made, values = weights({"weights": (3, 3, 6, 5), "biases": (5,)})
    x = RANDOM.standard_normal((2, 4, 7, 6)).astype("float32")
    ours = answer(made, lambda x, p: resized_conv(x, p, 5, size), x)
    theirs = tf.nn.conv2d(resized(x, size), values["weights"], 1, "SAME") + values["biases"]
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_a_resized_convolution_has_the_style_of_any_convolution() -> None:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    made, values = weights({"weights": (3, 3, 6, 5)} | {f"BatchNorm/{name}": (5,) for name in names})
    x = RANDOM.standard_normal((2, 4, 4, 6)).astype("float32")
    ours = answer(made, lambda x, p: resized_conv(x, p, 5, (9, 9), style=Style(BatchNorm(scale=True))), x)
    y = tf.nn.conv2d(resized(x, (9, 9)), values["weights"], 1, "SAME")
    gamma, beta, mean, variance = (values[f"BatchNorm/{name}"] for name in names)
    theirs = tf.nn.relu6(tf.nn.batch_normalization(y, mean, variance, beta, gamma, 0.001))
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_the_mask_of_a_class_is_that_of_all_classes() -> None:
    made, values = weights({"Conv/weights": (3, 3, 6, 4), "Conv/biases": (4,)})
    numbers = MaskPredictor(4, PLAIN, mask_height=5, mask_width=7, mask_prediction_num_conv_layers=1)
    x, classes = RANDOM.standard_normal((3, 4, 4, 6)).astype("float32"), np.array([2, 0, 3], "int32")
    ours = answer(made, lambda x, classes, p: mask_predictor(x, classes, p, numbers), x, classes)
    theirs = tf.nn.conv2d(resized(x, (5, 7)), values["Conv/weights"], 1, "SAME") + values["Conv/biases"]
    np.testing.assert_allclose(ours, [mask[..., k] for mask, k in zip(theirs, classes, strict=True)], atol=2e-5)


def test_a_mask_smaller_than_the_features_cannot_be_upsampled() -> None:
    made, _ = weights({})
    numbers = MaskPredictor(
        4, PLAIN, mask_height=3, mask_prediction_num_conv_layers=1, convolve_then_upsample_masks=True
    )
    x = np.zeros((1, 4, 4, 6), "float32")
    with pytest.raises(ConfigError, match="masks of 3 x 15 are smaller than the features, 4 x 4"):
        answer(made, lambda x, p: mask_predictor(x, tf.constant([0]), p, numbers), x)


@pytest.mark.parametrize(("channels", "num_classes", "depth"), [(2048, 90, 256), (1024, 1, 16), (576, 5, 32)])
def test_the_depth_of_the_mask_head_follows_from_features_and_classes(
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
    ("fields", "told"),
    [
        ({"number_of_stages": "1"}, "the original's exporter fails"),
        ({"number_of_stages": "4"}, "number_of_stages is 4"),
        ({"number_of_stages": "3"}, "predict_instance_masks is false"),
        ({"number_of_stages": "3", "predictor": RFCN % ""}, "R-FCN has no third stage"),
        ({"num_classes": "0"}, "num_classes is 0"),
        ({"inplace_batchnorm_update": "true"}, "inplace_batchnorm_update is true"),
        (
            {"extractor": "type: 'faster_rcnn_mobilenet_v1'"},
            "the original builds no faster_rcnn of type 'faster_rcnn_mobile",
        ),
        ({"extractor": "type: 'faster_rcnn_resnet18'"}, "near to it: faster_rcnn_resnet152"),
        ({"extractor": "first_stage_features_stride: 4"}, "first_stage_features_stride is 4"),
        ({"image_resizer": "{ fixed_shape_resizer { height: 32 width: 64 } }"}, "32 x 64"),
        ({"initial_crop_size": "0"}, "initial_crop_size is 0"),
        ({"maxpool_stride": "0"}, "maxpool_stride is 0"),
        ({"first_stage_atrous_rate": "0"}, "first_stage_atrous_rate is 0"),
        ({"predictor": "convolutional_box_predictor {}"}, "it holds convolutional_box_predictor"),
        ({"predictor": RFCN % "box_code_size: 6"}, "box_code_size is 6"),
        ({"predictor": RFCN % "crop_height: 10"}, "crop_height is 10, num_spatial_bins_height is 3"),
        ({"predictor": RFCN % "", "output_final_box_features": "true"}, "output_final_box_features is true"),
        ({"predictor": MASK % ""}, "there are no conv_hyperparams"),
        ({"predictor": MASK % "group_norm {}"}, "fc_hyperparams has group_norm"),
        ({"context_config": "{}", "output_final_box_features": "true"}, "output_final_box_features is true"),
        (
            {"context_config": "{}", "number_of_stages": "3", "predictor": MASK[:-1] % "" + "conv_hyperparams {} }"},
            "context_config: number_of_stages is 3",
        ),
        ({"context_config": "{ use_long_term_attention: false }"}, "neither use_self_attention nor"),
        ({"context_config": "{ num_attention_heads: 0 }"}, "num_attention_heads is 0"),
    ],
)
def test_what_the_original_refuses_is_refused(fields: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(**fields)


def build_keras(name: str, fields: str) -> None:
    """Builds the detector of a sample config of TensorFlow 2 with these fields changed."""
    config = parse_pipeline_config(reference.golden(name, "tf2").config)
    config.MergeFrom(parse_pipeline_config(f"model {{ faster_rcnn {{ {fields} }} }}"))
    held = {"model/x/.ATTRIBUTES/VARIABLE_VALUE": TensorInfo((), "float32")}
    checkpoint = Checkpoint(Path("ckpt-1"), 1, "tf2", held, _reader=NoData())
    trace(build_detector(config, Weights(checkpoint)))


class NoData:
    """Reads as the reader of a checkpoint does whose data file is not there."""

    def get_tensor(self, name: str) -> np.ndarray:
        raise CheckpointError(f"no {name}")


PYRAMID, RESNET, MASKS = (
    "v_faster_rcnn_resnet50_fpn_matmul_override",
    "faster_rcnn_resnet50_v1_640x640_coco17_tpu-8",
    "v_mask_rcnn_inception_resnet_v2_small",
)


@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        (PYRAMID, "feature_extractor { fpn { min_level: 1 } }", "min_level is 1"),
        (PYRAMID, "feature_extractor { fpn { min_level: 5 } }", "min_level is 5, max_level 4"),
        (PYRAMID, "feature_extractor { first_stage_features_stride: 4 }", "it has to be 8 or 16"),
        (RESNET, "feature_extractor { type: 'faster_rcnn_resnet50_fpn_keras' }", "has no conv_hyperparams"),
        (RESNET, "feature_extractor { first_stage_features_stride: 8 }", "it has to be 16"),
        (RESNET, "feature_extractor { conv_hyperparams {} }", "does not take conv_hyperparams"),
        (RESNET, "feature_extractor { fpn {} }", "does not take fpn"),
        (MASKS, "feature_extractor { first_stage_features_stride: 8 }", "it has to be 16"),
        (MASKS, "number_of_stages: 1", "the original's exporter fails"),
        (RESNET, "number_of_stages: 3", "predict_instance_masks is false"),
        (RESNET, "context_config { use_self_attention: true }", "use_self_attention is true, which the original"),
        (RESNET, "context_config { self_attention_in_sequence: true }", "self_attention_in_sequence is true"),
        (RESNET, "context_config { num_attention_layers: 2 }", "num_attention_layers is 2.* set it to 1"),
        (RESNET, "context_config { num_attention_heads: 2 }", "num_attention_heads is 2.* set it to 1"),
    ],
)
def test_what_the_original_refuses_in_tensorflow_2_is_refused(name: str, fields: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_keras(name, fields)


def test_what_is_not_supported_in_tensorflow_2_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="not supported yet: use_partitioned_nms"):
        build_keras(RESNET, "use_static_shapes: true use_static_shapes_for_eval: true")
