"""Builds anchor generators from `anchor_generator` and `first_stage_anchor_generator` messages.

Source: builders/anchor_generator_builder.py, and the checks of anchor_generators/*.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from unfreeze.config import messages
from unfreeze.errors import ConfigError
from unfreeze.ops import anchors as ops
from unfreeze.ops.anchors import Boxes
from unfreeze.ops.sizes import Size


@dataclass(frozen=True)
class AnchorGenerator:
    """The number of anchors at each location of each feature map, and their boxes.

    `kind`: the field of the message, for errors. `needs_image_size`: True if the image size is required, False if the
    Object Detection API fails with one, None if it is optional.
    """

    kind: str
    num_anchors_per_location: tuple[int, ...]
    layout: Callable[[Sequence[Size], Size], list[Boxes]]
    needs_image_size: bool | None

    def generate(self, feature_map_sizes: Sequence[Size], image_size: Size | None = None) -> list[Boxes]:
        """Returns anchors [A, 4] for each feature map: NumPy arrays if all sizes are ints, else tensors.

        Args:
            feature_map_sizes: (height, width) of each.
            image_size: of the preprocessed image, for SSD. None for the first of two stages, whose anchors are in
                pixels (of ssd_anchor_generator: normalized, for a square image).

        Raises:
            ConfigError: the generator does not match the feature maps or the kind of detector.
        """
        if len(feature_map_sizes) != len(self.num_anchors_per_location):
            raise ConfigError(
                f"{self.kind}: it has anchors for {len(self.num_anchors_per_location)} feature maps, but the feature "
                f"extractor has {len(feature_map_sizes)}; set both to the same number"
            )
        if self.needs_image_size and image_size is None:
            raise ConfigError(
                f"{self.kind}: normalize_coordinates is true, which is not supported in a first stage; set it to false"
            )
        if self.needs_image_size is False and image_size is not None:
            raise ConfigError(
                f"{self.kind} is not supported in an ssd, only in a faster_rcnn; use another anchor_generator"
            )
        return self.layout(feature_map_sizes, image_size or (1, 1))


def build_anchor_generator(config: messages.AnchorGenerator) -> AnchorGenerator:
    """Returns the generator of an `AnchorGenerator` message.

    Raises:
        ConfigError: the Object Detection API rejects the message too.
    """
    kind = config.WhichOneof("anchor_generator_oneof")
    if kind is None:
        raise ConfigError(f"anchor_generator: it is empty; set one of {', '.join(ANCHOR_GENERATORS)}")
    return ANCHOR_GENERATORS[kind](getattr(config, kind))


def ssd_anchor_generator(config: messages.SsdAnchorGenerator) -> AnchorGenerator:
    """Returns the generator of an `SsdAnchorGenerator` message."""
    if config.num_layers < 1 or (config.num_layers == 1 and not config.scales):
        raise ConfigError(
            f"ssd_anchor_generator: num_layers is {config.num_layers}; set it to 2 or more, or to 1 with `scales`"
        )
    box_specs = ops.ssd_box_specs(
        num_layers=config.num_layers,
        min_scale=config.min_scale,
        max_scale=config.max_scale,
        scales=list(config.scales),
        aspect_ratios=list(config.aspect_ratios),
        interpolated_scale_aspect_ratio=config.interpolated_scale_aspect_ratio,
        reduce_boxes_in_lowest_layer=config.reduce_boxes_in_lowest_layer,
    )
    if not all(box_specs):
        raise ConfigError("ssd_anchor_generator: aspect_ratios is empty; add at least one")
    return AnchorGenerator(
        kind="ssd_anchor_generator",
        num_anchors_per_location=tuple(len(boxes) for boxes in box_specs),
        layout=partial(
            ops.ssd_anchors,
            box_specs=box_specs,
            base_anchor_size=(config.base_anchor_height, config.base_anchor_width),
            anchor_strides=_pairs(config, "height_stride", "width_stride", len(box_specs)),
            anchor_offsets=_pairs(config, "height_offset", "width_offset", len(box_specs)),
        ),
        needs_image_size=None,
    )


def multiscale_anchor_generator(config: messages.MultiscaleAnchorGenerator) -> AnchorGenerator:
    """Returns the generator of a `MultiscaleAnchorGenerator` message."""
    boxes = len(config.aspect_ratios) * config.scales_per_octave
    if boxes < 1:
        raise ConfigError(
            f"multiscale_anchor_generator: it has no boxes ({len(config.aspect_ratios)} aspect_ratios, "
            f"scales_per_octave is {config.scales_per_octave}); both must be at least 1"
        )
    return AnchorGenerator(
        kind="multiscale_anchor_generator",
        num_anchors_per_location=(boxes,) * (config.max_level + 1 - config.min_level),
        layout=partial(
            ops.multiscale_anchors,
            min_level=config.min_level,
            anchor_scale=config.anchor_scale,
            aspect_ratios=list(config.aspect_ratios),
            scales_per_octave=config.scales_per_octave,
            normalize_coordinates=config.normalize_coordinates,
        ),
        needs_image_size=True if config.normalize_coordinates else None,
    )


def grid_anchor_generator(config: messages.GridAnchorGenerator) -> AnchorGenerator:
    """Returns the generator of a `GridAnchorGenerator` message."""
    if not config.scales or not config.aspect_ratios:
        missing = "aspect_ratios" if config.scales else "scales"
        raise ConfigError(f"grid_anchor_generator: {missing} is empty; add at least one")

    def layout(feature_map_sizes: Sequence[Size], image_size: Size) -> list[Boxes]:
        return [
            ops.grid_anchors(
                feature_map_sizes[0],
                scales=list(config.scales),
                aspect_ratios=list(config.aspect_ratios),
                base_anchor_size=(config.height, config.width),
                anchor_stride=(config.height_stride, config.width_stride),
                anchor_offset=(config.height_offset, config.width_offset),
            )
        ]

    return AnchorGenerator(
        kind="grid_anchor_generator",
        num_anchors_per_location=(len(config.scales) * len(config.aspect_ratios),),
        layout=layout,
        needs_image_size=False,
    )


def flexible_grid_anchor_generator(config: messages.FlexibleGridAnchorGenerator) -> AnchorGenerator:
    """Returns the generator of a `FlexibleGridAnchorGenerator` message."""
    grids = list(config.anchor_grid)
    for layer, grid in enumerate(grids):
        if not grid.base_sizes or len(grid.aspect_ratios) not in (1, len(grid.base_sizes)):
            raise ConfigError(
                f"flexible_grid_anchor_generator: anchor_grid {layer} has {len(grid.base_sizes)} base_sizes and "
                f"{len(grid.aspect_ratios)} aspect_ratios; set one aspect ratio, or one for each base size"
            )
    return AnchorGenerator(
        kind="flexible_grid_anchor_generator",
        num_anchors_per_location=tuple(len(grid.base_sizes) for grid in grids),
        layout=partial(
            ops.flexible_grid_anchors,
            base_sizes=[list(grid.base_sizes) for grid in grids],
            aspect_ratios=[list(grid.aspect_ratios) for grid in grids],
            anchor_strides=[(grid.height_stride, grid.width_stride) for grid in grids],
            anchor_offsets=[(grid.height_offset, grid.width_offset) for grid in grids],
            normalize_coordinates=config.normalize_coordinates,
        ),
        needs_image_size=True if config.normalize_coordinates else None,
    )


ANCHOR_GENERATORS: dict[str, Callable[[Any], AnchorGenerator]] = {
    "grid_anchor_generator": grid_anchor_generator,
    "ssd_anchor_generator": ssd_anchor_generator,
    "multiscale_anchor_generator": multiscale_anchor_generator,
    "flexible_grid_anchor_generator": flexible_grid_anchor_generator,
}


def _pairs(
    config: messages.SsdAnchorGenerator, height_field: str, width_field: str, num_layers: int
) -> list[tuple[int, int]] | None:
    """Returns one (height, width) per layer, or None if a field is empty, as in the Object Detection API."""
    pairs = list(zip(getattr(config, height_field), getattr(config, width_field), strict=False))
    if pairs and len(pairs) != num_layers:
        raise ConfigError(
            f"ssd_anchor_generator: {height_field} and {width_field} give {len(pairs)} pairs for {num_layers} layers; "
            "set one number per layer in each"
        )
    return pairs or None
