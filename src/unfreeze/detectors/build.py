"""Builds the detector of a pipeline.config on the weights of a checkpoint."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from unfreeze.config import is_keras_model, messages
from unfreeze.detectors.center_net import build_center_net
from unfreeze.detectors.detector import Detector, Forms
from unfreeze.detectors.extractors import KNOWN
from unfreeze.detectors.faster_rcnn import build_faster_rcnn
from unfreeze.detectors.quantization import quantization_aware
from unfreeze.detectors.ssd import build_ssd
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.ops.branch import Branch
from unfreeze.ops.nms import Suppression
from unfreeze.weights import Checkpoint, Generation, Weights

__all__ = ["ARCHITECTURES", "build_detector", "feature_extractor", "generation"]

ARCHITECTURES: dict[str, Callable[[Any, Branch, Forms], Detector]] = {
    "ssd": build_ssd,
    "faster_rcnn": build_faster_rcnn,
    "center_net": build_center_net,
}

# The architectures in messages, with their article.
ARCHITECTURE_NAMES = {"ssd": "an SSD", "faster_rcnn": "a Faster R-CNN", "center_net": "a CenterNet"}

FASTEST = Forms()


def build_detector(config: messages.TrainEvalPipelineConfig, weights: Weights, forms: Forms = FASTEST) -> Detector:
    """Returns the detector that `config.model` describes. Its weights are looked up when it is first traced.

    Raises:
        ConfigError: the Object Detection API rejects the config too.
        UnsupportedError: an architecture, feature extractor or option is not supported.
    """
    architecture = config.model.WhichOneof("model")
    if architecture not in ARCHITECTURES:
        raise UnsupportedError(f"not supported yet: model {architecture}; supported: {', '.join(ARCHITECTURES)}")
    _require_known(config)
    _require_generation(config, weights.checkpoint)
    # The Object Detection API reads graph_rewriter only for TensorFlow 1 models.
    branch = weights.branch(quantized=generation(config) == Generation.TF1 and quantization_aware(config))
    return ARCHITECTURES[architecture](getattr(config.model, architecture), branch, forms)


def suppression_form(name: str) -> Suppression:
    """Returns the form of suppression called `name`.

    Raises:
        UnsupportedError: there is no such form.
    """
    names = [form.value for form in Suppression]
    if name not in names:
        raise UnsupportedError(f"suppression {name!r}: there is no such form; choose {' or '.join(names)}")
    return Suppression(name)


def generation(config: messages.TrainEvalPipelineConfig) -> Generation:
    """Returns the generation of TensorFlow that trains a config: TF2 for a model of Keras layers, else TF1."""
    return Generation.TF2 if is_keras_model(config) else Generation.TF1


def _require_known(config: messages.TrainEvalPipelineConfig) -> None:
    """Raises ConfigError if the Object Detection API has no such feature extractor for this architecture.

    This includes extractors whose code exists there but is never built, such as faster_rcnn_mobilenet_v1.
    """
    architecture, kind = config.model.WhichOneof("model"), feature_extractor(config).type
    types = [name for (model, _), names in KNOWN.items() if model == architecture for name in names]
    if kind not in types:
        close = difflib.get_close_matches(kind, types)
        advice = f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(types)}"
        raise ConfigError(
            f"feature_extractor.type {kind!r} is not {ARCHITECTURE_NAMES[architecture]} extractor of the Object "
            f"Detection API; {advice}"
        )


def _require_generation(config: messages.TrainEvalPipelineConfig, checkpoint: Checkpoint) -> None:
    """Raises ConfigError if the config is for TensorFlow 1 and the checkpoint from TensorFlow 2, or vice versa."""
    if checkpoint.generation != generation(config):
        kinds = {Generation.TF1: ("1", "name-based"), Generation.TF2: ("2", "object-based")}
        expected, (number, naming) = kinds[generation(config)][0], kinds[checkpoint.generation]
        raise ConfigError(
            f"{checkpoint.prefix}: this is a TensorFlow {number} checkpoint ({naming}), but the config's "
            f"{feature_extractor(config).type} is an extractor of TensorFlow {expected}; "
            "use the pipeline.config that the checkpoint was trained with"
        )


def feature_extractor(config: messages.TrainEvalPipelineConfig) -> Any:
    """Returns the `feature_extractor` message of a config of any architecture."""
    return getattr(config.model, config.model.WhichOneof("model")).feature_extractor
