"""Finds the config lines that most likely explain why a config and a checkpoint do not match.

The evidence is the names and shapes of the weights on both sides. Each rule of RULES looks for one kind of difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unfreeze.config import messages
from unfreeze.weights.branches import Mismatch

MAX_CAUSES = 3
EXTRACTOR = re.compile(r"^\w*FeatureExtractor(?=/)")
PREDICTOR = re.compile(r"^\w*BoxPredictor")
NECK = re.compile(r"^.*/(fpn|bifpn|mnas_fpn)(?=/)")
NUMBERED_PREDICTOR = re.compile(r"^BoxPredictor_(\d+)/")
EXTRA_LAYER_DEPTHWISE = re.compile(r"_\d+x\d+_s\d+_\d+_depthwise/")
ATTENTION = re.compile(r"^(?:Self)?AttentionBlock\w*/fully_connected(_[12])?/")
OVERRIDE = "override_base_feature_extractor_hyperparams"
MASK_HEAD = "SecondStageBoxPredictor/Conv"
LAYER_BEFORE_PREDICTOR = re.compile(r"^BoxPredictor_\d+/Conv2d_\d+_1x1_")

# The rules below know layers by their names in TensorFlow 1. Here are the names in a TensorFlow 2 SSD.
WEIGHT_SHARED = "WeightSharedConvolutionalBoxPredictor"
KERAS_NAMES = (
    (r"^_box_predictor/_prediction_heads/box_encodings/(\d+)/\w+/[03]/", r"BoxPredictor_\1/BoxEncodingPredictor/"),
    (r"^_box_predictor/_prediction_heads/class\w+/(\d+)/\w+/[0134]/", r"BoxPredictor_\1/ClassPredictor/"),
    (r"^_box_predictor/_shared_nets/(\d+)/(\d+)/", r"BoxPredictor_\1/Conv2d_\2_1x1_/"),
    (r"^_box_predictor/_prediction_heads/class\w+/_class_predictor_layers/\d+/", f"{WEIGHT_SHARED}/ClassPredictor/"),
    (r"^_box_predictor/_box_prediction_head/_box_encoder_layers/\d+/", f"{WEIGHT_SHARED}/BoxEncodingPredictor/"),
    (r"^_box_predictor/(?=_base_tower|_head_scope|_additional_projection)", f"{WEIGHT_SHARED}/"),
    (r"^_feature_extractor/_fpn_features_generator/", "FeatureExtractor/classification_backbone/fpn/"),
    (r"^_feature_extractor/", "FeatureExtractor/"),
    (r"/kernel$", "/weights"),
    (r"/bias$", "/biases"),
)


@dataclass(frozen=True)
class ShapeMismatch:
    """A weight that has one shape in the network of the config and another in the checkpoint."""

    name: str
    needed: tuple[int, ...]
    stored: tuple[int, ...]

    @property
    def differs_in_output_channels(self) -> bool:
        """Returns whether both shapes have the same rank and differ in the last dimension."""
        return len(self.stored) == len(self.needed) > 0 and self.stored[-1] != self.needed[-1]


@dataclass(frozen=True)
class Evidence:
    """The differences between a network and a checkpoint.

    `shapes`: weights with different shapes. `absent`: names that the checkpoint lacks. `unused`: names in the
    checkpoint that the network does not use.
    """

    model: Any
    shapes: Sequence[ShapeMismatch]
    absent: Sequence[str]
    unused: Sequence[str]

    @property
    def box_predictor(self) -> Any:
        """The `box_predictor` message; in a two-stage detector that of the second stage."""
        return getattr(self.model, "box_predictor", None) or self.model.second_stage_box_predictor

    @property
    def predictor_options(self) -> Any:
        """The message inside `box_predictor`, of whichever kind it is."""
        return getattr(self.box_predictor, self.box_predictor.WhichOneof("box_predictor_oneof"))


def likely_causes(
    config: messages.TrainEvalPipelineConfig,
) -> Callable[[Iterable[Mismatch], Sequence[str]], Sequence[str]]:
    """Returns a function from mismatches and unused names to the config lines that most likely cause them."""
    model = getattr(config.model, config.model.WhichOneof("model"))

    def diagnose(mismatches: Iterable[Mismatch], unused: Sequence[str]) -> Sequence[str]:
        mismatches = [replace(mismatch, name=_tf1_name(mismatch.name)) for mismatch in mismatches]
        evidence = Evidence(
            model,
            shapes=[
                ShapeMismatch(mismatch.name, mismatch.needed, mismatch.stored)
                for mismatch in mismatches
                if mismatch.stored is not None
            ],
            absent=[mismatch.name for mismatch in mismatches if mismatch.stored is None],
            unused=[_tf1_name(name) for name in unused],
        )
        causes: dict[str, None] = dict.fromkeys([*_other_network(evidence), *_image_channels(evidence)])
        if not causes:  # these explain every other difference
            for rule in RULES:
                causes |= dict.fromkeys(rule(evidence))
        return list(causes)[:MAX_CAUSES] or [f"feature_extractor.type ({model.feature_extractor.type!r} in the config)"]

    return diagnose


def _tf1_name(name: str) -> str:
    if not name.startswith(("_box_predictor/", "_feature_extractor/")):
        return name
    for pattern, replacement in KERAS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _other_network(evidence: Evidence) -> Iterator[str]:
    """Yields the backbone or architecture if the missing scopes and the unused ones have none in common."""
    needed, stored = (_scopes(names) for names in (evidence.absent, evidence.unused))
    if not needed or not stored or needed & stored:
        return
    if {scope.split("/")[0] for scope in needed} & {scope.split("/")[0] for scope in stored}:
        yield _extractor_type(evidence, min(stored))
    else:
        yield f"model (its feature extractor is {min(needed)} by the config, {min(stored)} in the checkpoint)"


def _image_channels(evidence: Evidence) -> Iterator[str]:
    """Yields the number of channels if the first convolution takes images that have more or fewer than 3."""
    for weight in evidence.shapes:
        needed, stored = weight.needed, weight.stored
        is_first = EXTRACTOR.match(weight.name) and len(needed) == len(stored) == 4 and needed[2] == 3
        if is_first and stored[2] != 3 and (*stored[:2], *stored[3:]) == (*needed[:2], *needed[3:]):
            yield f"the number of image channels ({stored[2]} in the checkpoint; only 3 are supported)"


def _extractor_type(evidence: Evidence, stored: str) -> str:
    return (
        f"feature_extractor.type ({evidence.model.feature_extractor.type!r} in the config; the checkpoint has {stored})"
    )


def _scopes(names: Iterable[str]) -> set[str]:
    """Returns the scopes of backbones, such as `FeatureExtractor/MobilenetV2`."""
    return {"/".join(name.split("/")[:2]) for name in names if EXTRACTOR.match(name)}


def _other_predictor(evidence: Evidence) -> Iterator[str]:
    needed, stored = (_predictors(names) for names in (evidence.absent, evidence.unused))
    if needed and stored and not needed & stored:
        kind = evidence.box_predictor.WhichOneof("box_predictor_oneof")
        yield f"box_predictor ({kind} in the config; the checkpoint has {min(stored)})"


def _other_neck(evidence: Evidence) -> Iterator[str]:
    """Yields the neck if the same backbone has different layers on it, such as `FeatureExtractor/MobilenetV1/fpn`."""
    needed, stored = (_necks(names) for names in (evidence.absent, evidence.unused))
    if needed != stored:
        yield _extractor_type(evidence, min(stored - needed, default="no feature pyramid"))


def _necks(names: Iterable[str]) -> set[str]:
    return {match[0] for name in names if EXTRACTOR.match(name) and (match := NECK.match(name))}


def _predictors(names: Iterable[str]) -> set[str]:
    """Returns `BoxPredictor` for names like `BoxPredictor_3/…`, or `WeightSharedConvolutionalBoxPredictor`."""
    return {
        match[0].removesuffix("BoxPredictor") + "BoxPredictor" for name in names if (match := PREDICTOR.match(name))
    }


def _use_depthwise(evidence: Evidence) -> Iterator[str]:
    for message, is_depthwise in (
        ("box_predictor", _is_predictor_depthwise),
        ("feature_extractor", EXTRA_LAYER_DEPTHWISE.search),
    ):
        if any(map(is_depthwise, evidence.absent)):
            yield f"{message} use_depthwise (true in the config, false in the checkpoint)"
        elif any(map(is_depthwise, evidence.unused)):
            yield f"{message} use_depthwise (false in the config, true in the checkpoint)"


def _is_predictor_depthwise(name: str) -> bool:
    return PREDICTOR.match(name) is not None and "_depthwise/" in name


def _kernel_size(evidence: Evidence) -> Iterator[str]:
    if any(map(_is_predictor_depthwise, [*evidence.absent, *evidence.unused])):
        return
    for weight in evidence.shapes:
        needed, stored = weight.needed, weight.stored
        if PREDICTOR.match(weight.name) and len(stored) == 4 == len(needed) and stored[:2] != needed[:2]:
            yield f"kernel_size ({needed[0]} in the config, {stored[0]} in the checkpoint)"


def _box_predictor_sizes(evidence: Evidence) -> Iterator[str]:
    """Yields `num_classes`, anchors and `box_code_size`, judged by the output channels of the last layers."""
    last_layers = {weight.name: weight for weight in evidence.shapes if weight.differs_in_output_channels}
    for name, weight in last_layers.items():
        if "ClassPredictor" in name and name.startswith("SecondStage"):  # no anchors: a box for each class
            yield _num_classes_cause(evidence, weight.stored[-1] - 1)
        elif "ClassPredictor" in name and not name.startswith("FirstStage"):  # the first stage has no classes
            boxes = last_layers.get(name.replace("ClassPredictor", "BoxEncodingPredictor"))
            yield from _num_classes(evidence, weight, boxes)
        elif "BoxEncodingPredictor" in name and not name.startswith("SecondStage"):
            classes_differ = name.replace("BoxEncodingPredictor", "ClassPredictor") in last_layers
            yield from _anchors(evidence, weight, classes_differ)


def _anchors(evidence: Evidence, boxes: ShapeMismatch, classes_differ: bool) -> Iterator[str]:
    needed, stored = boxes.needed[-1], boxes.stored[-1]
    size = getattr(evidence.predictor_options, "box_code_size", 4)
    if not classes_differ:
        yield f"box_code_size ({size} in the config; the checkpoint has {stored * size // needed})"
    elif stored % size == 0:
        yield (
            "aspect_ratios or scales of the anchor_generator "
            f"({needed // size} boxes per location by the config, {stored // size} in the checkpoint)"
        )


def _num_classes(evidence: Evidence, classes: ShapeMismatch, boxes: ShapeMismatch | None) -> Iterator[str]:
    """Yields `num_classes`, with the number that follows from the shape in the checkpoint."""
    model = evidence.model
    background = int(getattr(model, "add_background_class", True))
    anchors, remainder = divmod(classes.needed[-1], model.num_classes + background)
    if boxes is not None:
        anchors = anchors * boxes.stored[-1] // boxes.needed[-1]
    stored, stored_remainder = divmod(classes.stored[-1], anchors) if anchors and not remainder else (0, 1)
    if boxes is not None and stored == model.num_classes + background:
        return  # only the number of anchors differs
    yield _num_classes_cause(evidence, None if stored_remainder else stored - background)


def _num_classes_cause(evidence: Evidence, stored: int | None) -> str:
    in_checkpoint = "" if stored is None else f"; the checkpoint has {stored}"
    return f"num_classes ({evidence.model.num_classes} in the config{in_checkpoint})"


def _depth(evidence: Evidence) -> Iterator[str]:
    """Yields `depth_multiplier`, with the value that follows from the widest layer of the backbone."""
    extractor = evidence.model.feature_extractor
    widths = [
        (weight.needed[-1], weight.stored[-1])
        for weight in evidence.shapes
        if EXTRACTOR.match(weight.name) and weight.differs_in_output_channels and weight.name.endswith("/weights")
    ]
    if (
        not widths
        or not hasattr(extractor, "depth_multiplier")
        or any(map(EXTRA_LAYER_DEPTHWISE.search, [*evidence.absent, *evidence.unused]))
    ):
        return
    needed, stored = max(widths)
    estimate = extractor.depth_multiplier * stored / needed
    yield (
        f"depth_multiplier ({extractor.depth_multiplier:g} in the config; the checkpoint fits {estimate:.3g}), "
        "or min_depth"
    )


def _num_layers(evidence: Evidence) -> Iterator[str]:
    """Yields `num_layers` if only one side has the predictors of some feature maps: `BoxPredictor_4` and up."""
    needed, stored = (_predictor_numbers(names) for names in (evidence.absent, evidence.unused))
    if needed and not stored and 0 not in needed:
        yield f"num_layers ({max(needed) + 1} in the config; the checkpoint has {min(needed)} feature maps)"


def _predictor_numbers(names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := NUMBERED_PREDICTOR.match(name))}


def _first_stage(evidence: Evidence) -> Iterator[str]:
    """Yields the kernel size and depth of the convolution before the proposals."""
    for weight in evidence.shapes:
        if weight.name == "Conv/weights" and len(weight.stored) == 4:
            if weight.stored[:2] != weight.needed[:2]:
                yield _option_cause("first_stage_box_predictor_kernel_size", weight.needed[0], weight.stored[0])
            if weight.stored[3] != weight.needed[3]:
                yield _option_cause("first_stage_box_predictor_depth", weight.needed[3], weight.stored[3])


def _second_stage(evidence: Evidence) -> Iterator[str]:
    """Yields the options of the second stage: boxes shared by all classes, masks, and `num_classes` of R-FCN."""
    channels = {weight.name: (weight.needed[-1], weight.stored[-1]) for weight in evidence.shapes if weight.stored}
    boxes = channels.get("SecondStageBoxPredictor/BoxEncodingPredictor/weights", (0, 0))
    if 4 in boxes and "SecondStageBoxPredictor/ClassPredictor/weights" not in channels:
        shared = boxes[0] == 4
        yield _option_cause("share_box_across_classes", str(shared).lower(), str(not shared).lower())
    if any(name.startswith(MASK_HEAD) for name in evidence.absent):
        layers = evidence.predictor_options.mask_prediction_num_conv_layers
        yield f"number_of_stages (3 in the config), or mask_prediction_num_conv_layers ({layers} in the config)"
    elif any(name.startswith(MASK_HEAD) for name in channels):
        yield "mask_prediction_conv_depth or masks_are_class_agnostic"
    needed, stored = channels.get("SecondStageBoxPredictor/class_predictions/weights", (0, 0))
    if stored:
        bins = needed // (evidence.model.num_classes + 1)
        yield _num_classes_cause(evidence, stored // bins - 1 if stored % bins == 0 else None)


def _context(evidence: Evidence) -> Iterator[str]:
    """Yields the attention of a Context R-CNN: whether there is one, the number of its blocks, and their sizes."""
    for names, side in ((evidence.absent, "the config has more"), (evidence.unused, "the checkpoint has more")):
        if any(map(ATTENTION.match, names)):
            yield f"context_config (attention blocks: {side})"
    for weight in evidence.shapes:
        match = ATTENTION.match(weight.name)
        if match and weight.name.endswith("/weights") and len(weight.stored) == 2:
            if weight.stored[1] != weight.needed[1]:
                yield _option_cause("attention_bottleneck_dimension", weight.needed[1], weight.stored[1])
            if weight.stored[0] != weight.needed[0] and match[1]:
                yield _option_cause("context_feature_length", weight.needed[0], weight.stored[0])


def _option_cause(option: str, needed: object, stored: object) -> str:
    return f"{option} ({needed} in the config, {stored} in the checkpoint)"


def _layers_before_predictor(evidence: Evidence) -> Iterator[str]:
    if any(map(LAYER_BEFORE_PREDICTOR.match, [*evidence.absent, *evidence.unused])):
        options = evidence.predictor_options
        yield (
            f"num_layers_before_predictor ({options.num_layers_before_predictor} in the config), "
            f"or min_depth ({options.min_depth}) or max_depth ({options.max_depth}) of the box_predictor"
        )


def _base_hyperparams(evidence: Evidence) -> Iterator[str]:
    """Yields the override of the backbone's hyperparameters if the checkpoint's backbone has those of the config."""
    extractor = evidence.model.feature_extractor
    if getattr(extractor, OVERRIDE, True) or not extractor.HasField("conv_hyperparams"):
        return
    norm = extractor.conv_hyperparams.batch_norm
    lacks = {
        "BatchNorm": not extractor.conv_hyperparams.HasField("batch_norm"),
        "gamma": not norm.scale,
        "beta": not norm.center,
    }
    for part, is_off in lacks.items():
        if is_off and evidence.absent and all(EXTRACTOR.match(n) and f"/{part}" in n for n in evidence.absent):
            yield f"{OVERRIDE} (false in the config, but the checkpoint's backbone has no {part})"
            return


def _normalization(evidence: Evidence) -> Iterator[str]:
    if any(_base_hyperparams(evidence)):
        return
    leaves = {name.rsplit("/", 1)[-1] for name in evidence.absent}
    for leaf, option in (("gamma", "scale"), ("beta", "center")):
        if leaves == {leaf}:
            yield f"batch_norm.{option} (true in the config; the checkpoint has no {leaf})"
    only_stored = _layers_with(evidence.absent, "biases") & _layers_with(evidence.unused, "BatchNorm/")
    only_needed = _layers_with(evidence.absent, "BatchNorm/") & _layers_with(evidence.unused, "biases")
    if only_stored:
        layer = min(only_stored)
        yield f"batch_norm of the conv_hyperparams (not in the config, but the checkpoint has {layer}BatchNorm)"
    if only_needed:
        layer = min(only_needed)
        yield f"batch_norm of the conv_hyperparams (in the config, but the checkpoint has {layer}biases)"


def _layers_with(names: Iterable[str], part: str) -> set[str]:
    """Returns the scopes of the layers that have a weight `part`."""
    return {name[: name.index(f"/{part}") + 1] for name in names if f"/{part}" in name}


RULES: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    _other_predictor,
    _other_neck,
    _use_depthwise,
    _kernel_size,
    _num_layers,
    _depth,
    _box_predictor_sizes,
    _first_stage,
    _second_stage,
    _context,
    _layers_before_predictor,
    _base_hyperparams,
    _normalization,
)
