"""Quantization-aware graphs have the FakeQuants of the Object Detection API, with the checkpoint's ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
import reference_checkpoints
import tensorflow as tf

from unfreeze.config import parse_pipeline_config
from unfreeze.detectors import build_detector
from unfreeze.detectors.mismatch_diagnosis import likely_causes
from unfreeze.detectors.quantization import quantization_aware
from unfreeze.errors import ConfigError, UnsupportedError, WeightsError
from unfreeze.exporting.export import export
from unfreeze.savedmodel import Exportable, trace
from unfreeze.weights import Checkpoint, TensorInfo, Weights

NAME = "ssd_mobilenet_v2_quantized_300x300_coco"
SHARED = (
    "ssd_mobilenet_v2_fpnlite_quantized_shared_box_predictor_256x256_depthmultiplier_75_coco14_sync"  # between levels
)
TWO_STAGES = "q_frcnn_incv2"
STEM = "FeatureExtractor/MobilenetV2/Conv"
# Both round alike. If one value fell on another quantization step, raw scores would change a hundred times as much.
TOLERANCE = 1e-5


class Drift(NamedTuple):
    """How much raw outputs may differ from those of another TensorFlow: on average, and at most."""

    boxes: tuple[float, float]
    scores: tuple[float, float]


# The outputs of the frozen graph of the Object Detection API change two thirds as much from TensorFlow 1.15 to 2.21,
# since values fall on other quantization steps. The exact values are covered by running that frozen graph in this
# TensorFlow. Without FakeQuants, scores would be off by 0.06 on average.
DRIFTS = {
    NAME: Drift(boxes=(0.003, 0.03), scores=(0.014, 0.16)),
    "p_ssd_mobilenet_v2_quantized_300x300_coco_2019_01_03": Drift(boxes=(0.003, 0.03), scores=(0.014, 0.16)),
    SHARED: Drift(boxes=(0.005, 0.09), scores=(0.032, 0.22)),
}


def checkpoint(
    name: str = NAME, keep: Callable[[str], bool] = lambda key: True, add: tuple[str, ...] = ()
) -> Checkpoint:
    """The golden's checkpoint with only the names to keep, and with additional scalars."""
    tensors = {key: TensorInfo(shape, dtype) for key, shape, dtype in reference.golden(name).variables if keep(key)}
    tensors |= {key: TensorInfo((), "float32") for key in add}
    return reference_checkpoints.checkpoint(tensors)


def config(name: str = NAME, **fields: Any) -> Any:
    """The golden's config, with other fields in `graph_rewriter.quantization`."""
    parsed = parse_pipeline_config(reference.golden(name).config)
    for field, value in fields.items():
        setattr(parsed.graph_rewriter.quantization, field, value)
    return parsed


def bound(checkpoint: Checkpoint, pipeline: Any) -> tuple[Weights, Exportable]:
    weights = Weights(checkpoint)
    exportable = trace(build_detector(pipeline, weights))
    weights.require_fit(likely_causes(pipeline))
    return weights, exportable


def is_range(name: str) -> bool:
    return name.endswith(("_quant/min", "_quant/max"))


def operations(exportable: Exportable) -> list[str]:
    return [operation.type for operation in exportable.detect.graph.get_operations()]


@pytest.fixture(scope="module")
def model() -> tuple[Weights, Exportable]:
    return bound(checkpoint(), config())


@pytest.fixture(scope="module")
def frozen_session() -> Iterator[tf.compat.v1.Session]:
    """A session with the frozen graph that the Object Detection API exported from the same checkpoint."""
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(tf.compat.v1.GraphDef.FromString(reference.frozen_graph(NAME)), name="")
    session = tf.compat.v1.Session(graph=graph)
    yield session
    session.close()


@pytest.mark.parametrize("image", reference.IMAGES)
def test_outputs_equal_the_frozen_graphs(
    image: str, model: tuple[Weights, Exportable], frozen_session: tf.compat.v1.Session
) -> None:
    weights, exportable = model
    weights.fill()
    pixels = reference.image(*reference.IMAGES[image])[np.newaxis]
    ours = exportable.detect(*exportable.detector.preprocess(tf.constant(pixels)))
    theirs = frozen_session.run({name: f"{name}:0" for name in ours}, {"image_tensor:0": pixels})
    assert sorted(theirs) == sorted(reference.golden(NAME).outputs)
    for name, value in ours.items():
        np.testing.assert_allclose(value.numpy(), theirs[name], rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("name", DRIFTS)
def test_outputs_are_close_to_the_recorded_ones(name: str) -> None:
    weights, exportable = bound(checkpoint(name), config(name))
    assert weights.unused() == []
    weights.fill()
    recorded = reference.golden(name).recorded_outputs()
    for image, size in reference.IMAGES.items():
        pixels = tf.constant(reference.image(*size)[np.newaxis])
        outputs = exportable.detect(*exportable.detector.preprocess(pixels))
        for kind in ("boxes", "scores"):
            key = f"{image}/raw_detection_{kind}"
            differences = np.abs(outputs[f"raw_detection_{kind}"].numpy()[:, recorded[f"{key}/rows"]] - recorded[key])
            mean, largest = getattr(DRIFTS[name], kind)
            assert differences.mean() <= mean, key
            assert differences.max() <= largest, key


def test_first_stage_of_two_is_close_to_the_recorded_one() -> None:
    """At most one number of 50 is in another step of quantization, and by one step.

    The scores of this golden have three values, so which of the tied proposals are kept depends on the last bit; those
    that both keep have the recorded boxes and scores.
    """
    golden = reference.golden(TWO_STAGES)
    weights = Weights(checkpoint(TWO_STAGES), "constants")
    detector = build_detector(config(TWO_STAGES), weights)
    recorded = golden.recorded_outputs()
    with np.load(reference.GOLDENS / "tf1" / f"{TWO_STAGES}_first_stage.npz") as first_stage:
        for image, size in reference.IMAGES.items():
            pixels = tf.constant(reference.image(*size)[np.newaxis])
            preprocessed, true_shapes = detector.preprocess(pixels)
            stages = detector.predict(preprocessed, true_shapes)
            for key in ("rpn_objectness_predictions_with_background", "rpn_box_encodings"):
                differences = np.abs(stages[key].numpy() - first_stage[f"{image}/{key}"])
                assert (differences > 1e-5).mean() <= 0.02, key
                assert differences.max() <= 0.0471, key
            outputs = detector.postprocess(stages, true_shapes)
            keys = ("raw_detection_boxes", "raw_detection_scores")
            ours = np.concatenate([outputs[key].numpy()[0] for key in keys], axis=1)
            theirs = np.concatenate([recorded[f"{image}/{key}"][0] for key in keys], axis=1)
            equal = np.abs(ours[:, np.newaxis] - theirs).max(axis=2).min(axis=0) <= 1e-4
            assert equal.mean() >= 0.4
    weights.require_fit(lambda *_: [])
    assert weights.unused() == []


def test_every_range_of_the_checkpoint_is_used(model: tuple[Weights, Exportable]) -> None:
    weights, exportable = model
    ranges = {name for name in weights.checkpoint.tensors if is_range(name)}
    assert len(ranges) == 308
    assert {name for name in weights.sources if is_range(name)} == ranges
    # At run time only activations are quantized; weights are quantized when the model is loaded.
    activations = sum("weights_quant" not in name for name in ranges) // 2
    assert operations(exportable).count("FakeQuantWithMinMaxVars") == activations


def test_operations_that_share_a_weight_share_its_range() -> None:
    weights, exportable = bound(checkpoint(SHARED), config(SHARED))
    assert weights.unused() == []
    scope = "WeightSharedConvolutionalBoxPredictor"
    layer = "PredictionTower/conv2d_0/separable_conv2d/weights_quant/min"
    assert f"{scope}/{layer}" in weights.sources
    assert f"{scope}_1/{layer}" not in weights.checkpoint.tensors
    assert operations(exportable).count("FakeQuantWithMinMaxVars") == sum(
        name.endswith("_quant/min") and "weights_quant" not in name for name in weights.checkpoint.tensors
    )


def test_config_without_graph_rewriter_ignores_the_ranges() -> None:
    plain = config()
    plain.ClearField("graph_rewriter")
    weights, exportable = bound(checkpoint(), plain)
    assert weights.unused() == []
    assert not any(map(is_range, weights.sources))
    assert "FakeQuantWithMinMaxVars" not in operations(exportable)


def test_export_warns_about_ignored_ranges(tmp_path: Path) -> None:
    reference.write_checkpoint(reference.golden(NAME), tmp_path)
    text = (tmp_path / "pipeline.config").read_text()
    (tmp_path / "pipeline.config").write_text(text[: text.index("graph_rewriter")])
    warnings: list[str] = []
    export(
        tmp_path,
        output_directory=tmp_path / "out",
        input_types=["image_tensor"],
        verify=False,
        on_warning=warnings.append,
    )
    assert [line for line in warnings if "quantization-aware" in line] == [
        "the checkpoint was trained quantization-aware (it has the ranges of 154 operations), but the config has no "
        "graph_rewriter: the model is exported without quantization, as the Object Detection API "
        "does"
    ]


def test_empty_graph_rewriter_quantizes() -> None:
    empty = config()
    empty.graph_rewriter.Clear()
    assert not empty.graph_rewriter.HasField("quantization")
    assert quantization_aware(empty)


def test_checkpoint_without_ranges_is_rejected() -> None:
    with pytest.raises(WeightsError, match=r"model\.ckpt-1: .*graph_rewriter.* has no ranges .*remove graph_rewriter"):
        build_detector(config(), Weights(checkpoint(keep=lambda name: not is_range(name))))


def test_missing_range_is_named() -> None:
    with pytest.raises(WeightsError, match=rf"1 weight is missing: {STEM}/act_quant/max \[\]"):
        bound(checkpoint(keep=lambda name: name != f"{STEM}/act_quant/max"), config())


def test_unused_range_is_named() -> None:
    added = (f"{STEM}/conv_quant/min", f"{STEM}/conv_quant/max")
    with pytest.raises(WeightsError, match=rf"no place for 1 quantization range: {STEM}/conv_quant; pass"):
        bound(checkpoint(add=added), config())


def test_ranges_of_dropout_are_ignored() -> None:
    scope = "BoxPredictor_0/Dropout/dropout_1/mul/activation_Mul_quant"
    weights, _ = bound(checkpoint(add=(f"{scope}/min", f"{scope}/max")), config())
    assert weights.unused() == []


@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
def test_other_than_8_bits_are_rejected(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"graph_rewriter\.quantization: {field} is 4; set it to 8"):
        build_detector(config(**{field: 4}), Weights(checkpoint()))


def linear_extractor(pipeline: Any) -> None:
    pipeline.model.ssd.feature_extractor.conv_hyperparams.activation = 0


def linear_predictor(pipeline: Any) -> None:
    pipeline.model.ssd.box_predictor.convolutional_box_predictor.conv_hyperparams.activation = 0
    pipeline.model.ssd.box_predictor.convolutional_box_predictor.num_layers_before_predictor = 2


def mnasfpn(pipeline: Any) -> None:
    pipeline.model.ssd.feature_extractor.type = "ssd_mobilenet_v2_mnasfpn"


def two_stages(pipeline: Any) -> None:
    pipeline.model.faster_rcnn.num_classes = 90
    pipeline.model.faster_rcnn.feature_extractor.type = "faster_rcnn_resnet50"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (linear_extractor, "activation: NONE after the batch_norm of feature_extractor.conv_hyperparams"),
        (
            linear_predictor,
            "activation: NONE after the batch_norm of several layers of the convolutional_box_predictor",
        ),
        (mnasfpn, "feature_extractor.type 'ssd_mobilenet_v2_mnasfpn'"),
        (two_stages, "feature_extractor.type 'faster_rcnn_resnet50'; supported: faster_rcnn_inception_v2"),
    ],
)
def test_unsupported_quantized_graphs_are_rejected(change: Callable[[Any], None], what: str) -> None:
    pipeline = config()
    change(pipeline)
    with pytest.raises(UnsupportedError) as error:
        build_detector(pipeline, Weights(checkpoint()))
    assert str(error.value) == f"not supported yet: graph_rewriter (a quantization-aware graph) with {what}"
