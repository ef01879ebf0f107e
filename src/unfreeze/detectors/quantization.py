"""Decides whether a config has a quantization-aware graph, and whether that graph is supported.

The FakeQuant operations themselves are in the layers, wherever these call `quantizer` on their branch.
Source: object_detection/builders/graph_rewriter_builder.py; tf.contrib.quantize of TensorFlow 1.15.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unfreeze.config import enum_name, messages
from unfreeze.errors import ConfigError, UnsupportedError

FASTER_RCNN_EXTRACTORS = ("faster_rcnn_inception_v2",)
UNSUPPORTED_EXTRACTORS = ("ssd_mobilenet_v2_mnasfpn", "ssd_pnasnet")


def quantization_aware(config: messages.TrainEvalPipelineConfig) -> bool:
    """Returns whether the graph has FakeQuants.

    `delay` concerns only training, and the Object Detection API does not read `symmetric`.

    Raises:
        ConfigError: the Object Detection API rejects the number of bits too.
        UnsupportedError: quantization is not supported for the model.
    """
    if not config.HasField("graph_rewriter"):
        return False
    # An empty graph_rewriter quantizes as well, with the defaults.
    for field in ("weight_bits", "activation_bits"):
        bits = getattr(config.graph_rewriter.quantization, field)
        if bits != 8:
            raise ConfigError(
                f"graph_rewriter.quantization: {field} is {bits}; set it to 8 (the Object Detection API rejects other "
                "values too)"
            )
    unsupported = next(_unsupported(config.model), None)
    if unsupported is not None:
        raise UnsupportedError(f"not supported yet: graph_rewriter (a quantization-aware graph) with {unsupported}")
    return True


def _unsupported(model: messages.DetectionModel) -> Iterator[str]:
    architecture = model.WhichOneof("model")
    if architecture == "faster_rcnn":
        kind = model.faster_rcnn.feature_extractor.type
        if kind not in FASTER_RCNN_EXTRACTORS:
            yield f"feature_extractor.type {kind!r}; supported: {', '.join(FASTER_RCNN_EXTRACTORS)}"
        return
    if architecture != "ssd":
        yield f"model {architecture}; supported: ssd, faster_rcnn"
        return
    extractor, predictor = model.ssd.feature_extractor, model.ssd.box_predictor
    kind = predictor.WhichOneof("box_predictor_oneof")
    options: Any = getattr(predictor, kind) if kind else None
    if extractor.type in UNSUPPORTED_EXTRACTORS:
        yield f"feature_extractor.type {extractor.type!r}"
    # A quirk: a normalized convolution directly after another gets that one's output before it is quantized.
    if _linear(extractor.conv_hyperparams):
        yield "activation: NONE after the batch_norm of feature_extractor.conv_hyperparams"
    if kind == "convolutional_box_predictor":
        consecutive_layers = options.num_layers_before_predictor + options.use_depthwise
        if consecutive_layers > 1 and _linear(options.conv_hyperparams):
            yield "activation: NONE after the batch_norm of several layers of the convolutional_box_predictor"
        if _grouped_swish(options.conv_hyperparams):
            yield "activation: SWISH after the group_norm of the convolutional_box_predictor"
    if _grouped_swish(extractor.conv_hyperparams):
        yield "activation: SWISH after the group_norm of feature_extractor.conv_hyperparams"


def _linear(hyperparams: messages.Hyperparams) -> bool:
    return hyperparams.HasField("batch_norm") and enum_name(hyperparams, "activation") == "NONE"


def _grouped_swish(hyperparams: messages.Hyperparams) -> bool:
    return hyperparams.HasField("group_norm") and enum_name(hyperparams, "activation") == "SWISH"
