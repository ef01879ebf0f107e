"""Warns about models that an older version of the Object Detection API trained, where today's builds something else.

docs/old_configs.md lists all such changes. Here are those that the checkpoint's weights do not show.

Source: the history of object_detection/protos, builders, anchor_generators and models in tensorflow/models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow import make_ndarray
from tensorflow.core.protobuf import meta_graph_pb2

from unfreeze.config import PipelineConfig, enum_name, messages
from unfreeze.detectors.build import feature_extractor

OVERRIDE = "override_base_feature_extractor_hyperparams"
ALWAYS_OVERRIDE = ("ssd_inception_v2", "ssd_inception_v3")  # extractors without hyperparameters of their own
OVERRIDDEN_UNTIL_2018 = ("ssd_mobilenet_v1", "embedded_ssd_mobilenet_v1")
ASPECT_RATIOS = re.compile(r"(?:^|/)MultipleGridAnchorGenerator/Sqrt(?:_\d+)?/x$")
MAX_GRAPH_BYTES = 256 << 20


def old_training_warnings(config: PipelineConfig, prefix: Path) -> Iterator[str]:
    """Yields a warning for each part of the model that the version that trained it may have built differently.

    `prefix` is that of the checkpoint; the graph in its `.meta` file, if there is one, is evidence.
    """
    model = config.model
    if model.WhichOneof("model") == "ssd":
        yield from _override_warnings(feature_extractor(config))
        yield from _anchor_warnings(model.ssd.anchor_generator, Path(f"{prefix}.meta"))
    elif model.WhichOneof("model") == "faster_rcnn":
        yield from _mask_warnings(model.faster_rcnn)


def _override_warnings(extractor: messages.SsdFeatureExtractor) -> Iterator[str]:
    if extractor.HasField(OVERRIDE):
        return
    if extractor.type in ALWAYS_OVERRIDE:
        yield (
            f"feature_extractor {extractor.type} has no {OVERRIDE}: the config is from before April 2018, when there "
            "was no such field, and is taken as it was then: true"
        )
    differences = _differences_from_mobilenet_v1(extractor.conv_hyperparams)
    if extractor.type in OVERRIDDEN_UNTIL_2018 and extractor.HasField("conv_hyperparams") and differences:
        yield (
            f"feature_extractor {extractor.type} has no {OVERRIDE}, so its conv_hyperparams do not apply to MobileNet "
            f"({' and '.join(differences)}), as in the Object Detection API since April 2018. If the model was trained "
            "with an older version, set the field to true"
        )


def _differences_from_mobilenet_v1(hyperparams: messages.Hyperparams) -> list[str]:
    """Returns the options that differ from MobileNet's own, of those that change no weight."""
    activation = enum_name(hyperparams, "activation")
    differences = [] if activation == "RELU_6" else [f"activation is {activation}, MobileNet's RELU_6"]
    epsilon = hyperparams.batch_norm.epsilon
    if hyperparams.HasField("batch_norm") and abs(epsilon - 0.001) > 1e-8:
        differences.append(f"epsilon is {epsilon:g}, MobileNet's 0.001")
    return differences


def _anchor_warnings(anchor_generator: messages.AnchorGenerator, graph: Path) -> Iterator[str]:
    if anchor_generator.WhichOneof("anchor_generator_oneof") != "ssd_anchor_generator":
        return
    generator = anchor_generator.ssd_anchor_generator
    interpolated = generator.interpolated_scale_aspect_ratio
    today = [*generator.aspect_ratios, *([interpolated] if interpolated > 0 else [])]
    old = _old_aspect_ratios(generator.aspect_ratios)
    if old != today and _rounded(old) in _trained_aspect_ratios(graph):
        yield (
            f"{graph}: the model was trained by an Object Detection API from before November 2017, which had the "
            "anchors of ssd_anchor_generator in another order: the boxes of this export are wrong, as those of an "
            "export by a later version. Export the frozen_inference_graph.pb of that version instead"
        )


def _old_aspect_ratios(aspect_ratios: Sequence[float]) -> list[float]:
    """Returns the aspect ratios of a location's anchors before November 2017: an additional one after each 1.0.

    Source: create_ssd_anchors of multiple_grid_anchor_generator.py, before and since commit 5556579.
    """
    return [value for ratio in aspect_ratios for value in ((ratio, 1.0) if ratio == 1 else (ratio,))]


def _trained_aspect_ratios(graph: Path) -> set[tuple[float, ...]]:
    """Returns the aspect ratios of each layer's anchors in a training graph; empty if it cannot be read."""
    try:
        if graph.stat().st_size > MAX_GRAPH_BYTES:
            return set()
        nodes = meta_graph_pb2.MetaGraphDef.FromString(graph.read_bytes()).graph_def.node
        return {
            _rounded(make_ndarray(node.attr["value"].tensor).ravel().tolist())
            for node in nodes
            if ASPECT_RATIOS.search(node.name) and node.op == "Const"
        }
    except (OSError, DecodeError, ValueError, TypeError):  # no export needs the file
        return set()


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)


def _mask_warnings(config: messages.FasterRcnn) -> Iterator[str]:
    predictor = config.second_stage_box_predictor.mask_rcnn_box_predictor
    if config.number_of_stages == 2 and predictor.predict_instance_masks:
        yield (
            "faster_rcnn: predict_instance_masks is true, but number_of_stages is 2, so the model has no masks, as in "
            "the Object Detection API since April 2018; set number_of_stages to 3 for masks"
        )
