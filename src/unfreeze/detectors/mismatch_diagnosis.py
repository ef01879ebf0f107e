"""Why a config and a checkpoint do not fit: the config lines that most likely cause it, told from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unfreeze.weights.branches import Misfit

MOST = 3  # causes that are told
EXTRACTOR = re.compile(r"^\w*FeatureExtractor(?=/)")
PREDICTOR = re.compile(r"^\w*BoxPredictor")
NECK = re.compile(r"^.*/(fpn|bifpn|mnas_fpn)(?=/)")
NUMBERED_PREDICTOR = re.compile(r"^BoxPredictor_(\d+)/")
EXTRA_LAYER_DEPTHWISE = re.compile(r"_\d+x\d+_s\d+_\d+_depthwise/")
ATTENTION = re.compile(r"^(?:Self)?AttentionBlock\w*/fully_connected(_[12])?/")
MASK_HEAD = "SecondStageBoxPredictor/Conv"
LAYER_BEFORE_PREDICTOR = re.compile(r"^BoxPredictor_\d+/Conv2d_\d+_1x1_")

# What an SSD of TensorFlow 2 calls the layers that the rules below know by the names of TensorFlow 1.
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
class Evidence:
    """What does not fit: weights in another shape, weights that are missing, weights that nobody asked for."""

    model: Any
    misfits: Sequence[Misfit]
    absent: Sequence[str]
    unused: Sequence[str]

    @property
    def box_predictor(self) -> Any:
        """The message of the (last) box predictor."""
        return getattr(self.model, "box_predictor", None) or self.model.second_stage_box_predictor

    @property
    def numbers(self) -> Any:
        """What it holds, whichever it is."""
        return getattr(self.box_predictor, self.box_predictor.WhichOneof("box_predictor_oneof"))


def causes(config: Any) -> Callable[[Iterable[Misfit], Sequence[str]], Sequence[str]]:
    """A function from misfit weights, and those that nobody asked for, to the config lines that likely cause them."""
    model = getattr(config.model, config.model.WhichOneof("model"))

    def likely(misfits: Iterable[Misfit], unused: Sequence[str]) -> Sequence[str]:
        misfits = [replace(misfit, name=_in_words_of_tf1(misfit.name)) for misfit in misfits]
        unused = [_in_words_of_tf1(name) for name in unused]
        other_shape = [misfit for misfit in misfits if misfit.held is not None]
        absent = [misfit.name for misfit in misfits if misfit.held is None]
        evidence = Evidence(model, other_shape, absent, unused)
        found: dict[str, None] = dict.fromkeys(_other_network(evidence))
        if not found:  # else all the rest follows from it
            for rule in RULES:
                found |= dict.fromkeys(rule(evidence))
        return list(found)[:MOST] or [f"feature_extractor.type ({model.feature_extractor.type!r} in the config)"]

    return likely


def _in_words_of_tf1(name: str) -> str:
    if not name.startswith(("_box_predictor/", "_feature_extractor/")):
        return name
    for pattern, words in KERAS_NAMES:
        name = re.sub(pattern, words, name)
    return name


def _other_network(evidence: Evidence) -> Iterator[str]:
    """Another backbone or architecture: none of the scopes that are missing are among those that are left over."""
    needed, held = (_scopes(names) for names in (evidence.absent, evidence.unused))
    if not needed or not held or needed & held:
        return
    if {scope.split("/")[0] for scope in needed} & {scope.split("/")[0] for scope in held}:
        yield _extractor_type(evidence, min(held))
    else:
        yield f"model (its feature extractor is {min(needed)} by the config, {min(held)} in the checkpoint)"


def _extractor_type(evidence: Evidence, held: str) -> str:
    return (
        f"feature_extractor.type ({evidence.model.feature_extractor.type!r} in the config; the checkpoint has {held})"
    )


def _scopes(names: Iterable[str]) -> set[str]:
    """`FeatureExtractor/MobilenetV2`."""
    return {"/".join(name.split("/")[:2]) for name in names if EXTRACTOR.match(name)}


def _other_predictor(evidence: Evidence) -> Iterator[str]:
    needed, held = (_predictors(names) for names in (evidence.absent, evidence.unused))
    if needed and held and not needed & held:
        kind = evidence.box_predictor.WhichOneof("box_predictor_oneof")
        yield f"box_predictor ({kind} in the config; the checkpoint has {min(held)})"


def _other_neck(evidence: Evidence) -> Iterator[str]:
    """On the same backbone other layers: `FeatureExtractor/MobilenetV1/fpn`."""
    needed, held = (_necks(names) for names in (evidence.absent, evidence.unused))
    if needed != held:
        yield _extractor_type(evidence, min(held - needed, default="no feature pyramid"))


def _necks(names: Iterable[str]) -> set[str]:
    return {match[0] for name in names if EXTRACTOR.match(name) and (match := NECK.match(name))}


def _predictors(names: Iterable[str]) -> set[str]:
    """`BoxPredictor` for `BoxPredictor_3/…`, or `WeightSharedConvolutionalBoxPredictor`."""
    return {
        match[0].removesuffix("BoxPredictor") + "BoxPredictor" for name in names if (match := PREDICTOR.match(name))
    }


def _use_depthwise(evidence: Evidence) -> Iterator[str]:
    for where, sees in (
        ("box_predictor", _is_predictor_depthwise),
        ("feature_extractor", EXTRA_LAYER_DEPTHWISE.search),
    ):
        if any(map(sees, evidence.absent)):
            yield f"{where} use_depthwise (true in the config, false in the checkpoint)"
        elif any(map(sees, evidence.unused)):
            yield f"{where} use_depthwise (false in the config, true in the checkpoint)"


def _is_predictor_depthwise(name: str) -> bool:
    return PREDICTOR.match(name) is not None and "_depthwise/" in name


def _kernel_size(evidence: Evidence) -> Iterator[str]:
    if any(map(_is_predictor_depthwise, [*evidence.absent, *evidence.unused])):
        return
    for misfit in evidence.misfits:
        held = misfit.held or ()
        if PREDICTOR.match(misfit.name) and len(held) == 4 == len(misfit.needed) and held[:2] != misfit.needed[:2]:
            yield f"kernel_size ({misfit.needed[0]} in the config, {held[0]} in the checkpoint)"


def _box_predictor_sizes(evidence: Evidence) -> Iterator[str]:
    """`num_classes`, the number of anchors and `box_code_size`, from what the last layers give."""
    last = {misfit.name: misfit for misfit in evidence.misfits if _differs_at_the_end(misfit)}
    for name, misfit in last.items():
        boxes = last.get(name.replace("ClassPredictor", "BoxEncodingPredictor"))
        if "ClassPredictor" in name and name.startswith("SecondStage"):  # no anchors: a box for each class
            yield _num_classes_told(evidence, (misfit.held or (0,))[-1] - 1)
        elif "ClassPredictor" in name and not name.startswith("FirstStage"):  # there, object or not is all that is told
            yield from _num_classes(evidence, misfit, boxes)
        elif "BoxEncodingPredictor" in name and not name.startswith("SecondStage"):
            yield from _anchors(evidence, misfit, name.replace("BoxEncodingPredictor", "ClassPredictor") in last)


def _differs_at_the_end(misfit: Misfit) -> bool:
    return (
        bool(misfit.held)
        and len(misfit.held or ()) == len(misfit.needed)
        and (misfit.held or ())[-1] != misfit.needed[-1]
    )


def _anchors(evidence: Evidence, boxes: Misfit, classes_differ: bool) -> Iterator[str]:
    needed, held = boxes.needed[-1], (boxes.held or (0,))[-1]
    size = getattr(evidence.numbers, "box_code_size", 4)
    if not classes_differ:
        yield f"box_code_size ({size} in the config; the checkpoint has {held * size // needed})"
    elif held % size == 0:
        yield (
            "aspect_ratios or scales of the anchor_generator "
            f"({needed // size} boxes at a place by the config, {held // size} in the checkpoint)"
        )


def _num_classes(evidence: Evidence, classes: Misfit, boxes: Misfit | None) -> Iterator[str]:
    """`num_classes`, with the number that the checkpoint's shape speaks for."""
    model = evidence.model
    background = int(getattr(model, "add_background_class", True))
    anchors, odd = divmod(classes.needed[-1], model.num_classes + background)
    if boxes is not None:
        anchors = anchors * (boxes.held or (0,))[-1] // boxes.needed[-1]
    held, left = divmod((classes.held or (0,))[-1], anchors) if anchors and not odd else (0, 1)
    if boxes is not None and held == model.num_classes + background:
        return  # another number of anchors is all that differs
    yield _num_classes_told(evidence, None if left else held - background)


def _num_classes_told(evidence: Evidence, held: int | None) -> str:
    told = "" if held is None else f"; the checkpoint has {held}"
    return f"num_classes ({evidence.model.num_classes} in the config{told})"


def _depth(evidence: Evidence) -> Iterator[str]:
    """`depth_multiplier`, with the one that the widest layer of the backbone speaks for."""
    extractor = evidence.model.feature_extractor
    widths = [
        (misfit.needed[-1], (misfit.held or ())[-1])
        for misfit in evidence.misfits
        if EXTRACTOR.match(misfit.name) and _differs_at_the_end(misfit) and misfit.name.endswith("/weights")
    ]
    if (
        not widths
        or not hasattr(extractor, "depth_multiplier")
        or any(map(EXTRA_LAYER_DEPTHWISE.search, [*evidence.absent, *evidence.unused]))
    ):
        return
    needed, held = max(widths)
    told = f"; the checkpoint speaks for {extractor.depth_multiplier * held / needed:.3g}"
    yield f"depth_multiplier ({extractor.depth_multiplier:g} in the config{told}), or min_depth"


def _num_layers(evidence: Evidence) -> Iterator[str]:
    """Feature maps that only one side has: `BoxPredictor_4` and up."""
    needed, held = (_numbers(names) for names in (evidence.absent, evidence.unused))
    if needed and not held and 0 not in needed:
        yield f"num_layers ({max(needed) + 1} in the config; the checkpoint has {min(needed)} feature maps)"


def _numbers(names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := NUMBERED_PREDICTOR.match(name))}


def _first_stage(evidence: Evidence) -> Iterator[str]:
    """Kernel size and depth of the convolution before the proposals."""
    for misfit in evidence.misfits:
        held = misfit.held or ()
        if misfit.name == "Conv/weights" and len(held) == 4:
            if held[:2] != misfit.needed[:2]:
                yield _told("first_stage_box_predictor_kernel_size", misfit.needed[0], held[0])
            if held[3] != misfit.needed[3]:
                yield _told("first_stage_box_predictor_depth", misfit.needed[3], held[3])


def _second_stage(evidence: Evidence) -> Iterator[str]:
    """Whether there is a box for each class, and masks; R-FCN's `num_classes`."""
    ends = {misfit.name: (misfit.needed[-1], (misfit.held or ())[-1]) for misfit in evidence.misfits if misfit.held}
    boxes = ends.get("SecondStageBoxPredictor/BoxEncodingPredictor/weights", (0, 0))
    if 4 in boxes and "SecondStageBoxPredictor/ClassPredictor/weights" not in ends:
        shared = boxes[0] == 4
        yield _told("share_box_across_classes", str(shared).lower(), str(not shared).lower())
    if any(name.startswith(MASK_HEAD) for name in evidence.absent):
        layers = evidence.numbers.mask_prediction_num_conv_layers
        yield f"number_of_stages (3 in the config), or mask_prediction_num_conv_layers ({layers} in the config)"
    elif any(name.startswith(MASK_HEAD) for name in ends):
        yield "mask_prediction_conv_depth or masks_are_class_agnostic"
    needed, held = ends.get("SecondStageBoxPredictor/class_predictions/weights", (0, 0))
    if held:
        bins = needed // (evidence.model.num_classes + 1)
        yield _num_classes_told(evidence, held // bins - 1 if held % bins == 0 else None)


def _context(evidence: Evidence) -> Iterator[str]:
    """Whether there is an attention at all, how many blocks it has, and their sizes."""
    for names, told in ((evidence.absent, "the config has more"), (evidence.unused, "the checkpoint has more")):
        if any(map(ATTENTION.match, names)):
            yield f"context_config (attention blocks: {told})"
    for misfit in evidence.misfits:
        match = ATTENTION.match(misfit.name)
        if match and misfit.held and misfit.name.endswith("/weights") and len(misfit.held) == 2:
            if misfit.held[1] != misfit.needed[1]:
                yield _told("attention_bottleneck_dimension", misfit.needed[1], misfit.held[1])
            if misfit.held[0] != misfit.needed[0] and match[1]:
                yield _told("context_feature_length", misfit.needed[0], misfit.held[0])


def _told(option: str, needed: object, held: object) -> str:
    return f"{option} ({needed} in the config, {held} in the checkpoint)"


def _layers_before_predictor(evidence: Evidence) -> Iterator[str]:
    if any(map(LAYER_BEFORE_PREDICTOR.match, [*evidence.absent, *evidence.unused])):
        numbers = evidence.numbers
        yield (
            f"num_layers_before_predictor ({numbers.num_layers_before_predictor} in the config), "
            f"or min_depth ({numbers.min_depth}) or max_depth ({numbers.max_depth}) of the box_predictor"
        )


def _normalization(evidence: Evidence) -> Iterator[str]:
    leaves = {name.rsplit("/", 1)[-1] for name in evidence.absent}
    for leaf, option in (("gamma", "scale"), ("beta", "center")):
        if leaves == {leaf}:
            yield f"batch_norm.{option} (true in the config; the checkpoint has no {leaf})"
    biased = _normalized(evidence.absent, "biases") & _normalized(evidence.unused, "BatchNorm/")
    normal = _normalized(evidence.absent, "BatchNorm/") & _normalized(evidence.unused, "biases")
    if biased:
        yield f"batch_norm of the conv_hyperparams (not in the config, but the checkpoint has {min(biased)}BatchNorm)"
    if normal:
        yield f"batch_norm of the conv_hyperparams (in the config, but the checkpoint has {min(normal)}biases)"


def _normalized(names: Iterable[str], part: str) -> set[str]:
    """The scopes of layers that have a weight of this kind."""
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
    _normalization,
)
