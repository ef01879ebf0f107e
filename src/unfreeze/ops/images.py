"""Image preprocessing: decoding, resizing, padding, grayscale.

The Object Detection API resizes the images of a batch one by one in float32. Here a batch of equally large images is
resized by one operation, in uint8 if that is their type. The kernels are those of TensorFlow 1: `half_pixel_centers`
is false, and the results of BICUBIC are not clipped to 0..255. TensorFlow 1.15, 2.10 and 2.21 agree to the last bit on
all of them, in uint8 and float32, and on JPEG, PNG and GIF files; so nothing here depends on the generation of the
checkpoint.

Source: core/preprocessor.py, utils/shape_utils.py, utils/ops.py, data_decoders/tf_example_decoder.py.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from unfreeze.ops.sizes import Length, Size, arithmetic, float32, image_size, int32, quotient

# The operation for each ResizeType of the config.
RESIZE_METHODS: dict[str, Callable[..., tf.Tensor]] = {
    "BILINEAR": tf.raw_ops.ResizeBilinear,
    "NEAREST_NEIGHBOR": tf.raw_ops.ResizeNearestNeighbor,
    "BICUBIC": tf.raw_ops.ResizeBicubic,
    "AREA": tf.raw_ops.ResizeArea,
}

# Their sum is 0.9999, so it matters that they are applied at the same step as in the Object Detection API.
GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)


def true_image_shapes(images: tf.Tensor, channels: int) -> tf.Tensor:
    """[N, H, W, _] -> [N, 3] int32: H, W and `channels`, the same row for each image."""
    return tf.tile([tf.stack([*image_size(images), channels])], [tf.shape(images)[0], 1])


def resize(images: tf.Tensor, size: Size, *, resize_method: str, align_corners: bool = False) -> tf.Tensor:
    """[N, H, W, C] uint8 or float32 -> [N, *size, C] float32."""
    resized = RESIZE_METHODS[resize_method](images=images, size=tf.stack(size), align_corners=align_corners)
    return tf.cast(resized, tf.float32)


def keep_aspect_ratio_size(height: Length, width: Length, *, min_dimension: int, max_dimension: int) -> Size:
    """Returns the largest size of the same aspect ratio whose shorter and longer side fit the two dimensions.

    Computed in float32 with halves rounded to even: other arithmetic would give other sizes for some images.
    Source: resize_to_range, and preserve_aspect_ratio of tf.compat.v1.image.resize.
    """
    xp = arithmetic(height, width)
    landscape = height < width
    within_height = xp.where(landscape, min_dimension, max_dimension)
    within_width = xp.where(landscape, max_dimension, min_dimension)
    scale = xp.minimum(quotient(within_height, height), quotient(within_width, width))
    return int32(xp.round(scale * float32(height))), int32(xp.round(scale * float32(width)))


def conditional_shape_size(height: Length, width: Length, *, condition: str, size_threshold: int) -> Size:
    """Returns a size of the same aspect ratio.

    GREATER shrinks a longer side above `size_threshold` to it; SMALLER enlarges a shorter side below it. Computed in
    float32 and truncated, so a side can be one pixel short of the threshold.
    Source: resize_to_max_dimension, resize_to_min_dimension.
    """
    xp = arithmetic(height, width)
    if condition == "GREATER":
        side = xp.maximum(height, width)
        target = xp.minimum(side, size_threshold)
    else:
        side = xp.minimum(height, width)
        target = xp.maximum(side, size_threshold)
    ratio = quotient(target, side)
    return int32(float32(height) * ratio), int32(float32(width) * ratio)


def multiple_size(height: Length, width: Length, *, multiple: int) -> Size:
    """Returns the smallest size, not below this one, whose sides are multiples of `multiple`."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad(images: tf.Tensor, size: Size, per_channel_pad_value: Sequence[float] = (0.0,)) -> tf.Tensor:
    """[N, H, W, C] -> [N, *size, C]: rows added below, columns to the right; one value, or one for each channel."""
    height, width = image_size(images)
    paddings = [[0, 0], [0, size[0] - height], [0, size[1] - width]]
    if len(set(per_channel_pad_value)) == 1:
        padded = tf.pad(images, [*paddings, [0, 0]], constant_values=per_channel_pad_value[0])
    else:
        channels = zip(tf.unstack(images, axis=-1), per_channel_pad_value, strict=True)
        padded = tf.stack([tf.pad(channel, paddings, constant_values=value) for channel, value in channels], axis=-1)
    return tf.ensure_shape(padded, [None, *(None if tf.is_tensor(n) else n for n in size), images.shape[-1]])


def grayscale(images: tf.Tensor) -> tf.Tensor:
    """[N, H, W, 3] -> [N, H, W, 1]."""
    return tf.reduce_sum(images * tf.constant(GRAY_WEIGHTS), axis=-1, keepdims=True)


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """[] string -> [H, W, 3] uint8: decodes a JPEG, PNG, GIF (its first frame) or BMP file."""
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def decode_tf_example(serialized: tf.Tensor) -> tf.Tensor:
    """[] string, a tf.train.Example -> [H, W, 3] uint8: decodes the file in `image/encoded`.

    Its content shows its format, so `image/format` is not read. (The Object Detection API reads it, only to look for
    "raw", which does not work there: raw pixels have no height and width.)
    """
    features = tf.io.parse_single_example(serialized, {"image/encoded": tf.io.FixedLenFeature([], tf.string)})
    return decode_image(features["image/encoded"])


def decoded_batch(
    strings: tf.Tensor,
    decode: Callable[[tf.Tensor], tf.Tensor],
    preprocess: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    shape: Sequence[int | None],
) -> tuple[tf.Tensor, tf.Tensor]:
    """[N] string -> [N, *shape] float32, [N, 3] int32: each image is decoded and preprocessed separately.

    So the images may differ in size, if `preprocess` makes their shapes equal.

    Args:
        strings: inputs of `decode`.
        decode: [] string -> [H, W, 3] uint8.
        preprocess: [1, H, W, 3] uint8 -> [1, *shape] float32, [1, 3] int32 (the true image shapes).
        shape: (height, width, channels) after `preprocess`, None where it is not known.
    """

    def preprocessed_image(string: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, true_shapes = preprocess(decode(string)[tf.newaxis])
        return images[0], true_shapes[0]

    signature = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec([3], tf.int32))
    images, true_shapes = tf.map_fn(preprocessed_image, strings, fn_output_signature=signature, parallel_iterations=32)
    return images, true_shapes
