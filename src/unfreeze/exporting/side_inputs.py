"""Side inputs: what a Context R-CNN takes besides pictures, as the original's flags tell it.

Source: object_detection/exporter.py (parse_side_inputs, build_detection_graph).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from unfreeze.errors import ConfigError, UnfreezeError

if TYPE_CHECKING:
    from unfreeze.detectors import Detector

# As the TF1 script and as the TF2 script tells them; both know strings too, which no model takes.
TYPES = {"float": "float32", "int": "int32", "tf.float32": "float32", "tf.int32": "int32"}


class SideInput(NamedTuple):
    """What an input takes: dtype, and shape with None where any size will do."""

    dtype: str
    shape: tuple[int | None, ...]


def parse_side_inputs(shapes: str | None, names: str | None, types: str | None) -> dict[str, SideInput]:
    """`1,2000,2057/1`, `context_features,valid_context_size` and `float,int` to side inputs by name.

    Raises:
        UnfreezeError: one of them is missing, wrong, or not as long as the others.
    """
    for flag, value in (("shapes", shapes), ("names", names), ("types", types)):
        if not value:
            raise UnfreezeError(f"--use-side-inputs needs --side-input-{flag}")
    told = (shapes or "").split("/")
    keys, dtypes = (names or "").split(","), (types or "").split(",")
    if not len(told) == len(keys) == len(dtypes):
        raise UnfreezeError(
            f"--side-input-shapes tells {len(told)} shapes (with / between them), --side-input-names {len(keys)} names "
            f"and --side-input-types {len(dtypes)} types; give one of each for every side input"
        )
    for name in dtypes:
        if name not in TYPES:
            raise UnfreezeError(f"--side-input-types: {name!r} is not one of {', '.join(TYPES)}")
    return {key: SideInput(TYPES[name], _shape(shape)) for key, name, shape in zip(keys, dtypes, told, strict=True)}


def with_side_inputs(
    detector: Detector, given: Mapping[str, SideInput] | None, input_shape: Sequence[int | None] | None
) -> Detector:
    """The detector with its side inputs shaped as given; where that leaves a size open, its own counts.

    Raises:
        ConfigError: they are not those that the model takes, or do not fit them or the pictures.
    """
    import tensorflow as tf

    expected = detector.side_inputs
    if given is not None and set(given) != set(expected):
        takes = f"the side inputs {' and '.join(expected)}" if expected else "no side inputs"
        raise ConfigError(f"--side-input-names: {', '.join(given)}; this model takes {takes}")
    made = {}
    for name, spec in expected.items():
        dtype, shape = given[name] if given else SideInput(spec.dtype.name, tuple(spec.shape))
        if dtype != spec.dtype.name:
            raise ConfigError(f"--side-input-types: {name} is {dtype}; it has to be {spec.dtype.name}")
        if not spec.shape.is_compatible_with(shape):
            raise ConfigError(
                f"--side-input-shapes: {name} is {_told(shape)}; this model takes {_told(spec.shape)} (-1: any)"
            )
        made[name] = tf.TensorSpec(spec.shape.merge_with(shape), spec.dtype, name=name)
    sizes = {spec.shape[0] for spec in made.values()} | ({input_shape[0]} if made and input_shape else set())
    if len(sizes - {None}) > 1:
        told = ", ".join(map(str, sorted(size for size in sizes if size)))
        raise ConfigError(f"--side-input-shapes and --input-shape ask for different numbers of images: {told}")
    return replace(detector, side_inputs=made)


def _shape(told: str) -> tuple[int | None, ...]:
    try:
        sizes = [int(size) for size in told.split(",")]
    except ValueError:
        sizes = [0]
    if any(size < 1 and size != -1 for size in sizes):
        raise UnfreezeError(f"--side-input-shapes: {told!r} is not a list of sizes such as 1,2000,2057 or 1,-1,2057")
    return tuple(None if size == -1 else size for size in sizes)


def _told(shape: Sequence[int | None]) -> str:
    return ",".join("-1" if size is None else str(size) for size in shape)
