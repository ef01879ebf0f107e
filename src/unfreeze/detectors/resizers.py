"""Builds image resizers from `image_resizer` messages.

Source: builders/image_resizer_builder.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import tensorflow as tf

from unfreeze.config import enum_name, messages
from unfreeze.errors import ConfigError
from unfreeze.ops import images as ops
from unfreeze.ops.portable_resize import PORTABLE_RESIZE_METHODS
from unfreeze.ops.sizes import Length, Size, image_size


@dataclass(frozen=True)
class Resizer:
    """An image resizer in two steps: `resize`, which also returns the true image shapes, and `finish`.

    `finish` pads images and converts them to grayscale. Detectors normalize pixels where the Object Detection API does:
    Faster R-CNN and CenterNet last, `normalize(finish(resized))`, so that padding is normalized too; SSD first, with
    `resize_normalized`.
    """

    new_size: Callable[[Length, Length], Size] | None = None  # None keeps the size
    padded_size: Callable[[Length, Length], Size] | None = None
    resize_method: str = "BILINEAR"
    align_corners: bool = False
    per_channel_pad_value: tuple[float, ...] = (0.0,)
    channels: int = 3
    size: tuple[int | None, int | None] = (None, None)  # after `finish`; None if it depends on the image
    portable: bool = False  # see `Forms`

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """(height, width, channels) of the output of `finish`."""
        return (*self.size, self.channels)

    def resize(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[N, H, W, 3] uint8 or float32 -> [N, h, w, 3] float32, true_image_shapes [N, 3] int32."""
        old = image_size(images)
        new = old if self.new_size is None else self.new_size(*old)
        if self.new_size is None or (self.portable and _known_and_equal(old, new)):
            resized = tf.cast(images, tf.float32)
        elif self.portable:
            resized = PORTABLE_RESIZE_METHODS[self.resize_method](images, new, self.align_corners)
        else:
            resized = ops.resize(images, new, resize_method=self.resize_method, align_corners=self.align_corners)
        return resized, ops.true_image_shapes(resized, self.channels)

    def finish(self, images: tf.Tensor) -> tf.Tensor:
        """[N, h, w, 3] -> [N, H, W, channels]: padded, then converted to grayscale if the config says so."""
        if self.padded_size is not None:
            images = ops.pad(images, self.padded_size(*image_size(images)), self.per_channel_pad_value)
        return ops.grayscale(images) if self.channels == 1 else images

    def resize_normalized(
        self, images: tf.Tensor, normalize: Callable[[tf.Tensor], tf.Tensor], *, normalize_first: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """[N, H, W, 3] uint8 or float32 -> [N, *shape], true_image_shapes [N, 3]: normalized, then resized.

        Without `normalize_first`, the smaller resized image is normalized instead: the results are equal within 1e-6.
        Not for AREA: the weights of its pixels sum to 1 only within 1e-4, and so would the offset of `normalize`.
        """
        if normalize_first or self.resize_method == "AREA":
            resized, true_image_shapes = self.resize(normalize(tf.cast(images, tf.float32)))
        else:
            resized, true_image_shapes = self.resize(images)
            resized = normalize(resized)
        return self.finish(resized), true_image_shapes


def build_resizer(config: messages.ImageResizer, *, portable: bool = False) -> Resizer:
    """Returns the `Resizer` of an ImageResizer message, in the form that converters translate if it is `portable`.

    Raises:
        ConfigError: the Object Detection API rejects the message too, or a size is not positive.
    """
    kind = config.WhichOneof("image_resizer_oneof")
    if kind is None:
        raise ConfigError(f"image_resizer: it is empty; set one of {', '.join(RESIZERS)}")
    return replace(RESIZERS[kind](getattr(config, kind)), portable=portable)


def fixed_shape_resizer(config: messages.FixedShapeResizer) -> Resizer:
    """Returns the resizer of a `FixedShapeResizer` message."""
    _check_positive("fixed_shape_resizer", config, "height", "width")
    size = (config.height, config.width)
    return Resizer(
        new_size=lambda height, width: size, resize_method=_method(config), channels=_channels(config), size=size
    )


def keep_aspect_ratio_resizer(config: messages.KeepAspectRatioResizer) -> Resizer:
    """Returns the resizer of a `KeepAspectRatioResizer` message."""
    _check_positive("keep_aspect_ratio_resizer", config, "min_dimension", "max_dimension")
    if config.min_dimension > config.max_dimension:
        raise ConfigError(
            f"keep_aspect_ratio_resizer: min_dimension is {config.min_dimension}, more than max_dimension "
            f"({config.max_dimension}); lower it"
        )
    pad_value = tuple(config.per_channel_pad_value) or (0.0, 0.0, 0.0)
    if config.pad_to_max_dimension and len(pad_value) != 3:
        raise ConfigError(
            f"keep_aspect_ratio_resizer: per_channel_pad_value has {len(pad_value)} numbers; set 3, for red, green and "
            "blue"
        )
    square = (config.max_dimension, config.max_dimension)
    return Resizer(
        new_size=partial(
            ops.keep_aspect_ratio_size, min_dimension=config.min_dimension, max_dimension=config.max_dimension
        ),
        padded_size=(lambda height, width: square) if config.pad_to_max_dimension else None,
        resize_method=_method(config),
        per_channel_pad_value=pad_value,
        channels=_channels(config),
        size=square if config.pad_to_max_dimension else (None, None),
    )


def identity_resizer(config: messages.IdentityResizer) -> Resizer:
    """Returns the resizer of an `IdentityResizer` message, which keeps images as they are."""
    return Resizer()


def conditional_shape_resizer(config: messages.ConditionalShapeResizer) -> Resizer:
    """Returns the resizer of a `ConditionalShapeResizer` message."""
    _check_positive("conditional_shape_resizer", config, "size_threshold")
    condition = enum_name(config, "condition")
    if condition not in ("GREATER", "SMALLER"):
        raise ConfigError(f"conditional_shape_resizer: condition is {condition}; set it to GREATER or SMALLER")
    return Resizer(
        new_size=partial(ops.conditional_shape_size, condition=condition, size_threshold=config.size_threshold),
        resize_method=_method(config),
        align_corners=True,  # the only resizer of the Object Detection API that does so
        channels=_channels(config),
    )


def pad_to_multiple_resizer(config: messages.PadToMultipleResizer) -> Resizer:
    """Returns the resizer of a `PadToMultipleResizer` message."""
    _check_positive("pad_to_multiple_resizer", config, "multiple")
    return Resizer(padded_size=partial(ops.multiple_size, multiple=config.multiple), channels=_channels(config))


RESIZERS: dict[str, Callable[[Any], Resizer]] = {
    "keep_aspect_ratio_resizer": keep_aspect_ratio_resizer,
    "fixed_shape_resizer": fixed_shape_resizer,
    "identity_resizer": identity_resizer,
    "conditional_shape_resizer": conditional_shape_resizer,
    "pad_to_multiple_resizer": pad_to_multiple_resizer,
}


def _known_and_equal(old: Size, new: Size) -> bool:
    return not any(map(tf.is_tensor, (*old, *new))) and old == new


def _method(config: Any) -> str:
    return enum_name(config, "resize_method")


def _channels(config: Any) -> int:
    return 1 if config.convert_to_grayscale else 3


def _check_positive(where: str, config: Any, *fields: str) -> None:
    for field in fields:
        if getattr(config, field) <= 0:
            raise ConfigError(f"{where}: {field} is {getattr(config, field)}; it must be more than 0")
