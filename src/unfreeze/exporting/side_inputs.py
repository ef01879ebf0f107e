"""Side inputs: the inputs of a Context R-CNN besides images, in the form of the Object Detection API's flags.

Source: object_detection/exporter.py (parse_side_inputs, build_detection_graph).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from unfreeze.errors import ConfigError, UnfreezeError

if TYPE_CHECKING:
    import tensorflow as tf

    from unfreeze.detectors import Detector

# Types as the TF1 script and as the TF2 script name them; both also accept strings, which no model takes.
TYPES = {"float": "float32", "int": "int32", "tf.float32": "float32", "tf.int32": "int32"}


class SideInput(NamedTuple):
    """The dtype and shape of a side input; a size of None is open."""

    dtype: str
    shape: tuple[int | None, ...]


def parse_side_inputs(shapes: str | None, names: str | None, types: str | None) -> dict[str, SideInput]:
    """Returns side inputs by name for `1,2000,2057/1`, `context_features,valid_context_size` and `float,int`.

    Raises:
        UnfreezeError: one of them is missing, wrong, or not as long as the others.
    """
    if not shapes:
        raise UnfreezeError("--use-side-inputs needs --side-input-shapes")
    if not names:
        raise UnfreezeError("--use-side-inputs needs --side-input-names")
    if not types:
        raise UnfreezeError("--use-side-inputs needs --side-input-types")
    shape_texts, input_names, type_names = shapes.split("/"), names.split(","), types.split(",")
    if not len(shape_texts) == len(input_names) == len(type_names):
        raise UnfreezeError(
            f"--side-input-shapes has {len(shape_texts)} shapes (with / between them), --side-input-names "
            f"{len(input_names)} names and --side-input-types {len(type_names)} types; pass one of each per side input"
        )
    for name in type_names:
        if name not in TYPES:
            raise UnfreezeError(f"--side-input-types: {name!r} is not one of {', '.join(TYPES)}")
    return {
        name: SideInput(TYPES[dtype], _parse_shape(shape))
        for name, dtype, shape in zip(input_names, type_names, shape_texts, strict=True)
    }


def with_side_inputs(
    detector: Detector, side_inputs: Mapping[str, SideInput] | None, input_shape: Sequence[int | None] | None
) -> Detector:
    """Returns the detector with these shapes of its side inputs; sizes that they leave open are the detector's.

    Raises:
        ConfigError: they are not the side inputs of the model, or do not fit them or `input_shape`.
    """
    expected = detector.side_inputs
    if side_inputs is not None and set(side_inputs) != set(expected):
        takes = f"the side inputs {' and '.join(expected)}" if expected else "no side inputs"
        raise ConfigError(f"--side-input-names: {', '.join(side_inputs)}; this model takes {takes}")
    shaped = dict(expected)
    for name, side_input in (side_inputs or {}).items():
        shaped[name] = _shaped(name, expected[name], side_input)
    counts = {spec.shape[0] for spec in shaped.values()} | ({input_shape[0]} if shaped and input_shape else set())
    if len(counts - {None}) > 1:
        numbers = ", ".join(map(str, sorted(count for count in counts if count)))
        raise ConfigError(f"--side-input-shapes and --input-shape have different numbers of images: {numbers}")
    return replace(detector, side_inputs=shaped)


def _shaped(name: str, spec: tf.TensorSpec, side_input: SideInput) -> tf.TensorSpec:
    """Returns the spec of a side input with the requested shape."""
    import tensorflow as tf

    dtype, shape = side_input
    if dtype != spec.dtype.name:
        raise ConfigError(f"--side-input-types: {name} is {dtype}; it has to be {spec.dtype.name}")
    if not spec.shape.is_compatible_with(shape):
        raise ConfigError(
            f"--side-input-shapes: {name} is {_format_shape(shape)}; this model takes {_format_shape(spec.shape)} "
            "(-1: any)"
        )
    return tf.TensorSpec(spec.shape.merge_with(shape), spec.dtype, name=name)


def _parse_shape(text: str) -> tuple[int | None, ...]:
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        sizes = [0]
    if any(size < 1 and size != -1 for size in sizes):
        raise UnfreezeError(f"--side-input-shapes: {text!r} is not a list of sizes such as 1,2000,2057 or 1,-1,2057")
    return tuple(None if size == -1 else size for size in sizes)


def _format_shape(shape: Sequence[int | None]) -> str:
    return ",".join("-1" if size is None else str(size) for size in shape)
