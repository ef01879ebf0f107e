"""A pipeline.config and a checkpoint's weights to a detector."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from unfreeze.detectors.center_net import build_center_net
from unfreeze.detectors.detector import Detector, Forms
from unfreeze.detectors.extractors import KNOWN
from unfreeze.detectors.faster_rcnn import build_faster_rcnn
from unfreeze.detectors.quantization import quantization_aware
from unfreeze.detectors.ssd import build_ssd
from unfreeze.errors import ConfigError, UnsupportedError
from unfreeze.ops.branch import Branch
from unfreeze.ops.nms import Suppression
from unfreeze.weights import Checkpoint, Weights

__all__ = ["ARCHITECTURES", "build_detector", "feature_extractor", "generation"]

ARCHITECTURES: dict[str, Callable[[Any, Branch, Forms], Detector]] = {
    "ssd": build_ssd,
    "faster_rcnn": build_faster_rcnn,
    "center_net": build_center_net,
}

FASTEST = Forms()


def build_detector(config: Any, weights: Weights, forms: Forms = FASTEST) -> Detector:
    """The detector that `config.model` describes; its weights are asked for when it is first traced.

    Raises:
        ConfigError: what the original refuses too.
        UnsupportedError: an architecture, feature extractor or option that this version does not have.
    """
    architecture = config.model.WhichOneof("model")
    if architecture not in ARCHITECTURES:
        raise UnsupportedError(f"not supported yet: model {architecture}; supported: {', '.join(ARCHITECTURES)}")
    _require_known(config)
    _require_generation(config, weights.checkpoint)
    # The original reads graph_rewriter for models of TensorFlow 1 only.
    branch = weights.branch(quantized=generation(config) == "tf1" and quantization_aware(config))
    return ARCHITECTURES[architecture](getattr(config.model, architecture), branch, forms)


def suppression_form(name: str) -> Suppression:
    """The form of suppression called `name`.

    Raises: UnsupportedError: there is none of that name.
    """
    names = [form.value for form in Suppression]
    if name not in names:
        raise UnsupportedError(f"suppression {name!r}: there is no such form; choose {' or '.join(names)}")
    return Suppression(name)


def generation(config: Any) -> str:
    """The TensorFlow whose checkpoints a config belongs to: "tf2" for a model of Keras layers, else "tf1"."""
    keras = config.model.WhichOneof("model") == "center_net" or feature_extractor(config).type.endswith("_keras")
    return "tf2" if keras else "tf1"


def _require_known(config: Any) -> None:
    """Raises ConfigError when the original has no such feature extractor for this architecture.

    Nor has it those whose code it holds but does not build: faster_rcnn_mobilenet_v1.
    """
    architecture, kind = config.model.WhichOneof("model"), feature_extractor(config).type
    types = [each for (model, _), known in KNOWN.items() if model == architecture for each in known]
    if kind not in types:
        near = difflib.get_close_matches(kind, types)
        raise ConfigError(
            f"feature_extractor: the original builds no {architecture} of type {kind!r}; "
            f"{'near to it' if near else 'it builds'}: {', '.join(near or types)}"
        )


def _require_generation(config: Any, checkpoint: Checkpoint) -> None:
    """Raises ConfigError when the config is of TensorFlow 1 and the checkpoint of 2, or the other way round."""
    held = checkpoint.generation
    if held != generation(config):
        kinds = {"tf1": ("1", "name-based"), "tf2": ("2", "object-based")}
        wanted, (number, naming) = kinds[generation(config)][0], kinds[held]
        raise ConfigError(
            f"{checkpoint.prefix}: this is a TensorFlow {number} checkpoint ({naming}), but the original builds the "
            f"config's {feature_extractor(config).type} under TensorFlow {wanted} only; "
            "give the pipeline.config that it was trained with"
        )


def feature_extractor(config: Any) -> Any:
    """The `feature_extractor` message of a config, whatever the architecture."""
    return getattr(config.model, config.model.WhichOneof("model")).feature_extractor
